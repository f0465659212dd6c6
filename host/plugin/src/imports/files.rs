//! Disk images that are files, below the folders that the operator granted.

use wasmtime::component::Resource;

use super::blocking;
use crate::{
    Access, TransportGrant,
    folder::{Below, FolderError, Inspected},
    limits::{CURSOR_BYTES_MAX, NUMBER_END},
    state::CallState,
    v0_1::host::{
        errors::HostError,
        files::{Entry, EntryPage, File, Host, Removal},
    },
};

impl CallState {
    /// Does some work at a granted place: judges the path, works within the time, and says what went wrong.
    async fn at_place<T: Send + 'static>(
        &mut self,
        function: &'static str,
        path: &str,
        access: Access,
        work: impl FnOnce(Below) -> Result<T, FolderError> + Send + 'static,
    ) -> wasmtime::Result<Result<T, HostError>> {
        let place = match self.judge().granted_place(path, access)? {
            Ok(place) => place,
            Err(error) => return Ok(Err(error)),
        };
        match self.within(function, blocking(move || work(place))).await {
            Ok(Ok(done)) => Ok(Ok(done)),
            Ok(Err(error)) => Ok(Err(self.judge().folder_error(path, access, error)?)),
            Err(error) => Ok(Err(error)),
        }
    }
}

fn told(Inspected { size_bytes, allocated_bytes, changed_microseconds }: Inspected) -> File {
    // A clock beyond the numbers that every toolchain can hold is no time.
    File { size_bytes, allocated_bytes, changed_microseconds: changed_microseconds.filter(|time| *time < NUMBER_END) }
}

impl Host for CallState {
    async fn create(&mut self, path: String, size_bytes: u64) -> wasmtime::Result<Result<File, HostError>> {
        if size_bytes >= NUMBER_END {
            return Ok(Err(HostError::Invalid("a file's size is below 2^53 bytes".to_owned())));
        }
        let made =
            self.at_place("files.create", &path, Access::ReadWrite, move |place| place.create(size_bytes)).await?;
        Ok(made.map(told))
    }

    async fn open(
        &mut self,
        path: String,
        read_only: bool,
    ) -> wasmtime::Result<Result<Resource<TransportGrant>, HostError>> {
        let access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
        let opened = self.at_place("files.open", &path, access, move |place| place.open_disk(read_only)).await?;
        Ok(opened.and_then(|path| self.push(TransportGrant::File { path, read_only })))
    }

    async fn inspect(&mut self, path: String) -> wasmtime::Result<Result<File, HostError>> {
        let found = self.at_place("files.inspect", &path, Access::ReadOnly, |place| place.inspect()).await?;
        Ok(found.map(told))
    }

    async fn remove(&mut self, path: String) -> wasmtime::Result<Result<Removal, HostError>> {
        let removed = self.at_place("files.remove", &path, Access::ReadWrite, |place| place.remove()).await?;
        Ok(removed.map(|removed| Removal { removed }))
    }

    async fn list_folder(
        &mut self,
        path: String,
        cursor: Option<String>,
    ) -> wasmtime::Result<Result<EntryPage, HostError>> {
        if cursor.as_ref().is_some_and(|cursor| cursor.len() > CURSOR_BYTES_MAX) {
            return Ok(Err(HostError::Invalid("the cursor is not one of this function's".to_owned())));
        }
        let list = move |place: Below| place.list(cursor.as_deref());
        let listed = self.at_place("files.list-folder", &path, Access::ReadOnly, list).await?;
        Ok(listed.map(|(entries, more)| EntryPage {
            next: if more { entries.last().map(|entry| entry.name.clone()) } else { None },
            entries: entries.into_iter().map(|entry| Entry { name: entry.name, folder: entry.folder }).collect(),
        }))
    }
}
