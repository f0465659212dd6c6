//! Boundaries: before which commit of a lineage others may have been deleted. See `log` for why they are needed.
//!
//! `lineages/<lineage>/boundaries/<8 digits>`, numbered from 1, created if absent, never deleted. The commits that they name
//! rise with their numbers, and so do the numbers up to which commits may have been deleted.
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | prologue of kind 11; its length is that of what is sealed, before sealing |
//! | rest | sealed: author (16), signature (64), number of the commit (8), number up to which commits may have been deleted (8) |

use farshore_core::{Entropy, HostId, LineageId};

use crate::{
    Error, Result, Store,
    keys::{Access, Power},
    seal::{Purpose, SEALED_OVERHEAD_BYTES, SIGNATURE_BYTES, Sealer, Statement},
    wire::{Kind, PROLOGUE_BYTES, Reader, length_u32, open_prologue, prologue},
};

const PLAIN_BYTES: usize = 16 + SIGNATURE_BYTES + 16;

/// The folder of a lineage's boundaries.
pub(crate) fn boundary_folder(lineage: LineageId) -> String {
    format!("lineages/{lineage}/boundaries")
}

/// The key of a boundary.
pub(crate) fn boundary_key(lineage: LineageId, number: u64) -> String {
    format!("{}/{number:08}", boundary_folder(lineage))
}

/// Before which commit others may have been deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Boundary {
    pub(crate) lineage: LineageId,
    pub(crate) number: u64,
    /// A commit that is there until a later boundary is.
    pub(crate) commit: u64,
    /// Commits after this one are all there; the numbers up to it may be free.
    pub(crate) deleted_to: u64,
}

impl Boundary {
    fn statement(&self, author: HostId) -> Statement {
        let Self { lineage, number, commit, deleted_to } = *self;
        Statement::Boundary { lineage, number, author, commit, deleted_to }
    }

    /// Its object.
    ///
    /// # Errors
    /// [`Error::VerificationFailed`].
    pub(crate) fn encode(&self, access: &Access, sealer: &Sealer, entropy: &dyn Entropy) -> Result<Vec<u8>> {
        let author = access.author();
        let mut plain = Vec::with_capacity(PLAIN_BYTES);
        plain.extend_from_slice(author.as_bytes());
        plain.extend_from_slice(&access.sign(&self.statement(author)));
        plain.extend_from_slice(&self.commit.to_le_bytes());
        plain.extend_from_slice(&self.deleted_to.to_le_bytes());
        let purpose = Purpose::Boundary { lineage: self.lineage, number: self.number };
        let mut bytes = prologue(Kind::Boundary, length_u32(plain.len())).to_vec();
        bytes.extend_from_slice(&sealer.seal(&boundary_key(self.lineage, self.number), purpose, &plain, entropy)?);
        Ok(bytes)
    }

    /// Reads one that is there.
    ///
    /// # Errors
    /// It is missing or damaged, or the store failed.
    pub(crate) async fn read(
        store: &Store,
        access: &Access,
        sealer: &Sealer,
        lineage: LineageId,
        number: u64,
    ) -> Result<Self> {
        let object = boundary_key(lineage, number);
        let missing =
            || Error::ObjectMissing { object: object.clone(), reason: "it was there a moment ago".to_owned() };
        let bytes_max = PROLOGUE_BYTES + SEALED_OVERHEAD_BYTES + PLAIN_BYTES;
        let bytes = store.read(&object, bytes_max).await?.ok_or_else(missing)?;
        let (length, sealed) = open_prologue(&object, Kind::Boundary, &bytes)?;
        let plain = sealer.open(&object, Purpose::Boundary { lineage, number }, sealed)?;
        let mut reader = Reader::new(&object, &plain);
        if usize::try_from(length) != Ok(PLAIN_BYTES) {
            return Err(reader.damaged("it has another length than it claims"));
        }
        let (author, signature) = (HostId::from_bytes(reader.array()?), reader.array()?);
        let boundary = Self { lineage, number, commit: reader.u64()?, deleted_to: reader.u64()? };
        reader.finish()?;
        if boundary.deleted_to >= boundary.commit {
            return Err(Error::damaged(object, "it names a commit that may have been deleted"));
        }
        access.verify(&object, author, &[Power::Pruner], &boundary.statement(author), &signature).await?;
        Ok(boundary)
    }
}
