//! The one shape in which every error reaches the operator.
//!
//! ```text
//! error[FS1002]: the passphrase does not open this vault
//! caused by: ...
//! hint: ...
//! see: farshore explain FS1002
//! ```
//!
//! With `--json` it is one object on standard error: `code`, `message`, `causes`, `advice`, and for a configuration with
//! mistakes `problems`.

use std::{any::Any, error::Error, fmt::Write as _};

use farshore_core::{Code, Coded};
use serde::{Deserialize, Serialize};

use super::human::clean;
use crate::{
    config::problem::LocatedProblem,
    error::{CliError, Signal},
};

/// The most causes that are shown.
const CAUSES_MAX: usize = 16;

/// How a command that did not succeed ends, as an exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// It failed.
    Failed = 1,
    /// The command line or the configuration is wrong; nothing was done.
    Usage = 2,
    /// It ran to its end, but a check found damage, or not all of it went well.
    Findings = 3,
    /// SIGINT.
    Interrupted = 130,
    /// Nobody reads what it writes.
    BrokenPipe = 141,
    /// SIGTERM.
    Terminated = 143,
}

/// An error at the edge.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "Told")]
pub struct Failure {
    /// What can be looked up.
    pub code: Code,
    /// What happened.
    pub message: String,
    /// Why, from the nearest to the deepest cause. A cause that the line before it already told is left out.
    pub causes: Vec<String>,
    /// What to do next.
    pub advice: Option<String>,
    /// The places in the configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<LocatedProblem>,
    /// The exit status.
    #[serde(skip)]
    pub status: Status,
}

/// An error as another process tells it.
#[derive(Deserialize)]
struct Told {
    code: Code,
    message: String,
    causes: Vec<String>,
    advice: Option<String>,
    #[serde(default)]
    problems: Vec<LocatedProblem>,
}

impl From<Told> for Failure {
    fn from(Told { code, message, causes, advice, problems }: Told) -> Self {
        Self { code, message, causes, advice, problems, status: status_of(code) }
    }
}

impl<E: Coded + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::describe(&error)
    }
}

impl Failure {
    /// The error at the edge, of one that is still needed.
    pub fn describe<E: Coded + 'static>(error: &E) -> Self {
        let edge = (error as &dyn Any).downcast_ref::<CliError>();
        let problems = match edge {
            Some(CliError::ConfigurationWrong { problems, .. }) => problems.clone(),
            _ => Vec::new(),
        };
        let status = match edge {
            Some(CliError::Interrupted { signal: Signal::Interrupt, .. }) => Status::Interrupted,
            Some(CliError::Interrupted { signal: Signal::Terminate, .. }) => Status::Terminated,
            Some(CliError::OutputFailed { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => {
                Status::BrokenPipe
            }
            _ => status_of(error.code()),
        };
        let message = error.to_string();
        Self {
            code: error.code(),
            causes: causes(&message, error.source()),
            message,
            advice: error.advice(),
            problems,
            status,
        }
    }
}

fn status_of(code: Code) -> Status {
    let is_one_of = |numbers: &[u16]| numbers.iter().any(|number| Code::new(*number) == code);
    if is_one_of(&[3001, 6001, 6002, 6003, 6004, 6005, 6006, 6007, 6008, 6010, 6014, 6042]) {
        Status::Usage
    } else if is_one_of(&[6015, 6016, 6035, 6036, 6041]) {
        Status::Findings
    } else {
        Status::Failed
    }
}

fn causes(message: &str, mut source: Option<&(dyn Error + 'static)>) -> Vec<String> {
    let mut told = vec![message.to_owned()];
    while let Some(cause) = source
        && told.len() <= CAUSES_MAX
    {
        let text = cause.to_string();
        // Many errors repeat their cause in their own words' tail.
        if !told.last().is_some_and(|previous| previous.contains(&text)) {
            told.push(text);
        }
        source = cause.source();
    }
    told.split_off(1)
}

impl Failure {
    /// What happened and why, in a line.
    pub fn in_a_line(&self) -> String {
        let causes = self.causes.iter().map(String::as_str);
        std::iter::once(self.message.as_str()).chain(causes).collect::<Vec<_>>().join(": ")
    }

    /// The text for a person, each line ended. What others said is cleaned piece by piece, because the colours are control
    /// characters too.
    pub fn render(&self, style: &super::Style) -> String {
        let mut text = String::new();
        for problem in &self.problems {
            let _ = writeln!(text, "{}", clean(&problem.render()));
        }
        let _ = writeln!(text, "{}: {}", style.error(&format!("error[{}]", self.code)), clean(&self.message));
        for cause in &self.causes {
            let _ = writeln!(text, "caused by: {}", clean(cause));
        }
        if let Some(advice) = &self.advice {
            let _ = writeln!(text, "{}: {}", style.hint("hint"), clean(advice));
        }
        let _ = writeln!(text, "see: farshore explain {}", self.code);
        text
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::output::Style;

    #[test]
    fn a_cause_is_told_once() {
        let source = io::Error::new(io::ErrorKind::NotFound, "gone");
        let failure = Failure::from(CliError::OutputFailed { path: "/x".into(), source });
        assert_eq!(failure.causes, ["gone"]);
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {source}")]
        struct Outer {
            source: io::Error,
        }
        impl Coded for Outer {
            fn code(&self) -> Code {
                Code::new(3101)
            }
        }
        let failure = Failure::from(Outer { source: io::Error::other("inner") });
        assert_eq!((failure.message.as_str(), failure.causes.len()), ("outer: inner", 0));
        assert_eq!(failure.status, Status::Failed);
    }

    #[test]
    fn colours_stay_and_nothing_else_commands_the_terminal() {
        let failure = Failure::from(CliError::NotConfirmed { what: "a\u{1b}[2Jb".to_owned() });
        let told = failure.render(&Style { coloured: true });
        assert!(told.starts_with("\u{1b}[1m\u{1b}[31merror[FS6007]\u{1b}[0m: a\\u{1b}[2Jb"), "{told:?}");
    }

    #[test]
    fn a_status_follows_from_the_code() {
        let interrupted = CliError::Interrupted { signal: Signal::Terminate, left: "nothing was left behind" };
        assert_eq!(Failure::from(interrupted).status as u8, 143);
        assert_eq!(Failure::from(CliError::Damage { count: 2 }).status as u8, 3);
        assert_eq!(Failure::from(CliError::NobodyToAsk).status as u8, 2);
    }
}
