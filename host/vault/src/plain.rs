//! Objects that anybody may read, and that nobody trusts by themselves.
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | prologue; its length is that of the JSON |
//! | | JSON |
//! | 32 | BLAKE3 of everything before |

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Error, Result, seal,
    wire::{Kind, length_u32, open_prologue, prologue},
};

/// The object that says this. Nothing in it may be unable to be written as JSON.
pub(crate) fn encode(kind: Kind, value: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_vec(value).expect("ids, numbers and texts can always be written");
    let mut bytes = prologue(kind, length_u32(json.len())).to_vec();
    bytes.extend_from_slice(&json);
    let hash = seal::stored_hash(&bytes);
    bytes.extend_from_slice(&hash);
    bytes
}

/// What such an object says.
///
/// # Errors
/// It is damaged, or of another format.
pub(crate) fn parse<T: DeserializeOwned>(object: &str, kind: Kind, bytes: &[u8]) -> Result<T> {
    let (length, _) = open_prologue(object, kind, bytes)?;
    let damaged = |problem: String| Error::damaged(object, problem);
    let (front, hash) = bytes.split_last_chunk::<32>().ok_or_else(|| damaged("it ends before its hash".to_owned()))?;
    if seal::stored_hash(front) != *hash {
        return Err(damaged("its bytes do not have the hash that stands at its end".to_owned()));
    }
    let (_, json) = open_prologue(object, kind, front)?;
    if usize::try_from(length) != Ok(json.len()) {
        return Err(damaged("it has another length than it claims".to_owned()));
    }
    serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))
}
