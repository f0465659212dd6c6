//! What the other side says, made fit for a sentence.

/// An answer is quoted up to so many characters.
const QUOTE_CHARACTERS_MAX: usize = 200;
/// What stands where a secret was repeated.
const HIDDEN: &str = "(hidden)";

/// The beginning of a text from outside, without control characters and without these secrets.
pub(crate) fn quote<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let mut text: String = text.chars().filter(|character| !character.is_control()).collect();
    for secret in secrets {
        if !secret.is_empty() {
            text = text.replace(secret, HIDDEN);
        }
    }
    text.trim().chars().take(QUOTE_CHARACTERS_MAX).collect()
}
