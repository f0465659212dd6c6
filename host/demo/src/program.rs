//! Running a program to its end.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::error::{AtPath, DemoError};

/// Where programs are looked for: everywhere that a user's programs are, and where Debian keeps those for file systems.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of a failed program's words an error quotes, in bytes.
const ERRORS_QUOTED_BYTES_MAX: usize = 2_000;

/// The program of this name, if it is installed.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    SEARCH_PATH.split(':').map(|folder| Path::new(folder).join(program)).find(|path| path.is_file())
}

/// A command with nothing in its environment but what makes programs behave alike everywhere.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", SEARCH_PATH).env("LC_ALL", "C").env("MTOOLS_SKIP_CHECK", "1").stdin(Stdio::null());
    if let Some(home) = std::env::var_os("HOME") {
        command.env("HOME", home);
    }
    // A machine behind a proxy reaches its package mirror only through it.
    for name in ["http_proxy", "https_proxy", "no_proxy", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Runs the command and returns its standard output.
///
/// # Errors
/// It cannot be started, or it ends with anything but success.
pub(crate) fn output(command: &mut Command) -> Result<String, DemoError> {
    let result = command.output().at("start", command.get_program())?;
    if !result.status.success() {
        let errors = String::from_utf8_lossy(&result.stderr);
        return Err(DemoError::Program {
            command: describe(command),
            status: result.status,
            errors: last_bytes(&errors, ERRORS_QUOTED_BYTES_MAX).to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

/// Runs the command with a file as its standard input.
pub(crate) fn output_with_input(command: &mut Command, input: &Path) -> Result<String, DemoError> {
    command.stdin(File::open(input).at("open", input)?);
    output(command)
}

/// The command as an operator would type it, near enough to be recognised.
pub(crate) fn describe(command: &Command) -> String {
    let mut words: Vec<OsString> = vec![command.get_program().to_owned()];
    words.extend(command.get_args().map(OsStr::to_owned));
    words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The end of a text, at most this many bytes of it, cut between characters.
pub(crate) fn last_bytes(text: &str, bytes_max: usize) -> &str {
    let mut start = text.len().saturating_sub(bytes_max);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_program_is_named_with_its_words() {
        let error = output(command("sh").args(["-c", "echo something >&2; exit 3"])).expect_err("it fails");
        let text = error.to_string();
        assert!(text.contains("exit 3") && text.contains("something"), "{text}");
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(last_bytes("aéz", 2), "z");
        assert_eq!(last_bytes("aéz", 3), "éz");
        assert_eq!(last_bytes("aéz", 99), "aéz");
        assert_eq!(last_bytes("", 5), "");
    }
}
