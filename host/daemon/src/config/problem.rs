//! What is wrong with a configuration, and where.
//!
//! A problem is shown as `file:line:column`, with the line of the source under it. A line that may hold a secret is
//! never shown past its `=`: what an operator wrote into the wrong place must not travel on into a log.

use std::{fmt::Write as _, ops::Range};

use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, but the operator should look.
    Warning,
}

/// Something that is wrong, at a range of bytes of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The bytes of the file that it is about; an empty range at 0 for the file as a whole.
    pub span: Range<usize>,
    /// What is wrong, without a full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// What stands there may be a secret: its line is not shown past the `=`.
    pub secret: bool,
}

impl Problem {
    /// An error.
    pub fn error(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, span, message: message.into(), hint: None, secret: false }
    }

    /// A warning.
    pub fn warning(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, span, message: message.into(), hint: None, secret: false }
    }

    /// The same about what may be a secret.
    pub fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// The same with a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A problem with its place worked out, as it is shown and as `--json` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocatedProblem {
    /// How bad it is.
    pub severity: Severity,
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The line itself with what may be secret cut off, and how many characters of it are meant.
    #[serde(skip)]
    excerpt: Option<(String, usize)>,
}

impl LocatedProblem {
    /// Works out where a problem stands in the file's text.
    pub fn locate(problem: Problem, file: &str, text: &str) -> Self {
        let mut start = problem.span.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let (before, after) = text.split_at(start);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        let rest_of_line = after.split('\n').next().unwrap_or_default();
        let marked = rest_of_line.char_indices().take_while(|(at, _)| start + at < problem.span.end).count().max(1);
        let source = text.get(line_start..).unwrap_or_default().split('\n').next().unwrap_or_default().trim_end();
        let excerpt = (!problem.span.is_empty()).then(|| {
            let shown = hide_secret(source, problem.secret);
            let room = shown.chars().count().saturating_sub(column - 1).max(1);
            (shown, marked.min(room))
        });
        let Problem { severity, message, hint, .. } = problem;
        Self { severity, file: file.to_owned(), line, column, message, hint, excerpt }
    }

    /// The problem as a person reads it, ending with a line break.
    pub fn render(&self) -> String {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let mut text = format!("{}:{}:{}: {word}: {}\n", self.file, self.line, self.column, self.message);
        if let Some((source, marked)) = &self.excerpt {
            let number = self.line.to_string();
            let gutter = " ".repeat(number.len());
            // Tabs are kept in the pointer's indentation, so that it stands right at any tab width.
            let indentation: String =
                source.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let padding = " ".repeat((self.column - 1).saturating_sub(indentation.chars().count()));
            let pointer = "^".repeat(*marked);
            let _ = writeln!(text, "  {number} | {source}\n  {gutter} | {indentation}{padding}{pointer}");
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "  hint: {hint}");
        }
        text
    }
}

/// Parts of key names that make a value a likely secret.
const SECRET_WORDS: [&str; 18] = [
    "passphrase",
    "password",
    "secret",
    "token",
    "access-key",
    "account-key",
    "master-key",
    "encryption-key",
    "credential",
    "private-key",
    "sas-key",
    "api-key",
    "apikey",
    "passwd",
    "psk",
    "bearer",
    "cookie",
    "community",
];

/// Words that say so only where they are a whole part of a name: `auth` does, `authority` does not.
const SECRET_PARTS: [&str; 3] = ["pass", "pwd", "auth"];

/// Endings of names that say where a secret is, or what kind it has.
const HARMLESS_ENDINGS: [&str; 5] = ["-file", "-env", "-path", "-id", "-type"];

/// Whether a value under this key is likely a secret. A key that names a file, an environment variable, a folder of
/// them, a service or a kind of credential is not.
pub fn is_secret_key(key: &str) -> bool {
    let key = in_kebab_case(key);
    !key.ends_with("-url") && is_secret_name(&key)
}

/// The same for an adapter's setting. What an address holds is the adapter's matter, so it may be a secret too.
pub fn is_secret_setting(key: &str) -> bool {
    is_secret_name(&in_kebab_case(key))
}

fn is_secret_name(key: &str) -> bool {
    if HARMLESS_ENDINGS.iter().any(|ending| key.ends_with(ending)) {
        return false;
    }
    key == "sas"
        || SECRET_WORDS.iter().any(|word| key.contains(word))
        || key.split('-').any(|part| SECRET_PARTS.contains(&part))
}

/// `apiKey`, `API_KEY` and `"api key"` are all `api-key`.
fn in_kebab_case(key: &str) -> String {
    let mut kebab = String::new();
    let mut is_after_small = false;
    for character in key.trim().trim_matches(['"', '\'']).chars() {
        if is_after_small && character.is_ascii_uppercase() {
            kebab.push('-');
        }
        is_after_small = character.is_ascii_lowercase() || character.is_ascii_digit();
        kebab.push(if matches!(character, '_' | ' ' | '.') { '-' } else { character.to_ascii_lowercase() });
    }
    kebab
}

/// The line up to its `=` when what follows may be a secret; else the line.
fn hide_secret(line: &str, secret: bool) -> String {
    match line.split_once('=') {
        Some((key, _)) if secret || key.split('.').any(is_secret_key) => format!("{key}= (not shown)"),
        // A line without `=` may be the middle of a text that spans lines, which only a secret would do here.
        None if secret || line.contains("PRIVATE KEY") => "(not shown)".to_owned(),
        _ => line.to_owned(),
    }
}

/// The known word that this one was probably meant to be.
pub fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_points_at_its_characters() {
        let text = "a = 1\n\tü = \"x\"\n";
        let start = text.find('"').expect("a quote");
        let located = LocatedProblem::locate(Problem::error(start..start + 3, "no").hint("do"), "f.toml", text);
        assert_eq!((located.line, located.column), (2, 6));
        assert_eq!(located.render(), "f.toml:2:6: error: no\n  2 | \tü = \"x\"\n    | \t    ^^^\n  hint: do\n");
    }

    #[test]
    fn a_place_outside_the_text_is_moved_inside() {
        for span in [0..0, 1..900, 900..901, 4..4] {
            LocatedProblem::locate(Problem::error(span, "no"), "f.toml", "ü\nü").render();
        }
    }

    #[test]
    fn a_secret_is_not_shown_again() {
        for line in [
            "passphrase = \"hunter2\"",
            "secret-access-key=\"hunter2\"",
            "  options.access_key = 'hunter2",
            "master-key = \"hunter2\"",
        ] {
            let located = LocatedProblem::locate(Problem::error(0..line.len(), "no"), "f.toml", line);
            assert!(!located.render().contains("hunter2"), "{}", located.render());
        }
        for line in ["passphrase-file = \"/p\"", "access-key-id = \"AKIA\"", "credential-type = \"azure_cli\""] {
            let located = LocatedProblem::locate(Problem::error(0..4, "no"), "f.toml", line);
            assert!(located.render().contains(line), "{}", located.render());
        }
    }

    #[test]
    fn names_of_secrets_are_known() {
        let secret = [
            "api-key",
            "API_KEY",
            "apiKey",
            "apikey",
            "pass",
            "db_pass",
            "userPass",
            "passwd",
            "pwd",
            "root-pwd",
            "psk",
            "auth",
            "auth-header",
            "bearer",
            "session-cookie",
            "snmp-community",
            "secretAccessKey",
            "sas",
        ];
        for key in secret {
            assert!(is_secret_key(key) && is_secret_setting(key), "{key}");
        }
        let harmless = [
            "passthrough",
            "bypass",
            "compass",
            "authority",
            "author",
            "auth-type",
            "auth-url-file",
            "pwdx",
            "key",
            "keys",
            "api-key-file",
            "token-path",
            "access-key-id",
            "proxy-url",
            "machines",
            "socket-folder",
        ];
        for key in harmless {
            assert!(!is_secret_key(key) && !is_secret_setting(key), "{key}");
        }
        assert!(!is_secret_key("token-url") && is_secret_setting("token-url"));
    }

    #[test]
    fn a_slip_of_the_finger_is_understood() {
        assert_eq!(closest("recovery-sit", ["site", "recovery-site", "rpo"]), Some("recovery-site"));
        assert_eq!(closest("zebra", ["site", "recovery-site", "rpo"]), None);
    }
}
