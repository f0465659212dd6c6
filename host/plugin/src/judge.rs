//! Whether a component may have what it wants: its manifest has to ask for it, and the operator has to have granted it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Access, Call, Refusal,
    bound::Bound,
    folder::{Below, FolderError},
    grants::{below, path_rule},
    refusal::Wanted,
    state::Interruption,
    v0_1::host::errors::HostError,
};

/// Judges what one call wants.
#[derive(Clone)]
pub(crate) struct Judge {
    bound: Arc<Bound>,
    call: Arc<Call>,
}

impl Judge {
    /// The judge of a call.
    pub(crate) const fn new(bound: Arc<Bound>, call: Arc<Call>) -> Self {
        Self { bound, call }
    }

    /// Refuses what the operator did not grant.
    pub(crate) fn not_granted(&self, wanted: Wanted) -> wasmtime::Error {
        let bound = &self.bound;
        self.refuse(Refusal::not_granted(bound.name(), &bound.site, bound.mode, wanted, &bound.grants))
    }

    /// Refuses what the component's manifest does not ask for.
    pub(crate) fn not_in_manifest(&self, wanted: Wanted) -> wasmtime::Error {
        let bound = &self.bound;
        self.refuse(Refusal::not_in_manifest(bound.name(), &bound.site, bound.mode, wanted))
    }

    /// Refuses an endpoint whose name leads where it may not lead.
    pub(crate) fn address_not_allowed(&self, endpoint: &str, host: String, found: String) -> wasmtime::Error {
        let bound = &self.bound;
        self.refuse(Refusal::address_not_allowed(bound.name(), &bound.site, bound.mode, endpoint, host, found))
    }

    /// Ends the call because the component wanted what it may not have, and remembers that for the report.
    fn refuse(&self, refusal: Refusal) -> wasmtime::Error {
        self.bound.remember(&refusal);
        self.bound.observer().refused(&self.call, &refusal);
        Interruption::from(refusal).into()
    }

    /// Where a path lies in a folder that is granted with this access. The outer error refuses.
    pub(crate) fn granted_place(&self, path: &str, access: Access) -> wasmtime::Result<Result<Below, HostError>> {
        if let Some(rule) = path_rule(path) {
            return Ok(Err(HostError::Invalid(format!(
                "the path {:?} cannot be used: {rule}",
                crate::imports::shortened(path)
            ))));
        }
        let wanted = || Wanted::File { path: path.to_owned(), access };
        if self.bound.wants().files.is_none_or(|wants| wants < access) {
            return Err(self.not_in_manifest(wanted()));
        }
        let clean: PathBuf = Path::new(path).components().collect();
        let place = self.bound.grants.files.iter().filter(|grant| grant.access >= access).find_map(|grant| {
            below(&grant.folder, &clean).map(|rest| Below { folder: grant.folder.clone(), rest: rest.to_owned() })
        });
        match place {
            Some(place) => Ok(Ok(place)),
            None => Err(self.not_granted(wanted())),
        }
    }

    /// What a component hears of an error in a folder. The outer error refuses.
    pub(crate) fn folder_error(&self, path: &str, access: Access, error: FolderError) -> wasmtime::Result<HostError> {
        use rustix::io::Errno;
        let told = format!("{path}: {error}");
        Ok(match error {
            FolderError::LeadsOut => {
                let wanted = Wanted::File { path: path.to_owned(), access };
                let refusal = Refusal::link_leads_out(self.bound.name(), &self.bound.site, self.bound.mode, wanted);
                return Err(self.refuse(refusal));
            }
            FolderError::WrongKind(_) => HostError::Invalid(told),
            FolderError::TooMany => HostError::Limit(told),
            FolderError::System(Errno::NOENT | Errno::NXIO) => HostError::NotFound(told),
            FolderError::System(Errno::EXIST | Errno::NOTEMPTY | Errno::BUSY) => HostError::Conflict(told),
            FolderError::System(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => HostError::NoSpace(told),
            FolderError::System(Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NAMETOOLONG) => {
                HostError::Invalid(told)
            }
            FolderError::System(_) => HostError::Failed(told),
        })
    }
}
