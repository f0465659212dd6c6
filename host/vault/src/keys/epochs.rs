//! The private keys of an epoch that began after slots were made: who opens a slot that was there when it began can have
//! them, and nobody with an older kit can.
//!
//! `keys/epochs/<8 digits>/<id>`: the number of the epoch, and the first 16 bytes of BLAKE3 of its public keys, reading
//! before graph. So what an interrupted rotation left behind, or another administrator's, is in nobody's way.
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | prologue of kind 15; its length is that of what follows |
//! | each | slot id (16), a box for that slot: the reading key (32), the graph key (32) |
//!
//! It is not signed: the ring is, which names the public keys, and a private key belongs to one of them or is refused.

use farshore_core::{Entropy, SecretBytes, SlotId};
use zeroize::Zeroizing;

use super::{EpochSecrets, RingEpoch};
use crate::{
    Error, Result, Store,
    seal::{BOX_OVERHEAD_BYTES, BoxPurpose, MemberKeys, PrivateKey, PublicKey, stored_hash_of_parts},
    wire::{Kind, PROLOGUE_BYTES, Reader, hex, length_u32, open_prologue, prologue},
};

/// The most slots of a vault.
pub(crate) const SLOTS_MAX: usize = 64;

const BOX_BYTES: usize = 64 + BOX_OVERHEAD_BYTES;

/// The folder of what was made for an epoch.
fn epoch_folder(epoch: farshore_core::Epoch) -> String {
    format!("keys/epochs/{:08}", epoch.get())
}

/// The key of the object with the private keys of an epoch.
pub(crate) fn epoch_key(keys: &RingEpoch) -> String {
    let hash = stored_hash_of_parts([keys.reading().as_bytes().as_slice(), keys.graph().as_bytes()]);
    format!("{}/{}", epoch_folder(keys.epoch), hex::encode(&hash[..16]))
}

/// The object with an epoch's keys for these slots.
///
/// # Errors
/// [`Error::VerificationFailed`].
pub(crate) fn encode(
    member: &MemberKeys,
    keys: &EpochSecrets,
    slots: &[(SlotId, PublicKey)],
    entropy: &dyn Entropy,
) -> Result<Vec<u8>> {
    let object = epoch_key(&keys.public());
    let mut bytes = prologue(Kind::EpochKeys, length_u32(slots.len() * (16 + BOX_BYTES))).to_vec();
    let mut content = Zeroizing::new(keys.reading.secret().expose().to_vec());
    content.extend_from_slice(keys.graph.secret().expose());
    for (slot, receiving) in slots {
        let purpose = BoxPurpose::Epoch { slot: *slot, epoch: keys.epoch };
        bytes.extend_from_slice(slot.as_bytes());
        bytes.extend_from_slice(&receiving.seal(&object, member, purpose, &content, entropy)?);
    }
    Ok(bytes)
}

/// The private keys of an epoch, for who opened this slot; none if the object is not there.
///
/// # Errors
/// [`Error::Damaged`] when it has no box for the slot, or holds other keys than the ring's; or the store failed.
pub(crate) async fn read(
    store: &Store,
    member: &MemberKeys,
    of: &RingEpoch,
    slot: (SlotId, &PrivateKey),
) -> Result<Option<EpochSecrets>> {
    let object = epoch_key(of);
    let bytes_max = PROLOGUE_BYTES + SLOTS_MAX * (16 + BOX_BYTES);
    let Some(bytes) = store.read(&object, bytes_max).await? else { return Ok(None) };
    decode(&object, member, of, slot, &bytes).map(Some)
}

/// Takes the object apart.
///
/// # Errors
/// [`Error::Damaged`].
pub(crate) fn decode(
    object: &str,
    member: &MemberKeys,
    of: &RingEpoch,
    (slot, receiving): (SlotId, &PrivateKey),
    bytes: &[u8],
) -> Result<EpochSecrets> {
    let damaged = |problem: &str| Error::damaged(object, problem);
    let (length, rest) = open_prologue(object, Kind::EpochKeys, bytes)?;
    if usize::try_from(length) != Ok(rest.len()) {
        return Err(damaged("it has another length than it claims"));
    }
    let mut reader = Reader::new(object, rest);
    while !reader.rest().is_empty() {
        let (whose, sealed) = (SlotId::from_bytes(reader.array()?), reader.take(BOX_BYTES)?);
        if whose != slot {
            continue;
        }
        let opened = receiving.open(member, BoxPurpose::Epoch { slot, epoch: of.epoch }, sealed);
        let opened = opened.ok_or_else(|| damaged("the box for this slot does not open"))?;
        let (reading, graph) = opened.split_at_checked(32).ok_or_else(|| damaged("the box for this slot is short"))?;
        let key = |bytes: &[u8]| PrivateKey::from_secret(SecretBytes::new(bytes.try_into().ok()?));
        let (reading, graph) =
            key(reading).zip(key(graph)).ok_or_else(|| damaged("the box for this slot holds no keys"))?;
        let found = EpochSecrets { epoch: of.epoch, reading, graph };
        if found.public() != *of {
            return Err(damaged("its keys are not those that the ring names"));
        }
        return Ok(found);
    }
    Err(damaged("it has no box for the slot of this recovery kit"))
}
