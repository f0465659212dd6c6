//! Who wrote what: Ed25519 (RFC 8032) signatures of statements.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use farshore_core::{Entropy, HostId, LineageId, PackId, RunId, SecretBytes, VaultId};

use super::Hash;

/// Bytes of a signature.
pub(crate) const SIGNATURE_BYTES: usize = 64;

/// A signature.
pub(crate) type Signature = [u8; SIGNATURE_BYTES];

/// What is signed: no two of them have the same bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Statement {
    /// A commit: its boxes and its packed JSON.
    Commit { lineage: LineageId, sequence: u64, author: HostId, boxes: Hash, body: Hash },
    /// An entry of a run's journal.
    RunEntry { run: RunId, number: u64, author: HostId, entry: Hash },
    /// A ring.
    Ring { number: u64, body: Hash },
    /// The public keys of a host.
    Enrolment { host: HostId, body: Hash },
    /// What is granted to a host.
    Grant { host: HostId, number: u64, body: Hash },
    /// Before which commit others may have been deleted.
    Boundary { lineage: LineageId, number: u64, author: HostId, commit: u64, deleted_to: u64 },
    /// What was proven of a point.
    Proof { lineage: LineageId, point: u64, proof: PackId, author: HostId, body: Hash },
}

impl Statement {
    pub(super) fn encode(&self, vault: VaultId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(160);
        let mut put = |name: &[u8], fields: &[&[u8]]| {
            bytes.extend_from_slice(b"farshore/1/");
            bytes.extend_from_slice(name);
            bytes.push(0);
            bytes.extend_from_slice(vault.as_bytes());
            fields.iter().for_each(|field| bytes.extend_from_slice(field));
        };
        match self {
            Self::Commit { lineage, sequence, author, boxes, body } => {
                put(b"commit", &[lineage.as_bytes(), &sequence.to_le_bytes(), author.as_bytes(), boxes, body])
            }
            Self::RunEntry { run, number, author, entry } => {
                put(b"run", &[run.as_bytes(), &number.to_le_bytes(), author.as_bytes(), entry])
            }
            Self::Ring { number, body } => put(b"ring", &[&number.to_le_bytes(), body]),
            Self::Enrolment { host, body } => put(b"enrolment", &[host.as_bytes(), body]),
            Self::Grant { host, number, body } => put(b"grant", &[host.as_bytes(), &number.to_le_bytes(), body]),
            Self::Boundary { lineage, number, author, commit, deleted_to } => put(
                b"boundary",
                &[
                    lineage.as_bytes(),
                    &number.to_le_bytes(),
                    author.as_bytes(),
                    &commit.to_le_bytes(),
                    &deleted_to.to_le_bytes(),
                ],
            ),
            Self::Proof { lineage, point, proof, author, body } => {
                put(b"proof", &[lineage.as_bytes(), &point.to_le_bytes(), proof.as_bytes(), author.as_bytes(), body])
            }
        }
        bytes
    }
}

/// A key that verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VerifyingKey([u8; 32]);

impl VerifyingKey {
    pub(crate) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether the holder of the signing key has signed this.
    pub(crate) fn verifies(&self, vault: VaultId, statement: &Statement, signature: &Signature) -> bool {
        self.verifies_bytes(&statement.encode(vault), signature)
    }

    pub(super) fn verifies_bytes(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

/// A key that signs.
#[derive(Debug, Clone)]
pub(crate) struct SigningKey {
    seed: SecretBytes,
    public: VerifyingKey,
}

impl SigningKey {
    /// The key of this seed.
    pub(crate) fn from_seed(seed: SecretBytes) -> Self {
        let public = pair(&seed).public_key().as_ref().try_into().expect("a public key has 32 bytes");
        Self { seed, public: VerifyingKey(public) }
    }

    /// A fresh key.
    pub(crate) fn random(entropy: &dyn Entropy) -> Self {
        Self::from_seed(SecretBytes::random(entropy))
    }

    pub(crate) fn seed(&self) -> &SecretBytes {
        &self.seed
    }

    pub(crate) fn public(&self) -> VerifyingKey {
        self.public
    }

    pub(crate) fn sign(&self, vault: VaultId, statement: &Statement) -> Signature {
        let signature = pair(&self.seed).sign(&statement.encode(vault));
        signature.as_ref().try_into().expect("a signature has 64 bytes")
    }
}

fn pair(seed: &SecretBytes) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(seed.expose()).expect("any 32 bytes are a seed")
}
