//! `explain`: the page behind an error code.

use farshore_core::Code;
use serde::Serialize;

use crate::{codes, context::Context, error::CliError, output::Failure};

#[derive(Serialize)]
struct Explained<'a> {
    code: Code,
    title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<&'a str>,
}

/// Prints a page, or the list of all codes.
pub fn run(context: &Context, code: Option<&str>) -> Result<(), Failure> {
    let Some(text) = code else { return list(context) };
    let page = text.to_ascii_uppercase().parse().ok().and_then(codes::page);
    let page = page.ok_or_else(|| CliError::NoSuchCode { text: text.chars().take(64).collect() })?;
    let explained = Explained { code: page.code, title: page.title, page: Some(page.page) };
    context.output.result(&explained, || format!("{}: {}\n\n{}", page.code, page.title, page.page))?;
    Ok(())
}

fn list(context: &Context) -> Result<(), Failure> {
    let all: Vec<Explained<'_>> = codes::tables()
        .into_iter()
        .flat_map(|(_, _, pages)| pages)
        .map(|page| Explained { code: page.code, title: page.title, page: None })
        .collect();
    context.output.result(&all, || {
        let mut text = String::new();
        for (area, _, pages) in codes::tables() {
            text.push_str(&format!("{}{area}\n", if text.is_empty() { "" } else { "\n" }));
            text.extend(pages.iter().map(|page| format!("  {}  {}\n", page.code, page.title)));
        }
        text
    })?;
    Ok(())
}
