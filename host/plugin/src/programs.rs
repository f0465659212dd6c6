//! Programs of the operator's, run from argument templates.
//!
//! ```toml
//! [sites.shelter.programs.drill.start-machine]
//! program = "/usr/bin/qemu-system-x86_64"
//! arguments = [
//!     "-name", "{name:name}", "-uuid", "{uuid:uuid}", "-m", "size={memory-mib:integer}M", "-nic", "none", "-daemonize",
//!     { each = "disks", arguments = ["-drive", "file={path:path},format=raw,if=virtio"] },
//! ]
//! timeout = "20s"
//! ```
//!
//! The component chooses a template and fills its slots. It cannot choose the program, add an argument, or put into a
//! slot what would become an option or another key of an option: every slot has a type whose values hold no comma, no
//! blank and no leading dash, and a `path` has to lie in a folder that is granted read-write in this mode. A slot fills
//! a part of one argument and never becomes two, because there is no shell.
//!
//! Literal braces are written `{{` and `}}`. In a repetition only the item's slots can be used.

mod fill;
mod run;

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) use self::{
    fill::{FillError, PathResolver},
    run::{Completion, RunError, run},
};

/// The templates of one site.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SiteTemplates {
    /// For looking.
    #[serde(default)]
    pub observe: Templates,
    /// For protecting.
    #[serde(default)]
    pub protect: Templates,
    /// For a test failover.
    #[serde(default)]
    pub drill: Templates,
    /// For a real failover.
    #[serde(default)]
    pub live: Templates,
}

impl SiteTemplates {
    /// The templates of one mode.
    pub const fn for_mode(&self, mode: crate::Mode) -> &Templates {
        match mode {
            crate::Mode::Observe => &self.observe,
            crate::Mode::Protect => &self.protect,
            crate::Mode::Drill => &self.drill,
            crate::Mode::Live => &self.live,
        }
    }
}

/// The templates of one site in one mode, by name.
pub type Templates = BTreeMap<String, Template>;

/// A program and how its arguments are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Template {
    /// The program's absolute path.
    #[serde(deserialize_with = "program_path")]
    pub program: PathBuf,
    /// Its arguments.
    #[serde(default)]
    pub arguments: Vec<Argument>,
    /// It is killed after this long: `"500ms"` to `"30s"`.
    #[serde(default = "timeout_default", with = "duration")]
    pub timeout: Duration,
}

fn program_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let text = String::deserialize(deserializer)?;
    match crate::grants::path_rule(&text) {
        Some(rule) => Err(serde::de::Error::custom(format!("{text:?} cannot be a program: {rule}"))),
        None => Ok(PathBuf::from(text)),
    }
}

const fn timeout_default() -> Duration {
    Duration::from_secs(20)
}

/// A duration as text with a unit.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::limits::PROGRAM_TIME_MAX;

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}ms", duration.as_millis()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number = |digits: &str| -> Option<u64> {
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
        };
        let milliseconds = match text.strip_suffix("ms") {
            Some(digits) => number(digits),
            None => text.strip_suffix('s').and_then(number).and_then(|seconds| seconds.checked_mul(1_000)),
        };
        let duration = milliseconds.map(Duration::from_millis);
        duration.filter(|duration| !duration.is_zero() && *duration <= PROGRAM_TIME_MAX).ok_or_else(|| {
            D::Error::custom(format!("{text:?} is not a program's timeout: expected \"1ms\" to \"30s\", with the unit"))
        })
    }
}

/// One argument, or arguments for each item of a repetition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected an argument or { each = \"...\", arguments = [...] }")]
pub enum Argument {
    /// One argument.
    One(Text),
    /// Arguments for each item.
    Each(Repeated),
}

/// Arguments that are repeated for each item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Repeated {
    /// The repetition's name.
    pub each: String,
    /// The arguments, with slots of the item.
    pub arguments: Vec<Text>,
}

/// A text with slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Slot { name: String, slot_type: SlotType },
}

/// What may fill a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotType {
    /// 1 to 128 of letters, digits, `.`, `_` and `-`, the first a letter or digit.
    Name,
    /// A UUID in lower case with dashes.
    Uuid,
    /// A number from 0 to 2^53 - 1, in decimal digits.
    Integer,
    /// The same, in bytes.
    Size,
    /// Six pairs of lower-case hexadecimal digits with colons.
    Mac,
    /// An absolute path below a folder that is granted read-write; it need not exist, but its folder must.
    Path,
}

impl SlotType {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Name, "name"),
        (Self::Uuid, "uuid"),
        (Self::Integer, "integer"),
        (Self::Size, "size"),
        (Self::Mac, "mac"),
        (Self::Path, "path"),
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Uuid => "uuid",
            Self::Integer => "integer",
            Self::Size => "size",
            Self::Mac => "mac",
            Self::Path => "path",
        }
    }
}

impl fmt::Display for SlotType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// A text of a template that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the argument {text:?} of a template is wrong: {rule}")]
pub struct TemplateError {
    /// The text, cut to 256 characters.
    pub text: String,
    /// What is wrong with it.
    pub rule: &'static str,
}

impl FromStr for Text {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let wrong = |rule| TemplateError { text: text.chars().take(256).collect(), rule };
        if text.chars().any(|character| character == '\0') {
            return Err(wrong("it has a zero byte"));
        }
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            literal.push_str(before);
            if let Some(after) = from.strip_prefix("{{") {
                literal.push('{');
                rest = after;
            } else if let Some(after) = from.strip_prefix("}}") {
                literal.push('}');
                rest = after;
            } else if let Some(inside) = from.strip_prefix('{') {
                let (slot, after) =
                    inside.split_once('}').ok_or_else(|| wrong("a { has no }; a literal { is written {{"))?;
                let (name, word) = slot.split_once(':').ok_or_else(|| wrong("a slot is written {name:type}"))?;
                let slot_type = SlotType::ALL.iter().find(|(_, known)| *known == word).map(|(slot_type, _)| *slot_type);
                let slot_type =
                    slot_type.ok_or_else(|| wrong("a slot's type is name, uuid, integer, size, mac or path"))?;
                if !crate::manifest::is_name(name) {
                    return Err(wrong("a slot's name is 1 to 64 of a-z, 0-9 and -"));
                }
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                }
                pieces.push(Piece::Slot { name: name.to_owned(), slot_type });
                rest = after;
            } else {
                return Err(wrong("a } has no {; a literal } is written }}"));
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }
}

impl fmt::Display for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Literal(text) => formatter.write_str(&text.replace('{', "{{").replace('}', "}}")),
            Piece::Slot { name, slot_type } => write!(formatter, "{{{name}:{slot_type}}}"),
        })
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
