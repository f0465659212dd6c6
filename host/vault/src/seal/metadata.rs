//! What is sealed under a key that both sides have: commits, map pages, directories, journals, rings.

use aws_lc_rs::constant_time;
use farshore_core::{Entropy, HostId, LineageId, PackId, RunId, SecretBytes, SessionId, VaultId};
use zeroize::Zeroizing;

use super::{COMMITMENT_BYTES, Hash, PARTS_BYTES, TAG_BYTES, decrypt, encrypt, expand, split_parts};
use crate::{
    Error, Result,
    wire::{FORMAT, MAGIC, length_u32},
};

const SALT_BYTES: usize = 32;

/// How many bytes sealing adds to metadata: salt, commitment, tag.
pub(crate) const SEALED_OVERHEAD_BYTES: usize = SALT_BYTES + COMMITMENT_BYTES + TAG_BYTES;

/// What a piece of metadata is, and where it belongs. It is authenticated with the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A commit, with the hash of the boxes that stand before it.
    Commit { lineage: LineageId, sequence: u64, boxes: Hash },
    /// A page of a disk's map.
    Page { lineage: LineageId, pack: PackId, offset: u32, level: u8, index: u64 },
    /// The directory of a data pack.
    Directory { lineage: LineageId, session: SessionId, pack: PackId, body_bytes: u32, body_hash: Hash },
    /// An entry of a run's journal.
    RunEntry { run: RunId, number: u64 },
    /// The ring: who may do what.
    Ring { number: u64 },
    /// The public keys of a host that has joined.
    Enrolment { host: HostId },
    /// Before which commit others may have been deleted.
    Boundary { lineage: LineageId, number: u64 },
    /// What a prune decided.
    Ledger { lineage: LineageId, judged: u64, ledger: PackId },
    /// The directory of moved frames and pages.
    Collection { lineage: LineageId, collection: PackId, body_bytes: u32, body_hash: Hash },
    /// What was proven of a point.
    Proof { lineage: LineageId, point: u64, proof: PackId },
    /// A part of a point that waits on its writer's host. It never comes into a store.
    Waiting { lineage: LineageId, file: PackId, part: u64 },
}

impl Purpose {
    /// Bytes that no other purpose has: a number for the variant, then fields of fixed length.
    pub(super) fn encode(&self, vault: VaultId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(160);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(vault.as_bytes());
        let mut put = |number: u8, fields: &[&[u8]]| {
            bytes.push(number);
            fields.iter().for_each(|field| bytes.extend_from_slice(field));
        };
        match self {
            Self::Commit { lineage, sequence, boxes } => put(1, &[lineage.as_bytes(), &sequence.to_le_bytes(), boxes]),
            Self::Page { lineage, pack, offset, level, index } => {
                put(2, &[lineage.as_bytes(), pack.as_bytes(), &offset.to_le_bytes(), &[*level], &index.to_le_bytes()])
            }
            Self::Directory { lineage, session, pack, body_bytes, body_hash } => {
                put(3, &[lineage.as_bytes(), session.as_bytes(), pack.as_bytes(), &body_bytes.to_le_bytes(), body_hash])
            }
            Self::RunEntry { run, number } => put(4, &[run.as_bytes(), &number.to_le_bytes()]),
            Self::Ring { number } => put(5, &[&number.to_le_bytes()]),
            Self::Enrolment { host } => put(6, &[host.as_bytes()]),
            Self::Boundary { lineage, number } => put(8, &[lineage.as_bytes(), &number.to_le_bytes()]),
            Self::Ledger { lineage, judged, ledger } => {
                put(9, &[lineage.as_bytes(), &judged.to_le_bytes(), ledger.as_bytes()])
            }
            Self::Collection { lineage, collection, body_bytes, body_hash } => {
                put(10, &[lineage.as_bytes(), collection.as_bytes(), &body_bytes.to_le_bytes(), body_hash])
            }
            Self::Proof { lineage, point, proof } => {
                put(11, &[lineage.as_bytes(), &point.to_le_bytes(), proof.as_bytes()])
            }
            Self::Waiting { lineage, file, part } => {
                put(12, &[lineage.as_bytes(), file.as_bytes(), &part.to_le_bytes()])
            }
        }
        bytes
    }
}

/// Seals and opens metadata under one key.
#[derive(Debug, Clone)]
pub(crate) struct Sealer {
    vault: VaultId,
    key: SecretBytes,
}

impl Sealer {
    /// What seals for this vault with this key.
    pub(super) fn new(vault: VaultId, key: SecretBytes) -> Self {
        Self { vault, key }
    }

    fn parts(&self, context: &[u8], salt: &[u8]) -> Zeroizing<[u8; PARTS_BYTES]> {
        expand(self.key.expose(), &[b"farshore/1/seal", salt, context])
    }

    /// Seals, and opens what was sealed to see that it is what was given.
    ///
    /// # Errors
    /// [`Error::VerificationFailed`] when it is not.
    pub(crate) fn seal(&self, object: &str, purpose: Purpose, plain: &[u8], entropy: &dyn Entropy) -> Result<Vec<u8>> {
        let context = purpose.encode(self.vault);
        let mut random = [0; 32];
        entropy.fill(&mut random);
        let salt_key = expand::<32>(self.key.expose(), &[b"farshore/1/salt"]);
        let mut hasher = blake3::Hasher::new_keyed(&salt_key);
        hasher.update(&random).update(&u64::from(length_u32(context.len())).to_le_bytes());
        let salt = *hasher.update(&context).update(plain).finalize().as_bytes();

        let parts = self.parts(&context, &salt);
        let (key, nonce, commitment) = split_parts(&parts);
        let mut sealed = Vec::with_capacity(plain.len() + SEALED_OVERHEAD_BYTES);
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(commitment);
        sealed.extend_from_slice(plain);
        let tag = encrypt(key, nonce, &context, &mut sealed[SALT_BYTES + COMMITMENT_BYTES..]);
        sealed.extend_from_slice(&tag);

        let problem = match self.open(object, purpose, &sealed) {
            Ok(opened) if *opened == plain => return Ok(sealed),
            Ok(_) => "its content differs".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(Error::VerificationFailed { object: object.to_owned(), problem })
    }

    /// Opens what [`Sealer::seal`] made for the same purpose.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is anything else.
    pub(crate) fn open(&self, object: &str, purpose: Purpose, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let damaged = |problem| Error::damaged(object, problem);
        let too_short = || damaged("it ends inside what is sealed");
        let (salt, rest) = sealed.split_at_checked(SALT_BYTES).ok_or_else(too_short)?;
        let (commitment, body) = rest.split_at_checked(COMMITMENT_BYTES).ok_or_else(too_short)?;
        if body.len() < TAG_BYTES {
            return Err(too_short());
        }
        let context = purpose.encode(self.vault);
        let parts = self.parts(&context, salt);
        let (key, nonce, expected) = split_parts(&parts);
        if constant_time::verify_slices_are_equal(expected, commitment).is_err() {
            return Err(damaged("it was not sealed for this place in this vault, or its bytes have changed"));
        }
        let mut plain = Zeroizing::new(body.to_vec());
        if !decrypt(key, nonce, &context, &mut plain) {
            return Err(damaged("its bytes have changed since it was sealed"));
        }
        Ok(plain)
    }
}
