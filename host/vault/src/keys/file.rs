//! The files that people keep: recovery kits, join files, credentials. They are TOML with a line that says what they are.

use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{Error, Result, wire::FORMAT};

/// The most bytes of such a file.
const FILE_BYTES_MAX: usize = 256 * 1024;

/// Writes a file: comment lines, then the values.
pub(super) fn encode(comment: &str, value: &impl Serialize) -> Zeroizing<String> {
    let values = Zeroizing::new(toml::to_string(value).expect("hexadecimal texts and names can always be written"));
    let mut text = Zeroizing::new(String::with_capacity(comment.len() * 2 + values.len() + 64));
    for line in comment.lines() {
        text.push_str("# ");
        text.push_str(line);
        text.push('\n');
    }
    text.push_str(&values);
    text
}

/// Reads a file. `what` it should be stands in errors, which never show its content.
///
/// # Errors
/// [`Error::KeyFile`] when it is something else or of another format.
pub(super) fn decode<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T> {
    let refused = |problem: String| Error::KeyFile { what, problem };
    if text.len() > FILE_BYTES_MAX {
        return Err(refused(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    #[derive(serde::Deserialize)]
    struct Front {
        kind: String,
        format: u16,
    }
    // The parser's own message would quote the line, which may hold a secret.
    let front: Front = toml::from_str(text).map_err(|_| refused("it is not such a file, or not whole".to_owned()))?;
    if front.kind != what {
        return Err(refused(format!("it is a {}", front.kind)));
    }
    if front.format != FORMAT {
        return Err(refused(format!("it has format {}; this version reads format {FORMAT}", front.format)));
    }
    toml::from_str(text).map_err(|_| refused("a value in it is missing, unknown or not of its kind".to_owned()))
}
