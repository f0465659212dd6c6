//! The local journal of captures: a diary that lets a crash leave nothing behind on a platform.
//!
//! One file for each group and vault, in the host's state folder. It holds the captures that were begun and not yet known
//! to be released. An entry is written *before* the adapter is asked to begin, again whenever the adapter's state
//! changes, and removed after the adapter released it. Losing the file loses no recovery point: what it would have named
//! carries the owner's tag, and the next cycle finds it.
//!
//! The file is replaced by rename after it was synced, so that a crash leaves the old or the new one. A lock on a file
//! beside it keeps two processes of one host apart.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use farshore_core::{DiskId, GroupName, LineageId, Machine, MachineId, VaultId};
use farshore_platform::{AdapterState, CaptureRequest};
use serde::{Deserialize, Serialize};

use crate::ReplicationError;

/// More captures than this are never left over: each cycle releases the earlier ones first.
const ENTRIES_MAX: usize = 64;

/// A capture that may still exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalEntry {
    /// What was asked for.
    pub request: CaptureRequest,
    /// The adapter's newest state; none if it never answered.
    pub state: Option<AdapterState>,
    /// It became a point, and could not be released yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_committed: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    entries: Vec<JournalEntry>,
    /// Disks whose change tracking was found wrong, and that no point has compared since.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    distrusted: BTreeSet<(MachineId, DiskId)>,
}

/// The journal of one group, held by this process alone.
#[derive(Debug)]
pub struct CaptureJournal {
    path: PathBuf,
    content: Content,
    is_new: bool,
    _lock: File,
}

impl CaptureJournal {
    /// Opens the journal of a group and takes its lock.
    ///
    /// # Errors
    /// [`ReplicationError::Busy`] if another process has it; [`ReplicationError::Journal`] if it cannot be read.
    pub fn open(
        state_folder: &Path,
        vault: VaultId,
        lineage: LineageId,
        group: &GroupName,
    ) -> Result<Self, ReplicationError> {
        let folder = state_folder.join("captures").join(vault.to_string());
        let path = folder.join(format!("{lineage}.json"));
        let failed = |doing| {
            let path = path.clone();
            move |source| ReplicationError::Journal { path, doing, source }
        };
        fs::create_dir_all(&folder).map_err(failed("made"))?;
        let lock_path = path.with_extension("lock");
        let lock =
            File::options().create(true).truncate(false).write(true).open(&lock_path).map_err(failed("locked"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(ReplicationError::Busy { group: group.clone(), path: lock_path });
            }
            Err(TryLockError::Error(source)) => return Err(failed("locked")(source)),
        }
        let (content, is_new) = match fs::read(&path) {
            Ok(bytes) => {
                let content = serde_json::from_slice(&bytes).map_err(io::Error::from).map_err(failed("read"))?;
                (content, false)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Content::default(), true),
            Err(error) => return Err(failed("read")(error)),
        };
        Ok(Self { path, content, is_new, _lock: lock })
    }

    /// Whether captures may exist that no entry describes: the file was not there, or a begin was never answered.
    pub fn may_lack_captures(&self) -> bool {
        self.is_new || self.content.entries.iter().any(|entry| entry.state.is_none())
    }

    /// The captures that may still exist, oldest first.
    pub fn entries(&self) -> &[JournalEntry] {
        &self.content.entries
    }

    /// Remembers a capture, or its newer state. Durable when it returns.
    ///
    /// # Errors
    /// [`ReplicationError::Journal`]; the file is then as it was.
    pub fn remember(&mut self, entry: JournalEntry) -> Result<(), ReplicationError> {
        let entries = &mut self.content.entries;
        match entries.iter().position(|known| known.request.id == entry.request.id) {
            Some(index) => entries[index] = entry,
            None if entries.len() >= ENTRIES_MAX => {
                let source =
                    io::Error::other(format!("it already has {ENTRIES_MAX} captures that could not be released"));
                return Err(ReplicationError::Journal { path: self.path.clone(), doing: "extended", source });
            }
            None => entries.push(entry),
        }
        self.store()
    }

    /// Whether a disk's change tracking was found wrong, and no point has compared the disk since.
    pub fn distrusts(&self, machine: &MachineId, disk: &DiskId) -> bool {
        self.content.distrusted.contains(&(machine.clone(), disk.clone()))
    }

    /// A disk's change tracking was found wrong: until a point compares it, it is not believed. Durable when it returns.
    ///
    /// # Errors
    /// [`ReplicationError::Journal`]; the file is then as it was.
    pub fn distrust(&mut self, machine: &MachineId, disk: &DiskId) -> Result<(), ReplicationError> {
        if self.content.distrusted.insert((machine.clone(), disk.clone())) { self.store() } else { Ok(()) }
    }

    /// A point has compared all disks of these machines that were not believed. Durable when it returns.
    ///
    /// # Errors
    /// [`ReplicationError::Journal`]; the file is then as it was, and they are compared once more.
    pub fn trust_again(&mut self, machines: &[Machine]) -> Result<(), ReplicationError> {
        let before = self.content.distrusted.len();
        self.content.distrusted.retain(|(distrusted, _)| !machines.iter().any(|machine| machine.id == *distrusted));
        if self.content.distrusted.len() < before { self.store() } else { Ok(()) }
    }

    /// Forgets a capture that was released. Durable when it returns.
    ///
    /// # Errors
    /// [`ReplicationError::Journal`]; the file is then as it was.
    pub fn forget(&mut self, entry: &JournalEntry) -> Result<(), ReplicationError> {
        self.content.entries.retain(|known| known.request.id != entry.request.id);
        self.store()
    }

    fn store(&self) -> Result<(), ReplicationError> {
        let failed = |source| ReplicationError::Journal { path: self.path.clone(), doing: "written", source };
        let temporary = self.path.with_extension("new");
        let bytes = serde_json::to_vec_pretty(&self.content).map_err(io::Error::from).map_err(failed)?;
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            match self.path.parent() {
                Some(folder) => File::open(folder)?.sync_all(),
                None => Ok(()),
            }
        };
        write().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::{CaptureId, Consistency, MachineId};

    use super::*;

    fn entry(number: u8) -> JournalEntry {
        JournalEntry {
            request: CaptureRequest {
                id: CaptureId::from_bytes([number; 16]),
                owner: "farshore-test".to_owned(),
                machines: vec![MachineId::new("orders").expect("a name")],
                tracked: Vec::new(),
                consistency: Consistency::Crash,
                stall_limit_milliseconds: 250,
            },
            state: None,
            is_committed: false,
        }
    }

    fn open(folder: &Path) -> Result<CaptureJournal, ReplicationError> {
        let group = GroupName::new("orders").expect("a name");
        CaptureJournal::open(folder, VaultId::from_bytes([1; 16]), LineageId::from_bytes([2; 16]), &group)
    }

    #[test]
    fn what_was_remembered_is_there_after_a_crash() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = open(folder.path()).expect("a new journal");
        journal.remember(entry(1)).expect("room");
        journal.remember(entry(2)).expect("room");
        journal.remember(JournalEntry { state: Some(AdapterState(vec![7])), ..entry(1) }).expect("room");
        journal.forget(&entry(2)).expect("room");
        drop(journal);
        let journal = open(folder.path()).expect("the same journal");
        assert_eq!(journal.entries(), [JournalEntry { state: Some(AdapterState(vec![7])), ..entry(1) }]);
    }

    #[test]
    fn a_second_process_is_refused_and_a_damaged_file_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = open(folder.path()).expect("a new journal");
        assert!(matches!(open(folder.path()), Err(ReplicationError::Busy { .. })));
        journal.remember(entry(1)).expect("room");
        let path = journal.path.clone();
        drop(journal);
        fs::write(&path, b"{\"entries\": [").expect("damage it");
        let error = open(folder.path()).expect_err("a damaged journal");
        assert!(error.to_string().contains("cannot be read"), "{error}");
    }

    #[test]
    fn a_journal_does_not_grow_without_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = open(folder.path()).expect("a new journal");
        for number in 0..ENTRIES_MAX {
            journal.remember(entry(u8::try_from(number).expect("small"))).expect("room");
        }
        assert!(journal.remember(entry(200)).is_err());
        assert_eq!(journal.entries().len(), ENTRIES_MAX);
    }
}
