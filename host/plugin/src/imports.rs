//! What a component may ask of the host, one file for each interface of `wit/host`.
//!
//! Each host function first checks that the manifest asks for the thing, then that the operator granted it; either "no"
//! ends the component's call. It then does its work within a time of its own, so that neither a silent server nor a
//! stuck file system holds a component longer than the call may take.

mod clock;
mod files;
mod http;
mod log;
mod nbd;
mod programs;
mod progress;
mod settings;
mod streams;
mod wasi;

use std::path::{Path, PathBuf};

pub use self::streams::Connection;
pub(crate) use self::{
    log::LogBudget,
    progress::ProgressWindow,
    wasi::{closed_wasi, link_closed_wasi},
};
use crate::{
    folder::FolderError,
    state::CallState,
    v0_1::host::{
        errors::{Host as ErrorsHost, HostError},
        transports::{Host as TransportsHost, HostTransport},
    },
};

impl ErrorsHost for CallState {}

impl TransportsHost for CallState {}

impl HostTransport for CallState {
    async fn drop(&mut self, transport: wasmtime::component::Resource<crate::TransportGrant>) -> wasmtime::Result<()> {
        self.table.delete(transport)?;
        Ok(())
    }
}

/// The resolved path of a socket as far as it exists: the path's folder, and the socket itself if it is there.
async fn resolved_socket(path: &str) -> PathBuf {
    let path = Path::new(path);
    if let Ok(resolved) = tokio::fs::canonicalize(path).await {
        return resolved;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => match tokio::fs::canonicalize(parent).await {
            Ok(parent) => parent.join(name),
            Err(_) => path.to_owned(),
        },
        _ => path.to_owned(),
    }
}

/// A text of a component's, short enough for a sentence.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(256).collect()
}

/// Work on files, on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FolderError> + Send + 'static,
) -> Result<Result<T, FolderError>, HostError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| HostError::Failed(format!("the host's own code failed: {error}")))
}
