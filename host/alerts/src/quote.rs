//! What the other side says, made fit for a sentence.

/// An answer is quoted up to so many characters.
pub(crate) const QUOTE_CHARACTERS_MAX: usize = 200;
/// What stands where a secret was repeated.
const HIDDEN: &str = "(hidden)";

/// The beginning of a text from outside, without control characters and without these secrets.
pub(crate) fn quote<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = plain(text);
    for secret in secrets {
        if !secret.is_empty() {
            text = text.replace(secret, HIDDEN);
        }
    }
    text.trim().chars().take(QUOTE_CHARACTERS_MAX).collect()
}

/// A text without control characters.
pub(crate) fn plain(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_is_short_and_plain_and_shows_no_secret() {
        assert_eq!(quote("\u{1b}[2Jno\r\n ", []), "[2Jno");
        assert_eq!(quote(&"é".repeat(500), []), "é".repeat(QUOTE_CHARACTERS_MAX));
        assert_eq!(quote("you sent tok\u{0}en, token", ["token", ""]), "you sent (hidden), (hidden)");
        let long = "s".repeat(1_000);
        assert!(!quote(&format!("{}{long}", "a".repeat(150)), [long.as_str()]).contains("ss"));
    }
}
