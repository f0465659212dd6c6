//! What of a lineage waits on its writer's host, because the store cannot be reached: only how it is sealed.
//!
//! Its key belongs to the lineage, like that of identities: whoever may write to the lineage can open what waits, and nobody
//! else, so that a host's disk tells no more than a store does. What waits is a *file* of numbered *parts*; each part opens at its
//! place in its file only.

use std::{fmt, sync::Arc};

use farshore_core::{Entropy, LineageId, PackId};
use zeroize::Zeroizing;

use crate::{
    Result,
    seal::{Purpose, Sealer},
};

/// Seals and opens what waits.
#[derive(Clone)]
pub struct WaitingSealer {
    sealer: Sealer,
    lineage: LineageId,
    entropy: Arc<dyn Entropy>,
}

impl fmt::Debug for WaitingSealer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WaitingSealer").field("lineage", &self.lineage).finish_non_exhaustive()
    }
}

impl WaitingSealer {
    pub(crate) const fn new(sealer: Sealer, lineage: LineageId, entropy: Arc<dyn Entropy>) -> Self {
        Self { sealer, lineage, entropy }
    }

    /// A random name for a file.
    pub fn file_id(&self) -> PackId {
        PackId::random(&*self.entropy)
    }

    /// Seals a part of a file, and opens it again to see that it is what was given.
    ///
    /// # Errors
    /// [`crate::Error::VerificationFailed`] when it is not.
    pub fn seal(&self, file: PackId, part: u64, plain: &[u8]) -> Result<Vec<u8>> {
        let purpose = Purpose::Waiting { lineage: self.lineage, file, part };
        self.sealer.seal(&format!("part {part} of what waits"), purpose, plain, &*self.entropy)
    }

    /// Opens a part of a file.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`] when it is anything else.
    pub fn open(&self, file: PackId, part: u64, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let purpose = Purpose::Waiting { lineage: self.lineage, file, part };
        self.sealer.open(&format!("part {part} of what waits"), purpose, sealed)
    }
}
