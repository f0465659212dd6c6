//! How a host joins: the join file, its enrolment, its credential.
//!
//! The administrator's host makes a *join file*: who may connect, with which powers, until when. It opens nothing. The host
//! that gets it makes keys of its own, which never leave it, and says their public halves in its *enrolment*:
//! `keys/hosts/<host>`, created if absent, so that a join file works once. What the host keeps is its *credential*.
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | prologue of kind 8; its length is that of what is sealed, before sealing |
//! | rest | sealed with the member key: signature (64) with the join file's key, JSON |

use bytes::Bytes;
use farshore_core::{Entropy, HostId, HostName, SecretBytes, Timestamp, VaultId};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{
    Power, file,
    ring::{Ring, RingHost},
};
use crate::{
    Context, Error, Result, Store,
    header::Header,
    seal::{
        MemberKeys, PrivateKey, PublicKey, Purpose, SEALED_OVERHEAD_BYTES, SIGNATURE_BYTES, SigningKey, Statement,
        VerifyingKey, stored_hash,
    },
    store::Created,
    wire::{FORMAT, Kind, PROLOGUE_BYTES, length_u32, open_prologue, prologue},
};

/// The most bytes of an enrolment before sealing.
const ENROLMENT_BYTES_MAX: usize = 4096;

pub(crate) fn enrolment_key(host: HostId) -> String {
    format!("keys/hosts/{host}")
}

/// The public keys of a host that has joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Enrolment {
    host: HostId,
    #[serde(with = "crate::wire::hex")]
    signing: [u8; 32],
    #[serde(with = "crate::wire::hex")]
    receiving: [u8; 32],
    enrolled_at: Timestamp,
}

impl Enrolment {
    /// Verifies what the host writes.
    pub(crate) fn signing(&self) -> VerifyingKey {
        VerifyingKey::from_bytes(self.signing)
    }

    /// What is for the host is sealed to this.
    pub(crate) fn receiving(&self) -> PublicKey {
        PublicKey::from_bytes(self.receiving)
    }

    fn encode(&self, member: &MemberKeys, invitation: &SigningKey, entropy: &dyn Entropy) -> Result<Vec<u8>> {
        let json = serde_json::to_vec(self).expect("hexadecimal texts can always be written");
        let statement = Statement::Enrolment { host: self.host, body: stored_hash(&json) };
        let mut plain = invitation.sign(member.vault(), &statement).to_vec();
        plain.extend_from_slice(&json);
        let mut bytes = prologue(Kind::Enrolment, length_u32(plain.len())).to_vec();
        let purpose = Purpose::Enrolment { host: self.host };
        bytes.extend_from_slice(&member.ring.seal(&enrolment_key(self.host), purpose, &plain, entropy)?);
        Ok(bytes)
    }

    fn decode(member: &MemberKeys, invited: &RingHost, bytes: &[u8]) -> Result<Self> {
        let (host, object) = (invited.host, enrolment_key(invited.host));
        let (length, sealed) = open_prologue(&object, Kind::Enrolment, bytes)?;
        let plain = member.ring.open(&object, Purpose::Enrolment { host }, sealed)?;
        let damaged = |problem: &str| Error::damaged(&object, problem);
        if usize::try_from(length) != Ok(plain.len()) {
            return Err(damaged("it has another length than it claims"));
        }
        let (signature, json) =
            plain.split_first_chunk::<SIGNATURE_BYTES>().ok_or_else(|| damaged("it ends inside its signature"))?;
        let statement = Statement::Enrolment { host, body: stored_hash(json) };
        if !invited.invitation().verifies(member.vault(), &statement, signature) {
            return Err(damaged("it was not signed with the join file of this host"));
        }
        let enrolment: Self = serde_json::from_slice(json).map_err(|error| damaged(&error.to_string()))?;
        if enrolment.host != host {
            return Err(damaged("it contradicts its own name"));
        }
        if enrolment.enrolled_at > invited.expires_at {
            return Err(damaged("its host joined after the join file had expired"));
        }
        Ok(enrolment)
    }

    /// The enrolment of a host; none if it has not joined.
    ///
    /// # Errors
    /// It is damaged, or the store failed.
    pub(crate) async fn read(store: &Store, member: &MemberKeys, invited: &RingHost) -> Result<Option<Self>> {
        let bytes_max = PROLOGUE_BYTES + SEALED_OVERHEAD_BYTES + ENROLMENT_BYTES_MAX;
        let bytes = store.read(&enrolment_key(invited.host), bytes_max).await?;
        bytes.map(|bytes| Self::decode(member, invited, &bytes)).transpose()
    }
}

/// What lets one host join a vault, once, until it expires. It opens nothing.
#[derive(Debug, Clone)]
pub struct JoinFile {
    pub(super) vault: VaultId,
    pub(super) address: String,
    pub(super) admin: VerifyingKey,
    pub(super) host: HostId,
    pub(super) name: HostName,
    pub(super) powers: Vec<Power>,
    pub(super) expires_at: Timestamp,
    pub(super) member: SecretBytes,
    pub(super) invitation: SigningKey,
}

const JOIN_KIND: &str = "join file";

const JOIN_COMMENT: &str = "A Farshore join file: `farshore vault join accept FILE` lets one host join the vault, once, until it expires.\n\
    It opens nothing that the vault holds; still, send it on a way that only that host's keeper reads.";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct JoinText {
    kind: String,
    format: u16,
    vault: VaultId,
    address: String,
    #[serde(with = "crate::wire::hex")]
    admin_key: [u8; 32],
    host: HostId,
    name: HostName,
    powers: Vec<Power>,
    expires_at: Timestamp,
    #[serde(with = "crate::wire::hex")]
    member_key: [u8; 32],
    #[serde(with = "crate::wire::hex")]
    invitation_key: [u8; 32],
}

impl Drop for JoinText {
    fn drop(&mut self) {
        self.member_key.zeroize();
        self.invitation_key.zeroize();
    }
}

impl JoinFile {
    /// Reads a join file.
    ///
    /// # Errors
    /// [`Error::KeyFile`] when it is something else.
    pub fn parse(text: &str) -> Result<Self> {
        let text: JoinText = file::decode(JOIN_KIND, text)?;
        Ok(Self {
            vault: text.vault,
            address: text.address.clone(),
            admin: VerifyingKey::from_bytes(text.admin_key),
            host: text.host,
            name: text.name.clone(),
            powers: text.powers.clone(),
            expires_at: text.expires_at,
            member: SecretBytes::new(text.member_key),
            invitation: SigningKey::from_seed(SecretBytes::new(text.invitation_key)),
        })
    }

    /// The file's text.
    pub fn to_text(&self) -> Zeroizing<String> {
        let text = JoinText {
            kind: JOIN_KIND.to_owned(),
            format: FORMAT,
            vault: self.vault,
            address: self.address.clone(),
            admin_key: *self.admin.as_bytes(),
            host: self.host,
            name: self.name.clone(),
            powers: self.powers.clone(),
            expires_at: self.expires_at,
            member_key: *self.member.expose(),
            invitation_key: *self.invitation.seed().expose(),
        };
        file::encode(JOIN_COMMENT, &text)
    }

    /// The vault that can be joined.
    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// Where the vault was when the file was made.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The host.
    pub fn host(&self) -> HostId {
        self.host
    }

    /// What the host is called.
    pub fn name(&self) -> &HostName {
        &self.name
    }

    /// What the host may do.
    pub fn powers(&self) -> &[Power] {
        &self.powers
    }

    /// Until when it can be used.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }
}

/// What a host that has joined keeps: its own keys. It must be readable by Farshore alone.
#[derive(Debug, Clone)]
pub struct HostCredential {
    pub(super) vault: VaultId,
    pub(super) admin: VerifyingKey,
    pub(super) host: HostId,
    pub(super) name: HostName,
    pub(super) member: SecretBytes,
    pub(super) signing: SigningKey,
    pub(super) receiving: PrivateKey,
}

const CREDENTIAL_KIND: &str = "host credential";

const CREDENTIAL_COMMENT: &str = "The credential of one Farshore host for one vault. It is worth as much as the host's powers: nobody else may read it.";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct CredentialText {
    kind: String,
    format: u16,
    vault: VaultId,
    #[serde(with = "crate::wire::hex")]
    admin_key: [u8; 32],
    host: HostId,
    name: HostName,
    #[serde(with = "crate::wire::hex")]
    member_key: [u8; 32],
    #[serde(with = "crate::wire::hex")]
    signing_key: [u8; 32],
    #[serde(with = "crate::wire::hex")]
    receiving_key: [u8; 32],
}

impl Drop for CredentialText {
    fn drop(&mut self) {
        self.member_key.zeroize();
        self.signing_key.zeroize();
        self.receiving_key.zeroize();
    }
}

impl HostCredential {
    /// Fresh keys for the host that was invited with this file. Keep them before [`HostCredential::enrol`]: the file works
    /// once.
    pub fn new(join: &JoinFile, entropy: &dyn Entropy) -> Self {
        Self {
            vault: join.vault,
            admin: join.admin,
            host: join.host,
            name: join.name.clone(),
            member: join.member.clone(),
            signing: SigningKey::random(entropy),
            receiving: PrivateKey::random(entropy),
        }
    }

    /// Reads a credential.
    ///
    /// # Errors
    /// [`Error::KeyFile`] when it is something else.
    pub fn parse(text: &str) -> Result<Self> {
        let text: CredentialText = file::decode(CREDENTIAL_KIND, text)?;
        let refused = || Error::KeyFile { what: CREDENTIAL_KIND, problem: "a key in it is no key".to_owned() };
        Ok(Self {
            vault: text.vault,
            admin: VerifyingKey::from_bytes(text.admin_key),
            host: text.host,
            name: text.name.clone(),
            member: SecretBytes::new(text.member_key),
            signing: SigningKey::from_seed(SecretBytes::new(text.signing_key)),
            receiving: PrivateKey::from_secret(SecretBytes::new(text.receiving_key)).ok_or_else(refused)?,
        })
    }

    /// The file's text.
    pub fn to_text(&self) -> Zeroizing<String> {
        let text = CredentialText {
            kind: CREDENTIAL_KIND.to_owned(),
            format: FORMAT,
            vault: self.vault,
            admin_key: *self.admin.as_bytes(),
            host: self.host,
            name: self.name.clone(),
            member_key: *self.member.expose(),
            signing_key: *self.signing.seed().expose(),
            receiving_key: *self.receiving.secret().expose(),
        };
        file::encode(CREDENTIAL_COMMENT, &text)
    }

    /// The vault.
    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// The host.
    pub fn host(&self) -> HostId {
        self.host
    }

    /// What the administrator calls the host.
    pub fn name(&self) -> &HostName {
        &self.name
    }

    /// Joins the vault with the file that the host was invited with. Idempotent: a second call with the same credential
    /// succeeds if the first did.
    ///
    /// # Errors
    /// [`Error::JoinRefused`] when the file has expired, was used by another, or is not of this vault; or the vault is
    /// damaged, or the store failed.
    pub async fn enrol(&self, store: &Store, join: &JoinFile, context: &Context) -> Result<()> {
        let refused = |why: String| Error::JoinRefused { host: join.name.clone(), why };
        if join.host != self.host || join.vault != self.vault {
            return Err(refused("the credential is another host's".to_owned()));
        }
        let header = Header::read(store).await?;
        if header.vault != join.vault || header.admin() != join.admin {
            return Err(refused("the vault at the address is another one".to_owned()));
        }
        let member = MemberKeys::new(self.vault, &self.member);
        let ring = Ring::newest(store, &member, &self.admin, 1).await?;
        let invited = ring.host(self.host).ok_or_else(|| refused("its invitation was withdrawn".to_owned()))?;
        if invited.revoked.is_some() {
            return Err(refused("its invitation was withdrawn, or the host was revoked".to_owned()));
        }
        let enrolment = Enrolment {
            host: self.host,
            signing: *self.signing.public().as_bytes(),
            receiving: *self.receiving.public().as_bytes(),
            enrolled_at: context.clock.now(),
        };
        if let Some(found) = Enrolment::read(store, &member, invited).await? {
            self.compare(&found, join)?;
            return store.settle().await;
        }
        if enrolment.enrolled_at > invited.expires_at {
            return Err(refused(format!("its join file expired at {}", invited.expires_at)));
        }
        store.prove_conditions(&*context.entropy).await?;
        let bytes = enrolment.encode(&member, &join.invitation, &*context.entropy)?;
        match store.create(&enrolment_key(self.host), vec![Bytes::from(bytes)]).await? {
            Created::Mine => Ok(()),
            Created::Other => {
                let missing = || Error::damaged(enrolment_key(self.host), "it was there a moment ago");
                let found = Enrolment::read(store, &member, invited).await?.ok_or_else(missing)?;
                self.compare(&found, join)?;
                store.settle().await
            }
        }
    }

    fn compare(&self, found: &Enrolment, join: &JoinFile) -> Result<()> {
        if self.is(found) {
            return Ok(());
        }
        let why =
            "its join file was used already, with other keys; if not by this host, somebody else has it".to_owned();
        Err(Error::JoinRefused { host: join.name.clone(), why })
    }

    /// Whether an enrolment is that of this credential.
    pub(crate) fn is(&self, found: &Enrolment) -> bool {
        found.signing() == self.signing.public() && found.receiving() == self.receiving.public()
    }
}
