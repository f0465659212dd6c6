//! Identities and counters, each its own type.
//!
//! An id is 16 random bytes, written as 32 lowercase hexadecimal digits. A [`RunId`] and a [`CaptureId`] begin with the
//! millisecond of their making, so that their text sorts by age; nothing may rely on that for correctness.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Clock, Entropy};

/// A text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind}: expected 32 hexadecimal digits")]
pub struct IdError {
    /// What was expected.
    pub kind: &'static str,
    /// What was found, cut to 64 characters.
    pub text: String,
}

fn decode_hex(kind: &'static str, text: &str) -> Result<[u8; 16], IdError> {
    let error = || IdError { kind, text: text.chars().take(64).collect() };
    let digits = text.as_bytes();
    if digits.len() != 32 {
        return Err(error());
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(error()),
        };
        *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
    }
    Ok(bytes)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The id with these bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The id's bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// A fresh random id.
            pub fn random(entropy: &dyn Entropy) -> Self {
                let mut bytes = [0; 16];
                entropy.fill(&mut bytes);
                Self(bytes)
            }

            /// A fresh id whose text sorts by the time of its making.
            pub fn timed(clock: &dyn Clock, entropy: &dyn Entropy) -> Self {
                let mut bytes = [0; 16];
                entropy.fill(&mut bytes);
                let milliseconds = clock.now().as_unix_milliseconds().max(0).unsigned_abs();
                bytes[..6].copy_from_slice(&milliseconds.to_be_bytes()[2..]);
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                decode_hex($kind, text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// Identifies a vault for ever, wherever its objects are copied.
    VaultId, "vault id"
);
id!(
    /// Identifies the sequence of recovery points of one group.
    LineageId, "lineage id"
);
id!(
    /// Identifies one writer's visit to a vault; its secret seals the frames born in it.
    SessionId, "session id"
);
id!(
    /// Names one stored object of frames. Random, so that a listing tells nothing.
    PackId, "pack id"
);
id!(
    /// Identifies one durable execution of a plan.
    RunId, "run id"
);
id!(
    /// Identifies a host that a vault's administrator has invited.
    HostId, "host id"
);
id!(
    /// Identifies one slot: a way to open a vault.
    SlotId, "slot id"
);
id!(
    /// One of the two addresses of a vault, whatever it is called.
    AddressId, "address id"
);
id!(
    /// Identifies one capture, minted by the host before the adapter is called.
    CaptureId, "capture id"
);

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The first of all.
            pub const FIRST: Self = Self(1);

            /// The counter with this value.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The counter's value.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The one after this. It panics past 2^64 - 1, which a writer of a commit each nanosecond reaches in 584 years.
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}

counter!(
    /// The number of a commit in its lineage: 1, 2, 3, without gaps.
    Sequence
);
counter!(
    /// The number of a pair of public keys of a vault, to which its sessions and lineages are sealed.
    Epoch
);
counter!(
    /// The fencing number of a lineage: it rises when the active side changes.
    Generation
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SeededEntropy, SystemClock};

    #[test]
    fn an_id_survives_text_and_json() {
        let id = VaultId::random(&SeededEntropy::new(7));
        assert_eq!(id.to_string().parse(), Ok(id));
        let json = serde_json::to_string(&id).expect("an id serializes");
        assert_eq!(serde_json::from_str::<VaultId>(&json).expect("and comes back"), id);
    }

    #[test]
    fn what_is_not_an_id_is_refused_by_name() {
        for text in ["", "00", "0123456789abcdef0123456789abcdeX", "0123456789ABCDEF0123456789ABCDEF", &"é".repeat(16)]
        {
            let error = RunId::from_str(text).expect_err("not an id");
            assert!(error.to_string().contains("is not a run id"), "{error}");
        }
    }

    #[test]
    fn timed_ids_sort_by_their_making() {
        struct Late;
        #[async_trait::async_trait]
        impl Clock for Late {
            fn now(&self) -> crate::Timestamp {
                crate::Timestamp::from_unix_milliseconds(SystemClock.now().as_unix_milliseconds() + 5_000)
            }
            fn monotonic(&self) -> std::time::Duration {
                SystemClock.monotonic()
            }
            async fn sleep(&self, _: std::time::Duration) {}
        }
        let entropy = SeededEntropy::new(1);
        assert!(RunId::timed(&SystemClock, &entropy).to_string() < RunId::timed(&Late, &entropy).to_string());
    }
}
