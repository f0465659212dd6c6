//! What the holder of an open vault has: keys, a name to sign with, and the ring to judge others by.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use farshore_core::{Entropy, Epoch, HostId, HostName, LineageId, SecretBytes, SessionId, SlotId, VaultId};

use super::{
    Bundle, EpochSecrets, HostCredential, Kit, Power, Ring, Slot,
    boxes::{KeyBox, Recipient},
    grant::{EpochKeys, Grant},
    host::{Enrolment, enrolment_key},
    ring::RingHost,
};
use crate::{
    Context, Error, Result, Store,
    header::{HEADER_KEY, Header},
    seal::{
        BOX_OVERHEAD_BYTES, BoxPurpose, LineageSecrets, MemberKeys, PrivateKey, Sealer, SessionKey, Signature,
        SigningKey, Statement, VerifyingKey, stored_hash,
    },
};

/// The author of what the administrator writes.
const ADMINISTRATOR: HostId = HostId::from_bytes([0; 16]);

/// Bytes of a session's sealed secret: its epoch, and a box.
pub(crate) const SEALED_SECRET_BYTES: usize = 8 + 32 + BOX_OVERHEAD_BYTES;

/// What who opened a slot has.
#[derive(Debug, Clone)]
pub(crate) struct Administrator {
    /// What the slot holds. Epochs that began later are not in it.
    pub(crate) bundle: Bundle,
    pub(crate) slot: SlotId,
    /// Opens what was sealed for the slot later on.
    pub(crate) receiving: PrivateKey,
}

/// As whom the vault was opened.
#[derive(Debug)]
pub(crate) enum Holder {
    /// With the kit and the passphrase.
    Administrator(Box<Administrator>),
    /// As a host.
    Host { host: HostId, name: HostName, powers: Vec<Power>, signing: SigningKey, receiving: PrivateKey },
}

/// A host whose enrolment was read.
#[derive(Debug, Clone)]
struct Known {
    signing: VerifyingKey,
    /// To whose enrolment it belongs.
    invitation: [u8; 32],
}

type Epochs = BTreeMap<Epoch, EpochKeys>;

/// What the holder of an open vault has.
#[derive(Debug)]
pub(crate) struct Access {
    store: Store,
    pub(crate) member: MemberKeys,
    admin: VerifyingKey,
    pub(crate) holder: Holder,
    epochs: Mutex<Arc<Epochs>>,
    runs: Option<Sealer>,
    ring: Mutex<Arc<Ring>>,
    known: Mutex<BTreeMap<HostId, Known>>,
}

/// The keys of epochs that were granted. A rotation that was interrupted may have granted some that never came into use.
fn granted_epochs(grants: &[Grant], ring: &Ring) -> Epochs {
    let is_in_use = |keys: &EpochKeys| {
        ring.epochs.iter().any(|known| known.epoch == keys.epoch && known.graph() == keys.graph.public())
    };
    grants.iter().flat_map(Grant::epochs).filter(is_in_use).map(|keys| (keys.epoch, keys)).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Access {
    /// What the administrator has.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn administrator(
        store: Store,
        vault: VaultId,
        administrator: Administrator,
        ring: Ring,
    ) -> Result<Self> {
        let access = Self::of_slot(store, vault, administrator, Arc::new(ring));
        access.learn_epochs(&access.ring()).await?;
        Ok(access)
    }

    /// What the administrator has by the slot alone.
    fn of_slot(store: Store, vault: VaultId, administrator: Administrator, ring: Arc<Ring>) -> Self {
        let bundle = &administrator.bundle;
        let member = MemberKeys::new(vault, &bundle.member);
        let epochs = bundle.epochs.iter().map(|keys| (keys.epoch, EpochKeys::of(keys))).collect();
        Self {
            store,
            admin: bundle.admin.public(),
            epochs: Mutex::new(Arc::new(epochs)),
            runs: Some(Sealer::of_runs(vault, &bundle.runs)),
            member,
            holder: Holder::Administrator(Box::new(administrator)),
            ring: Mutex::new(ring),
            known: Mutex::default(),
        }
    }

    /// The same for another handle, on another store.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn reopen(&self, store: Store) -> Self {
        let administrator = self.as_administrator("to open it again").expect("it was opened with its kit");
        let access = Self::of_slot(store, self.vault(), administrator.clone(), self.ring());
        *lock(&access.epochs) = self.epochs();
        access
    }

    /// What opens with a kit and a passphrase. It takes the time of one key derivation.
    ///
    /// # Errors
    /// [`Error::WrongPassphrase`], [`Error::OtherVault`]; the vault is damaged, or the store failed.
    pub(crate) async fn with_kit(
        store: Store,
        header: &Header,
        kit: &Kit,
        passphrase: &farshore_core::Passphrase,
        context: &Context,
    ) -> Result<Self> {
        let other = || Error::OtherVault { what: "recovery kit", address: store.address().to_owned() };
        if kit.vault() != header.vault || kit.admin() != header.admin() {
            return Err(other());
        }
        // A slot never changes, so the kit's copy is as good as the store's object, and cannot be taken away.
        let bytes = kit.slot_object();
        let slot = Slot::parse("the slot in the recovery kit", bytes)?;
        if slot.vault != kit.vault() || slot.id != kit.slot() {
            return Err(Error::damaged("the slot in the recovery kit", "it is another one"));
        }
        let (passphrase, secret) = (passphrase.clone(), kit.secret().clone());
        let opened = context.workers.run(move || slot.open(&passphrase, &secret)).await??;
        let wrong = || Error::WrongPassphrase { address: store.address().to_owned() };
        let (bundle, receiving) = opened.ok_or_else(wrong)?;
        if bundle.admin.public() != header.admin() {
            return Err(other());
        }
        let member = MemberKeys::new(header.vault, &bundle.member);
        let ring = Ring::newest(&store, &member, &bundle.admin.public(), 1).await?;
        let hash = stored_hash(bytes);
        if !ring.slots.iter().any(|slot| slot.slot == kit.slot() && slot.hash == hash) {
            return Err(Error::KitRetired { address: store.address().to_owned() });
        }
        Self::administrator(store, header.vault, Administrator { bundle, slot: kit.slot(), receiving }, ring).await
    }

    /// What a host has that joined.
    ///
    /// # Errors
    /// [`Error::OtherVault`]; [`Error::JoinRefused`] when it never joined or is not invited any more; the vault is damaged,
    /// or the store failed.
    pub(crate) async fn with_credential(store: Store, header: &Header, credential: &HostCredential) -> Result<Self> {
        if credential.vault != header.vault || credential.admin != header.admin() {
            return Err(Error::OtherVault { what: "host credential", address: store.address().to_owned() });
        }
        let member = MemberKeys::new(header.vault, &credential.member);
        let ring = Ring::newest(&store, &member, &credential.admin, 1).await?;
        let refused = |why: &str| Error::JoinRefused { host: credential.name.clone(), why: why.to_owned() };
        let invited = ring.host(credential.host).ok_or_else(|| refused("it is not a host of the vault any more"))?;
        if invited.revoked.is_some() {
            return Err(Error::HostRevoked { host: credential.name.clone() });
        }
        let enrolment = Enrolment::read(&store, &member, invited).await?;
        if !enrolment.is_some_and(|enrolment| credential.is(&enrolment)) {
            return Err(refused("its credential was never enrolled; accept its join file again"));
        }
        let grants =
            Grant::read_all(&store, &member, &credential.admin, credential.host, &credential.receiving).await?;
        let runs = grants.iter().rev().find_map(Grant::runs);
        let holder = Holder::Host {
            host: credential.host,
            name: credential.name.clone(),
            powers: invited.powers.clone(),
            signing: credential.signing.clone(),
            receiving: credential.receiving.clone(),
        };
        Ok(Self {
            store,
            admin: credential.admin,
            epochs: Mutex::new(Arc::new(granted_epochs(&grants, &ring))),
            runs: runs.map(|secret| Sealer::of_runs(header.vault, &secret)),
            member,
            holder,
            ring: Mutex::new(Arc::new(ring)),
            known: Mutex::default(),
        })
    }

    /// The vault.
    pub(crate) fn vault(&self) -> VaultId {
        self.member.vault()
    }

    /// The newest ring that was read.
    pub(crate) fn ring(&self) -> Arc<Ring> {
        Arc::clone(&lock(&self.ring))
    }

    /// How an author is named for people.
    pub(crate) fn host_shown(&self, host: HostId) -> String {
        match self.ring().host(host) {
            _ if host == ADMINISTRATOR => "the administrator".to_owned(),
            // A name can have been another host's before.
            Some(known) => format!("host {} ({host})", known.name),
            None => format!("host {host}"),
        }
    }

    /// The private keys of epochs that the holder has.
    pub(crate) fn epochs(&self) -> Arc<Epochs> {
        Arc::clone(&lock(&self.epochs))
    }

    /// Reads the newest ring, and the keys of epochs that began since the last one was read.
    pub(crate) async fn read_ring(&self) -> Result<Arc<Ring>> {
        let known = self.ring().number;
        let ring = Arc::new(Ring::newest(&self.store, &self.member, &self.admin, known).await?);
        self.learn_epochs(&ring).await?;
        // Of two tasks that read side by side, the one that read the older ring may come last.
        let mut newest = lock(&self.ring);
        if ring.number >= newest.number {
            *newest = ring;
        }
        Ok(Arc::clone(&newest))
    }

    /// The objects with the keys of epochs that began after slots were made: a vault that could be opened may lack them.
    pub(crate) fn needed_objects(&self) -> Vec<(String, &'static str)> {
        let ring = self.ring();
        // The keys of the first epoch are in the slots. Those of later ones are too, of slots that were made since.
        let later = ring.epochs.iter().skip(1);
        later.map(|keys| (super::epochs::epoch_key(keys), "the keys of an epoch lie in it")).collect()
    }

    /// The keys of the objects without which nobody could read the vault: header, rings, keys of later epochs, and what verifies
    /// the hosts that joined. The flag says whether it must be there.
    pub(crate) fn own_objects(&self) -> Vec<(String, bool)> {
        let ring = self.ring();
        let rings = (1..=ring.number).map(|number| (super::ring_key(number), true));
        let hosts = ring.hosts.iter().map(|host| (enrolment_key(host.host), false));
        let epochs = ring.epochs.iter().map(|keys| (super::epochs::epoch_key(keys), false));
        std::iter::once((HEADER_KEY.to_owned(), true)).chain(rings).chain(hosts).chain(epochs).collect()
    }

    /// Looks for the keys of epochs that this handle lacks. What is damaged of them shows at what they would open.
    async fn learn_epochs(&self, ring: &Ring) -> Result<()> {
        let held = self.epochs();
        let lacking: Vec<_> = ring.epochs.iter().filter(|keys| !held.contains_key(&keys.epoch)).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let mut learnt = Epochs::new();
        match &self.holder {
            Holder::Administrator(administrator) => {
                let slot = (administrator.slot, &administrator.receiving);
                for keys in lacking {
                    match super::epochs::read(&self.store, &self.member, keys, slot).await {
                        Ok(Some(found)) => drop(learnt.insert(keys.epoch, EpochKeys::of(&found))),
                        Ok(None) => {}
                        Err(error) if error.is_damage() => tracing::warn!(%error, "keys of an epoch cannot be read"),
                        Err(error) => return Err(error),
                    }
                }
            }
            Holder::Host { host, receiving, .. } => {
                match Grant::read_all(&self.store, &self.member, &self.admin, *host, receiving).await {
                    Ok(grants) => learnt = granted_epochs(&grants, ring),
                    Err(error) if error.is_damage() => tracing::warn!(%error, "a grant of keys cannot be read"),
                    Err(error) => return Err(error),
                }
            }
        }
        // Another task may have learnt from a newer ring meanwhile: what it found stays.
        let mut epochs = lock(&self.epochs);
        learnt.extend(epochs.iter().map(|(epoch, keys)| (*epoch, keys.clone())));
        *epochs = Arc::new(learnt);
        Ok(())
    }

    /// Reads the ring if there is a newer one; whether there was.
    ///
    /// # Errors
    /// The ring is damaged, or the store failed.
    pub(crate) async fn refresh(&self) -> Result<bool> {
        let next = super::ring_key(self.ring().number.saturating_add(1));
        let has_changed = self.store.size(&next).await?.is_some();
        if has_changed {
            self.read_ring().await?;
        }
        Ok(has_changed)
    }

    /// That the store keeps conditions, and locks what is written if the vault is locked, and that the holder is still let
    /// write; whether the ring has changed since it was last read. Each write asks, after it has read what it builds on: so
    /// that a host that is revoked, an epoch that begins, or a lock is noticed by a process that runs for months.
    ///
    /// # Errors
    /// [`Error::ConditionsIgnored`], [`Error::BucketUnfit`], [`Error::HostRevoked`], [`Error::KitRetired`]; the ring is
    /// damaged, or the store failed.
    pub(crate) async fn may_write(&self, context: &Context) -> Result<bool> {
        self.store.prove_conditions(&*context.entropy).await?;
        let has_changed = self.refresh().await?;
        let ring = self.ring();
        if let Some(lock) = ring.lock {
            self.store.prove_lock_lately(lock, context.clock.monotonic()).await?;
        }
        self.is_let_write(&ring)?;
        Ok(has_changed)
    }

    /// That the holder may write, as this ring says.
    ///
    /// # Errors
    /// [`Error::HostRevoked`], [`Error::KitRetired`].
    pub(crate) fn is_let_write(&self, ring: &Ring) -> Result<()> {
        match &self.holder {
            Holder::Host { host, name, .. } => match ring.host(*host) {
                Some(invited) if invited.revoked.is_none() => Ok(()),
                _ => Err(Error::HostRevoked { host: name.clone() }),
            },
            Holder::Administrator(administrator) => {
                let retired = || Error::KitRetired { address: self.store.address().to_owned() };
                let is_listed = ring.slots.iter().any(|slot| slot.slot == administrator.slot);
                if is_listed { Ok(()) } else { Err(retired()) }
            }
        }
    }

    /// What the holder may do, as far as it has the keys.
    pub(crate) fn powers(&self) -> Vec<Power> {
        Power::ALL.into_iter().filter(|power| self.has(*power)).collect()
    }

    /// Whether the holder may do this, and has the keys for it.
    pub(crate) fn has(&self, power: Power) -> bool {
        let Holder::Host { powers, .. } = &self.holder else { return true };
        let has_keys = match power {
            Power::Replicator => true,
            Power::Recoverer => self.epochs().values().any(|keys| keys.reading.is_some()),
            Power::Controller => !self.epochs().is_empty() && self.runs.is_some(),
            Power::Pruner => !self.epochs().is_empty(),
        };
        powers.contains(&power) && has_keys
    }

    /// That the holder may do this. `doing` says what needs the power.
    ///
    /// # Errors
    /// [`Error::PowerMissing`].
    pub(crate) fn require(&self, power: Power, doing: &'static str) -> Result<()> {
        match &self.holder {
            Holder::Host { name, powers, .. } if !self.has(power) => {
                Err(Error::PowerMissing { host: name.clone(), power, doing, awaits_approval: powers.contains(&power) })
            }
            Holder::Host { .. } | Holder::Administrator(_) => Ok(()),
        }
    }

    /// What who opened a slot has.
    ///
    /// # Errors
    /// [`Error::NotAdministrator`].
    pub(crate) fn as_administrator(&self, doing: &'static str) -> Result<&Administrator> {
        match &self.holder {
            Holder::Administrator(administrator) => Ok(administrator),
            Holder::Host { name, .. } => Err(Error::NotAdministrator { host: name.clone(), doing }),
        }
    }

    /// All keys of the vault, those of later epochs too.
    ///
    /// # Errors
    /// [`Error::NotAdministrator`].
    pub(crate) fn bundle(&self, doing: &'static str) -> Result<Bundle> {
        let administrator = self.as_administrator(doing)?;
        let epochs = self.epochs();
        let keys = epochs.values().filter_map(|keys| {
            let (graph, reading) = (keys.graph.clone(), keys.reading.clone()?);
            Some(EpochSecrets { epoch: keys.epoch, reading, graph })
        });
        Ok(Bundle { epochs: keys.collect(), ..administrator.bundle.clone() })
    }

    /// What seals the journals of runs.
    ///
    /// # Errors
    /// [`Error::PowerMissing`].
    pub(crate) fn runs(&self, doing: &'static str) -> Result<&Sealer> {
        if self.runs.is_none() {
            self.require(Power::Controller, doing)?;
        }
        self.runs.as_ref().ok_or_else(|| Error::invalid("the keys of runs were not granted"))
    }

    /// Every private key that opens boxes.
    #[cfg(test)]
    pub(crate) fn private_keys(&self) -> Vec<PrivateKey> {
        let epochs = self.epochs();
        let of_epochs = epochs.values().flat_map(|keys| keys.reading.iter().chain([&keys.graph]));
        let own = match &self.holder {
            Holder::Host { receiving, .. } => receiving,
            Holder::Administrator(administrator) => &administrator.receiving,
        };
        of_epochs.chain([own]).cloned().collect()
    }

    /// As whom the holder signs.
    pub(crate) fn author(&self) -> HostId {
        match &self.holder {
            Holder::Administrator(_) => ADMINISTRATOR,
            Holder::Host { host, .. } => *host,
        }
    }

    /// Signs as the holder.
    pub(crate) fn sign(&self, statement: &Statement) -> Signature {
        match &self.holder {
            Holder::Administrator(administrator) => administrator.bundle.admin.sign(self.vault(), statement),
            Holder::Host { signing, .. } => signing.sign(self.vault(), statement),
        }
    }

    /// That a statement was signed by this author, who has one of these powers.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it was not; or the ring is damaged, or the store failed.
    pub(crate) async fn verify(
        &self,
        object: &str,
        author: HostId,
        powers: &[Power],
        statement: &Statement,
        signature: &Signature,
    ) -> Result<()> {
        let wrong = || Error::damaged(object, "its signature is not that of its author");
        if author == ADMINISTRATOR {
            let sound = self.admin.verifies(self.vault(), statement, signature);
            return if sound { Ok(()) } else { Err(wrong()) };
        }
        let unknown = || Error::damaged(object, format!("its author, host {author}, has not joined the vault"));
        let (invited, known) = self.known(author).await?.ok_or_else(unknown)?;
        if !known.signing.verifies(self.vault(), statement, signature) {
            return Err(wrong());
        }
        if !invited.counts(statement) {
            return Err(Error::damaged(object, format!("its author, host {author}, was revoked before it was made")));
        }
        if !powers.iter().any(|power| invited.has(*power)) {
            let names: Vec<_> = powers.iter().map(|power| power.name()).collect();
            let names = if names.is_empty() { "administrator".to_owned() } else { names.join(" or ") };
            let problem = format!("its author, host {author}, has not the power: {names}");
            return Err(Error::damaged(object, problem));
        }
        Ok(())
    }

    /// What the newest ring that was read says of a host, and with which key the host signs; none if it has not joined.
    async fn known(&self, host: HostId) -> Result<Option<(RingHost, Known)>> {
        let ring = self.ring();
        let ring = if ring.host(host).is_some() { ring } else { self.read_ring().await? };
        let Some(invited) = ring.host(host) else { return Ok(None) };
        let remembered = lock(&self.known).get(&host).filter(|known| known.invitation == invited.invitation).cloned();
        if let Some(known) = remembered {
            return Ok(Some((invited.clone(), known)));
        }
        let Some(enrolment) = Enrolment::read(&self.store, &self.member, invited).await? else { return Ok(None) };
        let known = Known { signing: enrolment.signing(), invitation: invited.invitation };
        lock(&self.known).insert(host, known.clone());
        Ok(Some((invited.clone(), known)))
    }

    /// The public keys of a host that has joined.
    pub(crate) async fn enrolment(&self, invited: &RingHost) -> Result<Option<Enrolment>> {
        Enrolment::read(&self.store, &self.member, invited).await
    }

    /// A fresh session with its secret sealed for readers.
    ///
    /// # Errors
    /// [`Error::VerificationFailed`], or the ring is damaged.
    pub(crate) fn seal_session(
        &self,
        lineage: LineageId,
        session: SessionId,
        entropy: &dyn Entropy,
    ) -> Result<(SessionKey, Vec<u8>)> {
        let secret = SecretBytes::random(entropy);
        let ring = self.ring();
        let (epoch, reading) = ring.current().map(|keys| (keys.epoch, keys.reading()))?;
        let purpose = BoxPurpose::Session { lineage, session, epoch };
        let mut sealed = epoch.get().to_le_bytes().to_vec();
        let object = format!("session {session}");
        sealed.extend_from_slice(&reading.seal(&object, &self.member, purpose, secret.expose(), entropy)?);
        Ok((SessionKey::new(self.vault(), lineage, session, secret), sealed))
    }

    /// The session whose sealed secret lies in this object; none if the holder cannot read.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub(crate) fn open_session(
        &self,
        object: &str,
        lineage: LineageId,
        session: SessionId,
        sealed: &[u8],
    ) -> Result<Option<SessionKey>> {
        let damaged = |problem: &str| Error::damaged(object, problem);
        let (front, sealed) =
            sealed.split_first_chunk::<8>().ok_or_else(|| damaged("it ends inside its session's secret"))?;
        let epoch = Epoch::new(u64::from_le_bytes(*front));
        let epochs = self.epochs();
        let Some(key) = epochs.get(&epoch).and_then(|keys| keys.reading.as_ref()) else {
            return match (&self.holder, self.ring().epochs.iter().find(|keys| keys.epoch == epoch)) {
                (Holder::Administrator(_), Some(keys)) => Err(Error::ObjectMissing {
                    object: super::epochs::epoch_key(keys),
                    reason: format!("{object} was sealed in epoch {epoch}, whose keys lie in it"),
                }),
                _ => Ok(None),
            };
        };
        let opened = key.open(&self.member, BoxPurpose::Session { lineage, session, epoch }, sealed);
        let opened = opened.ok_or_else(|| damaged("its session's secret does not open"))?;
        let secret = opened.as_slice().try_into().map_err(|_| damaged("its session's secret is too short"))?;
        Ok(Some(SessionKey::new(self.vault(), lineage, session, SecretBytes::new(secret))))
    }

    /// The secrets of a lineage that begins, sealed for all who may have them.
    ///
    /// # Errors
    /// [`Error::VerificationFailed`], or the ring is damaged.
    pub(crate) fn seal_lineage(
        &self,
        object: &str,
        lineage: LineageId,
        secrets: &LineageSecrets,
        entropy: &dyn Entropy,
    ) -> Result<Vec<KeyBox>> {
        let ring = self.ring();
        let current = ring.current()?;
        let mut to = vec![
            (Recipient::Graph(current.epoch), current.graph()),
            (Recipient::Reading(current.epoch), current.reading()),
        ];
        if let Holder::Host { host, receiving, .. } = &self.holder {
            to.push((Recipient::Host(*host), receiving.public()));
        }
        let seal = |(recipient, key): (Recipient, crate::seal::PublicKey)| {
            let content = secrets.encode(recipient.gets_content());
            let sealed = key.seal(object, &self.member, recipient.purpose(lineage), &content, entropy)?;
            Ok(KeyBox { recipient, sealed })
        };
        to.into_iter().map(seal).collect()
    }

    /// The secrets of a lineage, from the boxes of its first commit or from the box that was made for this host later; with
    /// as much as the holder may have. None if there is no box for the holder.
    ///
    /// # Errors
    /// [`Error::Damaged`] when a box does not open; or the store failed.
    pub(crate) async fn open_lineage(
        &self,
        object: &str,
        lineage: LineageId,
        boxes: &[KeyBox],
    ) -> Result<Option<LineageSecrets>> {
        let epochs = self.epochs();
        let key = |recipient: Recipient| match (recipient, &self.holder) {
            (Recipient::Graph(epoch), _) => epochs.get(&epoch).map(|keys| &keys.graph),
            (Recipient::Reading(epoch), _) => epochs.get(&epoch).and_then(|keys| keys.reading.as_ref()),
            (Recipient::Host(host), Holder::Host { host: own, receiving, .. }) => (host == *own).then_some(receiving),
            (Recipient::Host(_), Holder::Administrator(_)) => None,
        };
        let open = |found: &KeyBox, key: &PrivateKey, object: &str| {
            let opened = key.open(&self.member, found.recipient.purpose(lineage), &found.sealed);
            let secrets = opened.and_then(|opened| LineageSecrets::decode(&opened));
            secrets.ok_or_else(|| Error::damaged(object, "the box with the keys of its group does not open"))
        };
        let mut best = None;
        // Those with both secrets first.
        let mut ordered: Vec<_> = boxes.iter().collect();
        ordered.sort_by_key(|found| !found.recipient.gets_content());
        for found in ordered {
            if let Some(key) = key(found.recipient) {
                best = Some(open(found, key, object)?);
                break;
            }
        }
        if best.as_ref().is_some_and(|secrets| secrets.content.is_some()) {
            return Ok(best);
        }
        let Holder::Host { host, receiving, .. } = &self.holder else { return Ok(best) };
        match super::grant::read_lineage_box(&self.store, lineage, *host).await? {
            Some((object, found)) => open(&found, receiving, &object).map(Some),
            None => Ok(best),
        }
    }
}
