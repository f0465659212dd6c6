//! Names that people and platforms give to things.
//!
//! A group or a site is named by the operator: `[a-z0-9-]`, at most 64 characters, so that a name is safe in a path, a
//! tag and a command line. A machine or a disk is named by its platform, and a recovery
//! point by whoever asks for it: any printable text, at most 256 bytes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{LineageId, VaultId};

/// A text that cannot be the name of what it should name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} cannot name a {kind}: {rule}")]
pub struct NameError {
    /// What it should name.
    pub kind: &'static str,
    /// The text, cut to 64 characters.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

fn check_operator_name(kind: &'static str, text: &str) -> Result<(), NameError> {
    let allowed = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    let rule = match text.as_bytes() {
        [] => "it is empty",
        bytes if bytes.len() > 64 => "it has more than 64 characters",
        bytes if !bytes.iter().all(allowed) => "only a-z, 0-9 and - are allowed",
        [b'-', ..] | [.., b'-'] => "it begins or ends with -",
        _ => return Ok(()),
    };
    Err(NameError { kind, text: text.chars().take(64).collect(), rule })
}

fn check_platform_name(kind: &'static str, text: &str) -> Result<(), NameError> {
    let rule = match text {
        "" => "it is empty",
        _ if text.len() > 256 => "it has more than 256 bytes",
        _ if text.chars().any(char::is_control) => "it has a control character",
        _ => return Ok(()),
    };
    Err(NameError { kind, text: text.chars().take(64).collect(), rule })
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name with this text.
            ///
            /// # Errors
            /// The rule that the text breaks.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                $check($kind, &text)?;
                Ok(Self(text))
            }

            /// The name's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// The name of a group: machines of one site that are protected and recovered together.
    GroupName, "group", check_operator_name
);
name!(
    /// The name of a site: a place that runs machines.
    SiteName, "site", check_operator_name
);
name!(
    /// The name of a host: a machine that runs Farshore, as a vault's administrator calls it.
    HostName, "host", check_operator_name
);
name!(
    /// The name of an HTTP API that a site's component may ask, as the component and the operator call it.
    EndpointName, "endpoint", check_operator_name
);
name!(
    /// The name of a rule that says who is told what happens.
    AlertName, "alert", check_operator_name
);
name!(
    /// The name of a credential of a site.
    CredentialName, "credential", check_operator_name
);
name!(
    /// What an operator calls a recovery point that they asked for.
    PointLabel, "recovery point", check_platform_name
);
name!(
    /// What a platform calls a machine.
    MachineId, "machine", check_platform_name
);
name!(
    /// What a platform calls a disk of a machine.
    DiskId, "disk", check_platform_name
);

/// What every capture, disk and machine that Farshore makes on a platform carries, so that a crash leaves nothing
/// nameless behind: the vault and the lineage for which it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnerTag {
    /// The vault.
    pub vault: VaultId,
    /// The lineage of the group.
    pub lineage: LineageId,
}

impl fmt::Display for OwnerTag {
    /// 29 characters of `[a-z0-9-]`: `farshore-`, ten digits of each id, a dash between. Short, because platforms cut
    /// long names.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (vault, lineage) = (self.vault.to_string(), self.lineage.to_string());
        write!(formatter, "farshore-{}-{}", &vault[..10], &lineage[..10])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_rules() {
        for text in ["a", "orders-2", &"x".repeat(64)] {
            assert_eq!(GroupName::new(text).expect("a good name").as_str(), text);
        }
        for text in ["", "Orders", "a_b", "-a", "a-", "../etc", &"x".repeat(65)] {
            assert!(GroupName::new(text).is_err(), "{text:?}");
        }
        for text in ["", "a\nb", "\u{1b}[2J", &"x".repeat(257)] {
            assert!(DiskId::new(text).is_err(), "{text:?}");
        }
        assert!(serde_json::from_str::<SiteName>("\"Not a site\"").is_err());
    }

    #[test]
    fn an_owner_tag_is_short_and_plain() {
        let tag = OwnerTag { vault: VaultId::from_bytes([0xab; 16]), lineage: LineageId::from_bytes([0x12; 16]) };
        assert_eq!(tag.to_string(), "farshore-ababababab-1212121212");
    }
}
