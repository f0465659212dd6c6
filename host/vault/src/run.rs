//! The journals of runs.
//!
//! An entry is the object `runs/<run>/<number of 8 digits>`, created if absent: of two hosts that go on with the same
//! run, one loses, and knows it. What an entry says is the failover engine's business.
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | prologue of kind 5; its length is that of what is sealed, before sealing |
//! | rest | sealed: author (16), signature (64), the entry |

use bytes::Bytes;
use farshore_core::{HostId, RunId};
use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    Error, Result, Vault,
    keys::Power,
    seal::{Purpose, SEALED_OVERHEAD_BYTES, SIGNATURE_BYTES, Statement, stored_hash},
    store::Created,
    wire::{Kind, PROLOGUE_BYTES, Reader, length_u32, open_prologue, prologue},
};

/// The most bytes that an entry of a run's journal may have. An adapter's state of 64 KiB must fit in, also several of
/// them and as base64 inside JSON.
pub const RUN_ENTRY_BYTES_MAX: usize = 1024 * 1024;

/// The most entries that a run's journal may have.
pub const RUN_ENTRIES_MAX: u64 = 65_536;

/// Bytes of an author's id and signature.
const AUTHOR_BYTES: usize = 16 + SIGNATURE_BYTES;

/// How often a journal is read anew that began while it was read.
const ENTRIES_SEARCHES_MAX: usize = 4;

/// How many entries are read side by side.
const ENTRIES_READ_AT_ONCE: usize = 8;

fn entry_key(run: RunId, number: u64) -> String {
    format!("runs/{run}/{number:08}")
}

impl Vault {
    /// Begins the journal of a run with its entry 1.
    ///
    /// # Errors
    /// [`Error::RunRace`] when the run has a journal already, [`Error::LimitExceeded`], or the store failed.
    pub async fn create_run(&self, run: RunId, first_entry: &[u8]) -> Result<()> {
        self.write_entry(run, 1, first_entry).await
    }

    /// Adds the entry of this number, from 2 on.
    ///
    /// # Errors
    /// [`Error::RunRace`] when another writer made that entry, [`Error::RunGap`] when the entry before it is not there,
    /// [`Error::LimitExceeded`], or the store failed.
    pub async fn append_run(&self, run: RunId, number: u64, entry: &[u8]) -> Result<()> {
        let before = number.checked_sub(1).filter(|before| *before > 0).ok_or(Error::RunGap { run, number })?;
        if self.0.store.size(&entry_key(run, before)).await?.is_none() {
            return Err(Error::RunGap { run, number });
        }
        self.write_entry(run, number, entry).await
    }

    async fn write_entry(&self, run: RunId, number: u64, entry: &[u8]) -> Result<()> {
        let access = &self.0.access;
        access.require(Power::Controller, "to write the journal of a run")?;
        if entry.len() > RUN_ENTRY_BYTES_MAX {
            let (found, limit) = (u64::from(length_u32(entry.len())), u64::from(length_u32(RUN_ENTRY_BYTES_MAX)));
            return Err(Error::LimitExceeded { what: "the entry of a run's journal, in bytes,", found, limit });
        }
        if number > RUN_ENTRIES_MAX {
            let what = "the number of entries of a run's journal";
            return Err(Error::LimitExceeded { what, found: number, limit: RUN_ENTRIES_MAX });
        }
        access.may_write(&self.0.context).await?;
        let key = entry_key(run, number);
        let author = access.author();
        let statement = Statement::RunEntry { run, number, author, entry: stored_hash(entry) };
        let mut plain = Vec::with_capacity(AUTHOR_BYTES + entry.len());
        plain.extend_from_slice(author.as_bytes());
        plain.extend_from_slice(&access.sign(&statement));
        plain.extend_from_slice(entry);
        let mut bytes = prologue(Kind::RunEntry, length_u32(plain.len())).to_vec();
        let sealer = access.runs("to write the journal of a run")?;
        bytes.extend_from_slice(&sealer.seal(
            &key,
            Purpose::RunEntry { run, number },
            &plain,
            &*self.0.context.entropy,
        )?);
        match self.0.store.create(&key, vec![Bytes::from(bytes)]).await? {
            Created::Mine => Ok(()),
            Created::Other => Err(Error::RunRace { run, number }),
        }
    }

    async fn read_entry(&self, run: RunId, number: u64) -> Result<Option<Bytes>> {
        Ok(self.read_signed_entry(run, number).await?.map(|(_, entry)| entry))
    }

    /// The number of a run's last entry, if this host wrote one of them. Those that are damaged are passed over.
    pub(crate) async fn last_entry_of(&self, run: RunId, host: HostId) -> Result<Option<u64>> {
        let mut took_part = false;
        let mut last = 0;
        for number in 1..=RUN_ENTRIES_MAX {
            match self.read_signed_entry(run, number).await {
                Ok(Some((author, _))) => took_part |= author == host,
                Ok(None) => break,
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
            last = number;
        }
        Ok(took_part.then_some(last))
    }

    async fn read_signed_entry(&self, run: RunId, number: u64) -> Result<Option<(HostId, Bytes)>> {
        let key = entry_key(run, number);
        let access = &self.0.access;
        let sealer = access.runs("to read the journals of runs")?;
        let bytes_max = PROLOGUE_BYTES + AUTHOR_BYTES + RUN_ENTRY_BYTES_MAX + SEALED_OVERHEAD_BYTES;
        let Some(bytes) = self.0.store.read(&key, bytes_max).await? else { return Ok(None) };
        let (length, sealed) = open_prologue(&key, Kind::RunEntry, &bytes)?;
        let plain = sealer.open(&key, Purpose::RunEntry { run, number }, sealed)?;
        if usize::try_from(length) != Ok(plain.len()) {
            return Err(Error::damaged(key, "it has another length than it claims"));
        }
        let mut reader = Reader::new(&key, &plain);
        let (author, signature) = (HostId::from_bytes(reader.array()?), reader.array()?);
        let entry = reader.rest();
        let statement = Statement::RunEntry { run, number, author, entry: stored_hash(entry) };
        access.verify(&key, author, &[Power::Controller], &statement, &signature).await?;
        Ok(Some((author, Bytes::copy_from_slice(entry))))
    }

    /// The entries of a run, in order.
    ///
    /// # Errors
    /// [`Error::RunMissing`] when it has none, [`Error::ObjectMissing`] when one is missing before others, an entry is
    /// damaged, or the store failed.
    pub async fn run_entries(&self, run: RunId) -> Result<Vec<Bytes>> {
        for _ in 1..ENTRIES_SEARCHES_MAX {
            if let Some(entries) = self.try_run_entries(run).await? {
                return Ok(entries);
            }
        }
        let reason = "there are later entries in the run's journal".to_owned();
        Err(Error::ObjectMissing { object: entry_key(run, 1), reason })
    }

    /// The same; none if the journal began while it was read.
    async fn try_run_entries(&self, run: RunId) -> Result<Option<Vec<Bytes>>> {
        let read = |number| async move { self.read_entry(run, number).await };
        let entries = stream::iter(1..=RUN_ENTRIES_MAX).map(read).buffered(ENTRIES_READ_AT_ONCE);
        let entries: Vec<Bytes> = entries
            .try_take_while(|entry| futures::future::ready(Ok(entry.is_some())))
            .try_filter_map(|entry| async { Ok(entry) })
            .try_collect()
            .await?;
        let next = u64::try_from(entries.len()).unwrap_or(u64::MAX).saturating_add(1);
        let past_end = |name: &str| name.parse::<u64>().is_ok_and(|number| number >= next);
        let last = entry_key(run, next.saturating_sub(1));
        if self.0.store.any_after(&format!("runs/{run}"), &last, past_end).await? {
            // It may have been written since it was found to be absent; what was read is then the journal of a moment ago.
            if self.0.store.size(&entry_key(run, next)).await?.is_some() {
                return Ok((!entries.is_empty()).then_some(entries));
            }
            let reason = "there are later entries in the run's journal".to_owned();
            return Err(Error::ObjectMissing { object: entry_key(run, next), reason });
        }
        if entries.is_empty() { Err(Error::RunMissing { run }) } else { Ok(Some(entries)) }
    }

    /// At most `limit` runs, newest first: a run's id begins with the time of its making.
    ///
    /// # Errors
    /// [`Error::PowerMissing`] for who could read none of them; or the store failed.
    pub async fn runs(&self, limit: usize) -> Result<Vec<RunId>> {
        self.0.access.runs("to read the journals of runs")?;
        let names = self.0.store.folders("runs").await?;
        Ok(names.iter().rev().filter_map(|name| name.parse().ok()).take(limit).collect())
    }
}
