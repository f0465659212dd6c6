//! Every error that an operator can see has a code and a page.
//!
//! Each crate declares its codes in a table of its own (`CODES`), with the page's Markdown beside it, and implements
//! [`Coded`] for its error type. The binary joins the tables; `farshore explain FS0123` prints a page. Ranges: FS1xxx
//! vault, FS2xxx component host, FS3xxx platform and transports, FS4xxx replication, FS5xxx failover, FS6xxx command
//! line and configuration.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The number of an error, written `FS0123`. A published code is never given another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(u16);

impl Code {
    /// The code with this number.
    ///
    /// # Panics
    /// When the number has more than four digits.
    pub const fn new(number: u16) -> Self {
        assert!(number <= 9999);
        Self(number)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FS{:04}", self.0)
    }
}

impl FromStr for Code {
    type Err = ();

    /// Takes `FS0123`, `fs123` and `123`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.strip_prefix("FS").or_else(|| text.strip_prefix("fs")).unwrap_or(text);
        digits.parse().ok().filter(|number| *number <= 9999).map(Self).ok_or(())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|()| serde::de::Error::custom(format!("{text:?} is no error code")))
    }
}

/// The page behind a code.
#[derive(Debug, Clone, Copy)]
pub struct CodePage {
    /// The code.
    pub code: Code,
    /// What happened, in a few words, without a full stop.
    pub title: &'static str,
    /// The page in Markdown: what happened, why, what to do. It does not repeat the title.
    pub page: &'static str,
}

/// Makes the table `CODES` of a crate: each number with its title, and its page in `codes/FSnnnn.md` of that crate. It is
/// used in a file right below the crate's `src`.
#[macro_export]
macro_rules! code_pages {
    ($(#[$meta:meta])* $($number:literal $title:literal),* $(,)?) => {
        $(#[$meta])*
        pub static CODES: &[$crate::CodePage] = &[$($crate::CodePage {
            code: $crate::Code::new($number),
            title: $title,
            page: include_str!(concat!("../codes/FS", $number, ".md")),
        }),*];
    };
}

/// An error that an operator can look up.
pub trait Coded: std::error::Error {
    /// Its code.
    fn code(&self) -> Code;

    /// What to do next, in one sentence, when more is known than the page says.
    fn advice(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_four_digits() {
        assert_eq!(Code::new(123).to_string(), "FS0123");
        for text in ["FS0123", "fs123", "123"] {
            assert_eq!(text.parse(), Ok(Code::new(123)));
        }
        for text in ["", "FS", "FS12345", "FS-1", "12a"] {
            assert_eq!(text.parse::<Code>(), Err(()), "{text:?}");
        }
    }
}
