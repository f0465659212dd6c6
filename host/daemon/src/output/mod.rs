//! What the operator sees: results on standard output, everything else on standard error.
//!
//! With `--json` standard output has one JSON document (or one a line, for what streams), and each line of standard error
//! is a JSON object: an error, or a warning with the key `warning`. Without it both are for people: tables, times with
//! their age, progress bars where standard error is a terminal and plain lines where it is not.

pub mod failure;
pub mod human;
pub mod progress;
pub mod repeats;
pub mod table;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    time::Duration,
};

use anstyle::AnsiColor;
use serde::Serialize;

pub use self::{
    failure::{Failure, Status},
    progress::Progress,
    repeats::Repeats,
    table::Table,
};
use crate::error::CliError;

/// A length of time as JSON tells it.
pub fn milliseconds(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    coloured: bool,
}

impl Style {
    /// For standard error: coloured on a terminal, unless the operator or `NO_COLOR` says no.
    pub fn for_standard_error(no_color: bool) -> Self {
        let refused = no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { coloured: !refused && !dumb && io::stderr().is_terminal() }
    }

    /// The word `error`.
    pub fn error(self, text: &str) -> String {
        self.paint(AnsiColor::Red, text)
    }

    /// The word `warning`.
    pub fn warning(self, text: &str) -> String {
        self.paint(AnsiColor::Yellow, text)
    }

    /// The word `hint`.
    pub fn hint(self, text: &str) -> String {
        self.paint(AnsiColor::Cyan, text)
    }

    fn paint(self, color: AnsiColor, text: &str) -> String {
        let style = color.on_default().bold();
        if self.coloured { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// Where a command's results and remarks go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Whether results are JSON.
    pub json: bool,
    /// How words on standard error look.
    pub style: Style,
}

impl Output {
    /// Writes the one result of a command.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn result<T: Serialize>(self, value: &T, human: impl FnOnce() -> String) -> Result<(), CliError> {
        let mut text = if self.json { pretty(value)? } else { human::clean(&human()) };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        write_out(&text)
    }

    /// Writes one line of a stream.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn line<T: Serialize>(self, value: &T, human: impl FnOnce() -> String) -> Result<(), CliError> {
        let text = if self.json { serde_json::to_string(value).map_err(unwritable)? } else { human::clean(&human()) };
        write_out(&format!("{text}\n"))
    }

    /// Writes what a terminal obeys.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn clear(self, sequence: &str) -> Result<(), CliError> {
        write_out(sequence)
    }

    /// Tells the operator something that is no result. Nothing with `--json`.
    pub fn remark(self, text: &str) {
        if !self.json {
            write_err(&format!("{}\n", human::clean(text)));
        }
    }

    /// Tells the operator to look at something, though nothing has failed.
    pub fn warn(self, text: &str) {
        if self.json {
            write_err(&format!("{}\n", serde_json::json!({ "warning": text })));
        } else {
            write_err(&format!("{}: {}\n", self.style.warning("warning"), human::clean(text)));
        }
    }

    /// Writes the error that ends a command.
    pub fn fail(self, failure: &Failure) {
        if failure.status == Status::BrokenPipe {
            return;
        }
        let text = match serde_json::to_string(failure) {
            Ok(json) if self.json => json + "\n",
            _ => failure.render(&self.style),
        };
        write_err(&text);
    }
}

fn pretty<T: Serialize>(value: &T) -> Result<String, CliError> {
    serde_json::to_string_pretty(value).map_err(unwritable)
}

fn unwritable(error: serde_json::Error) -> CliError {
    CliError::OutputFailed { path: PathBuf::from("standard output"), source: error.into() }
}

fn write_out(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|source| CliError::OutputFailed { path: PathBuf::from("standard output"), source })
}

fn write_err(text: &str) {
    // When standard error is gone there is nobody left to tell.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
