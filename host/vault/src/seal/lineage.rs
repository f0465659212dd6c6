//! The keys of a lineage: they belong to it, not to a host, and pass to its new writer when the direction changes.
//!
//! Two secrets, because two powers differ: who follows references (a controller) has the first; who writes or reads what
//! disks hold has both. Nobody can learn from the first whether a disk holds a content that is known.

use aws_lc_rs::constant_time;
use farshore_core::{Entropy, LineageId, SecretBytes, VaultId};
use zeroize::Zeroizing;

use super::{Hash, Sealer, expand, subkey};

/// The secrets of a lineage, as they are sealed for those who may have them.
#[derive(Debug, Clone)]
pub(crate) struct LineageSecrets {
    /// Leads to the key of commits, map pages and directories.
    pub(crate) metadata: SecretBytes,
    /// Leads to the keys of identities; none for who may not have it.
    pub(crate) content: Option<SecretBytes>,
}

impl LineageSecrets {
    /// Those of a lineage that begins.
    pub(crate) fn random(entropy: &dyn Entropy) -> Self {
        Self { metadata: SecretBytes::random(entropy), content: Some(SecretBytes::random(entropy)) }
    }

    /// As they are sealed: 32 or 64 bytes.
    pub(crate) fn encode(&self, with_content: bool) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(64));
        bytes.extend_from_slice(self.metadata.expose());
        if let Some(content) = self.content.as_ref().filter(|_| with_content) {
            bytes.extend_from_slice(content.expose());
        }
        bytes
    }

    /// What [`LineageSecrets::encode`] made; none if the length is another.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (metadata, rest) = bytes.split_first_chunk::<32>()?;
        let content = match rest {
            [] => None,
            rest => Some(SecretBytes::new(rest.try_into().ok()?)),
        };
        Some(Self { metadata: SecretBytes::new(*metadata), content })
    }

    /// The keys that they lead to.
    pub(crate) fn keys(&self, vault: VaultId, lineage: LineageId) -> LineageKeys {
        let place = [vault.as_bytes().as_slice(), lineage.as_bytes()];
        let key = |secret: &SecretBytes, name: &[u8]| {
            subkey(secret, &[b"farshore/1/lineage/".as_slice(), name, place[0], place[1]])
        };
        LineageKeys {
            metadata: Sealer::new(vault, key(&self.metadata, b"metadata")),
            waiting: self.content.as_ref().map(|content| Sealer::new(vault, key(content, b"waiting"))),
            content: self.content.as_ref().map(|content| ContentKeys {
                identity: key(content, b"identity"),
                frame_identity: key(content, b"frames"),
                check: *expand::<32>(
                    content.expose(),
                    &[b"farshore/1/lineage/".as_slice(), b"check", place[0], place[1]],
                ),
            }),
        }
    }
}

/// The keys of a lineage, as far as its holder has them.
#[derive(Debug, Clone)]
pub(crate) struct LineageKeys {
    /// Seals commits, map pages and directories.
    pub(crate) metadata: Sealer,
    /// Seals what waits on the writer's host; none for who may not have what disks hold.
    pub(crate) waiting: Option<Sealer>,
    /// Identifies chunks and frames; none for who may not.
    pub(crate) content: Option<ContentKeys>,
}

/// What identifies chunks and frames.
#[derive(Debug, Clone)]
pub(crate) struct ContentKeys {
    identity: SecretBytes,
    frame_identity: SecretBytes,
    check: Hash,
}

impl ContentKeys {
    /// The identity of a chunk: keyed BLAKE3 of its 65,536 bytes.
    pub(crate) fn identify(&self, chunk: &[u8]) -> Hash {
        *blake3::keyed_hash(self.identity.expose(), chunk).as_bytes()
    }

    /// The identity of a frame: keyed BLAKE3 of its chunks' identities.
    pub(crate) fn identify_frame(&self, chunks: &[Hash]) -> Hash {
        *blake3::keyed_hash(self.frame_identity.expose(), chunks.as_flattened()).as_bytes()
    }

    /// What the lineage's first commit says of these keys, so that a wrong one is found before it identifies anything.
    pub(crate) fn check(&self) -> Hash {
        self.check
    }

    /// Whether these are the keys of which the lineage's first commit says this.
    pub(crate) fn are(&self, check: &Hash) -> bool {
        constant_time::verify_slices_are_equal(&self.check, check).is_ok()
    }
}
