//! Streams of bytes to a local socket or a TCP port.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::Mutex,
};
use wasmtime::component::Resource;

use super::{resolved_socket, shortened};
use crate::{
    HostPort,
    grants::path_rule,
    limits::{CONNECTIONS_MAX, LIST_BYTES_MAX},
    refusal::Wanted,
    state::CallState,
    v0_1::host::{
        errors::HostError,
        streams::{Chunk, Host, HostConnection, Written},
    },
};

/// What one read takes from the system: it may give less than it was asked for.
const READ_BYTES_MAX: usize = 64 << 10;

/// A connection of a component's. It is taken by one host function at a time, because a component has one thread.
#[derive(Clone)]
pub struct Connection {
    name: Arc<str>,
    stream: Arc<Mutex<Option<Stream>>>,
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer).await,
            Self::Tcp(stream) => stream.read(buffer).await,
        }
    }

    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.write_all(bytes).await,
            Self::Tcp(stream) => stream.write_all(bytes).await,
        }
    }
}

/// What a component hears when a connection cannot be made or breaks.
fn stream_error(name: &str, error: &io::Error) -> HostError {
    let told = format!("{name}: {error}");
    match error.kind() {
        io::ErrorKind::NotFound => HostError::NotFound(told),
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::TimedOut => HostError::Unreachable(told),
        _ => HostError::Failed(told),
    }
}

impl CallState {
    fn room_for_connection(&self) -> Result<(), HostError> {
        if self.connections < CONNECTIONS_MAX {
            return Ok(());
        }
        Err(HostError::Limit(format!(
            "an instance holds at most {CONNECTIONS_MAX} connections; drop those that are done"
        )))
    }

    fn keep(&mut self, name: String, stream: Stream) -> Result<Resource<Connection>, HostError> {
        let stream = Arc::new(Mutex::new(Some(stream)));
        let kept = self.push(Connection { name: name.into(), stream })?;
        self.connections = self.connections.saturating_add(1);
        Ok(kept)
    }
}

/// The error of a connection that a write left half done.
fn unusable(name: &str) -> HostError {
    HostError::Failed(format!("{name}: an earlier write did not end; connect again"))
}

impl Host for CallState {}

impl HostConnection for CallState {
    async fn connect_unix(&mut self, path: String) -> wasmtime::Result<Result<Resource<Connection>, HostError>> {
        if let Some(rule) = path_rule(&path) {
            let told = format!("the path {:?} cannot be used: {rule}", shortened(&path));
            return Ok(Err(HostError::Invalid(told)));
        }
        let resolved = match self.within("streams.connect-unix", async { Ok(resolved_socket(&path).await) }).await {
            Ok(resolved) => resolved,
            Err(error) => return Ok(Err(error)),
        };
        let wanted = || Wanted::Unix { path: resolved.to_string_lossy().into_owned() };
        if !self.bound.wants().unix {
            return Err(self.judge().not_in_manifest(wanted()));
        }
        if !self.bound.grants.unix.iter().any(|pattern| pattern.matches(&resolved)) {
            return Err(self.judge().not_granted(wanted()));
        }
        if let Err(error) = self.room_for_connection() {
            return Ok(Err(error));
        }
        let name = format!("unix:{path}");
        // What is connected to is the path that was judged. Whoever may replace things in its folder can still put
        // another socket there in between, which is why a granted folder should belong to the host's own user.
        let connect = async { UnixStream::connect(&resolved).await.map_err(|error| stream_error(&name, &error)) };
        let connected = self.within("streams.connect-unix", connect).await;
        Ok(connected.and_then(|stream| self.keep(name, Stream::Unix(stream))))
    }

    async fn connect_tcp(
        &mut self,
        host: String,
        port: u16,
    ) -> wasmtime::Result<Result<Resource<Connection>, HostError>> {
        let address = match HostPort::new(&host, port) {
            Ok(address) => address,
            Err(error) => return Ok(Err(HostError::Invalid(error.to_string()))),
        };
        let wanted = || Wanted::Tcp { address: address.clone() };
        if !self.bound.wants().tcp {
            return Err(self.judge().not_in_manifest(wanted()));
        }
        if !self.bound.grants.tcp.contains(&address) {
            return Err(self.judge().not_granted(wanted()));
        }
        if let Err(error) = self.room_for_connection() {
            return Ok(Err(error));
        }
        let name = format!("tcp:{address}");
        let connect = async {
            let connected = TcpStream::connect((address.host(), address.port())).await;
            connected.map_err(|error| stream_error(&name, &error))
        };
        let connected = self.within("streams.connect-tcp", connect).await;
        Ok(connected.and_then(|stream| {
            // Control connections send small messages and wait for the answer.
            stream.set_nodelay(true).map_err(|error| stream_error(&name, &error))?;
            self.keep(name, Stream::Tcp(stream))
        }))
    }

    async fn read(
        &mut self,
        connection: Resource<Connection>,
        max_bytes: u32,
        timeout_milliseconds: u32,
    ) -> wasmtime::Result<Result<Chunk, HostError>> {
        let Connection { name, stream } = self.table.get(&connection)?.clone();
        let wanted = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        if wanted == 0 || wanted > LIST_BYTES_MAX {
            return Ok(Err(HostError::Invalid(format!("a read is of 1 to {LIST_BYTES_MAX} bytes, not {max_bytes}"))));
        }
        let limit = Duration::from_millis(u64::from(timeout_milliseconds));
        let work = async {
            let mut stream = stream.lock().await;
            let stream = stream.as_mut().ok_or_else(|| unusable(&name))?;
            let mut bytes = vec![0; wanted.min(READ_BYTES_MAX)];
            let count = stream.read(&mut bytes).await.map_err(|error| stream_error(&name, &error))?;
            bytes.truncate(count);
            Ok(Chunk { bytes, ended: count == 0 })
        };
        let told = || format!("{name}: nothing arrived within {timeout_milliseconds} ms");
        Ok(self.waiting("streams.read", limit, work, told).await)
    }

    async fn write(
        &mut self,
        connection: Resource<Connection>,
        bytes: Vec<u8>,
    ) -> wasmtime::Result<Result<Written, HostError>> {
        let Connection { name, stream } = self.table.get(&connection)?.clone();
        let Some(count) = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= LIST_BYTES_MAX) else {
            return Ok(Err(HostError::Limit(format!("a write is of at most {LIST_BYTES_MAX} bytes"))));
        };
        let work = async {
            let mut stream = stream.lock().await;
            // A write that is cut short leaves part of a message on the wire; the stream is put back only if it is whole.
            let mut taken = stream.take().ok_or_else(|| unusable(&name))?;
            taken.write_all(&bytes).await.map_err(|error| stream_error(&name, &error))?;
            *stream = Some(taken);
            Ok(Written { bytes: count })
        };
        Ok(self.within("streams.write", work).await)
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(connection)?;
        self.connections = self.connections.saturating_sub(1);
        Ok(())
    }
}
