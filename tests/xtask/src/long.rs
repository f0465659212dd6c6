//! Records the last long run in `tests/RESULTS-long.md`: what ran, on which kind of machine, and how it went.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::checkout::Checkout;
use crate::clock::words;
use crate::components::replace;
use crate::machine;
use crate::process;
use crate::stages::Stages;
use crate::suites::Suite;

/// What there is to say about where and what. No name of a host, a user or a folder.
#[derive(Debug)]
struct Setting {
    date: String,
    commit: String,
    machine: String,
    compiler: String,
}

/// Writes the record. `without_minio` says why the tests had no MinIO, if they had none.
pub fn record(
    checkout: &Checkout,
    suites: &[Suite],
    stages: &Stages,
    without_minio: Option<&str>,
    passed: bool,
) -> Result<()> {
    let path = checkout.path("tests/RESULTS-long.md");
    let stages: Vec<(String, String)> = stages.done().iter().map(|(name, took)| (name.clone(), words(*took))).collect();
    replace(&path, page(&setting(checkout)?, suites, &stages, without_minio, passed).as_bytes())?;
    eprintln!("\nRecorded in {}.", path.display());
    Ok(())
}

fn page(
    setting: &Setting,
    suites: &[Suite],
    stages: &[(String, String)],
    without_minio: Option<&str>,
    passed: bool,
) -> String {
    let verdict = if passed { "Everything passed." } else { "**Something failed.**" };
    let servers = without_minio.map_or("MinIO".to_owned(), |reason| format!("and no MinIO: {reason}"));
    let mut text = format!(
        "# The last long run\n\n`cargo xtask test --long` writes this page. {verdict}\n\n\
         - date: {}\n- commit: {}\n- machine: {}\n- compiler: {}\n\
         - S3 servers: moto, {}\n\n\
         | suite | passed | failed | seconds |\n| --- | ---: | ---: | ---: |\n",
        setting.date, setting.commit, setting.machine, setting.compiler, servers
    );
    for suite in suites {
        // Writing to a String does not fail.
        let _ = writeln!(text, "| {} | {} | {} | {:.2} |", suite.name, suite.passed, suite.failed, suite.seconds);
    }
    text.push_str("\n| stage | took |\n| --- | --- |\n");
    for (name, took) in stages {
        let _ = writeln!(text, "| {name} | {took} |");
    }
    text
}

fn setting(checkout: &Checkout) -> Result<Setting> {
    let ask = |program: &str, arguments: &[&str]| {
        process::answer(Command::new(program).args(arguments).current_dir(checkout.root()))
            .map(|answer| answer.trim().to_owned())
    };
    let date = ask("date", &["--utc", "+%Y-%m-%d %H:%M UTC"]).context("asking date for the date")?;
    // A tree that is no clone has no commit, and that is worth saying too.
    let commit = ask("git", &["describe", "--always", "--dirty"]).unwrap_or_else(|| "unknown".to_owned());
    let compiler = ask("rustc", &["--version"]).context("asking rustc for its version")?;
    let machine = machine::described();
    Ok(Setting { date, commit, machine, compiler })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_what_ran_where_and_how_it_went() {
        let setting = Setting {
            date: "2026-11-22 16:00 UTC".into(),
            commit: "1fd8f45".into(),
            machine: "2 cores".into(),
            compiler: "rustc 1.95.0".into(),
        };
        let suites = [Suite { name: "drill (tests/drill.rs)".into(), passed: 7, failed: 1, seconds: 61.5 }];
        let text = page(&setting, &suites, &[("clippy".into(), "12 s".into())], Some("no Go"), false);
        assert!(text.contains("| drill (tests/drill.rs) | 7 | 1 | 61.50 |\n"), "{text}");
        assert!(text.contains("| clippy | 12 s |\n"), "{text}");
        assert!(text.contains("**Something failed.**"), "{text}");
        assert!(text.contains("- commit: 1fd8f45\n"), "{text}");
        assert!(text.contains("- S3 servers: moto, and no MinIO: no Go\n"), "{text}");
    }
}
