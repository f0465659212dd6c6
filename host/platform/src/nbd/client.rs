//! Connecting, and one method for each command.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use farshore_core::Clock;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use super::{
    BlockSizes, NbdError, StatusEntry,
    connection::Connection,
    handshake::{self, Agreement},
    reply::{Answer, Assembly},
    wire::{self, Command},
};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NbdAddress {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port; 10809 by convention.
        port: u16,
    },
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Tcp { host, port } => write!(formatter, "tcp:{host}:{port}"),
        }
    }
}

/// One export of one server, and what will be done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdEndpoint {
    /// Where the server listens.
    pub address: NbdAddress,
    /// The export's name; empty for the server's default.
    pub export: String,
    /// Nothing will be written. If false, an export that the server offers read-only is not opened.
    pub read_only: bool,
    /// The block-status contexts that will be asked about, such as `base:allocation`; at most
    /// [`CONTEXTS_MAX`](super::CONTEXTS_MAX). Those that the server lacks are left out without an error.
    pub contexts: Vec<String>,
}

impl fmt::Display for NbdEndpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "NBD export {:?} at {}", self.export, self.address)
    }
}

/// Limits of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NbdOptions {
    /// Connecting and the handshake together take no longer.
    pub connect_timeout: Duration,
    /// A connection that owes a reply and moves no byte for this long is lost.
    pub request_timeout: Duration,
    /// The size that the disk must have, if it is known: another size is a lie.
    pub expected_size_bytes: Option<u64>,
}

impl Default for NbdOptions {
    /// 30 s each, and any size.
    fn default() -> Self {
        let timeout = Duration::from_secs(30);
        Self { connect_timeout: timeout, request_timeout: timeout, expected_size_bytes: None }
    }
}

/// One connection to one export. Calls may run side by side; see the module's text for what a dropped call leaves.
pub struct NbdClient {
    connection: Connection,
    agreement: Agreement,
    read_only: bool,
}

impl fmt::Debug for NbdClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("NbdClient").field("agreement", &self.agreement).finish_non_exhaustive()
    }
}

impl NbdClient {
    /// Connects to an export. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`NbdError::Refused`] when nothing listens, the server does not serve the export or offers it read-only and it is
    /// to be written, or it took longer than `connect_timeout`; [`NbdError::Unsupported`] when it is too old;
    /// [`NbdError::Protocol`] when it breaks the protocol or tells another size than the expected one;
    /// [`NbdError::Lost`] when it hangs up.
    pub async fn connect(
        endpoint: &NbdEndpoint,
        options: &NbdOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, NbdError> {
        let timeout = options.connect_timeout;
        let client = tokio::select! {
            client = Self::open(endpoint, options, &clock) => client?,
            () = clock.sleep(timeout) => {
                let what = format!("no connection within {:.1} s", timeout.as_secs_f64());
                return Err(NbdError::Refused { kind: io::ErrorKind::TimedOut, what });
            }
        };
        let size_bytes = client.size_bytes();
        if let Some(expected) = options.expected_size_bytes.filter(|expected| *expected != size_bytes) {
            return Err(NbdError::protocol(format!("the disk has {size_bytes} bytes, where it must have {expected}")));
        }
        if !endpoint.read_only && client.agreement.flags & wire::EXPORT_READ_ONLY != 0 {
            let what = "the server offers the export only for reading".into();
            return Err(NbdError::Refused { kind: io::ErrorKind::PermissionDenied, what });
        }
        Ok(client)
    }

    async fn open(endpoint: &NbdEndpoint, options: &NbdOptions, clock: &Arc<dyn Clock>) -> Result<Self, NbdError> {
        let refused = |error: io::Error| NbdError::Refused { kind: error.kind(), what: error.to_string() };
        match &endpoint.address {
            NbdAddress::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(refused)?;
                Self::begin(stream, UnixStream::into_split, endpoint, options, clock).await
            }
            NbdAddress::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(refused)?;
                // Requests are small and must not wait for each other's acknowledgement.
                stream.set_nodelay(true).map_err(refused)?;
                Self::begin(stream, TcpStream::into_split, endpoint, options, clock).await
            }
        }
    }

    async fn begin<S, R, W>(
        stream: S,
        split: impl FnOnce(S) -> (R, W),
        endpoint: &NbdEndpoint,
        options: &NbdOptions,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, NbdError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (stream, agreement) = handshake::negotiate(stream, &endpoint.export, &endpoint.contexts).await?;
        let (reader, writer) = split(stream);
        let structured_replies = agreement.structured_replies;
        let connection =
            Connection::start(reader, writer, structured_replies, options.request_timeout, Arc::clone(clock));
        Ok(Self { connection, agreement, read_only: endpoint.read_only })
    }

    /// The disk's size in bytes.
    pub const fn size_bytes(&self) -> u64 {
        self.agreement.size_bytes
    }

    /// It was opened for reading.
    pub const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Limits of requests. Each method refuses what does not keep to them.
    pub const fn block_sizes(&self) -> BlockSizes {
        self.agreement.block_sizes
    }

    /// Those of the requested contexts that the server has.
    pub fn contexts(&self) -> impl Iterator<Item = &str> {
        self.agreement.contexts.iter().map(|context| context.name.as_str())
    }

    /// The server can write zeros without being sent them.
    pub const fn can_write_zeroes(&self) -> bool {
        self.agreement.flags & wire::EXPORT_SEND_WRITE_ZEROES != 0
    }

    /// Offsets and lengths that the server would have to refuse are not sent.
    fn check(&self, offset: u64, length: u32, carries_data: bool) -> Result<(), NbdError> {
        let BlockSizes { minimum, maximum, .. } = self.block_sizes();
        let end = offset.checked_add(u64::from(length));
        if length == 0 || end.is_none_or(|end| end > self.size_bytes()) {
            return Err(NbdError::unsupported(format!("{length} bytes at byte {offset} are not on the disk")));
        }
        let minimum = u64::from(minimum);
        if offset.checked_rem(minimum) != Some(0) || u64::from(length).checked_rem(minimum) != Some(0) {
            return Err(NbdError::unsupported(format!("the server takes whole blocks of {minimum} bytes only")));
        }
        if carries_data && length > maximum {
            return Err(NbdError::unsupported(format!("the server takes at most {maximum} bytes at once")));
        }
        Ok(())
    }

    fn check_write(&self, offset: u64, length: u32, carries_data: bool) -> Result<(), NbdError> {
        if self.read_only {
            return Err(NbdError::unsupported("it was opened for reading"));
        }
        self.check(offset, length, carries_data)
    }

    /// Reads these bytes.
    ///
    /// # Errors
    /// [`NbdError::Request`] when the server failed it, [`NbdError::Unsupported`] when the offset or the length breaks
    /// the server's limits, otherwise the connection has ended. All other calls fail like this too.
    pub async fn read(&self, offset: u64, length: u32) -> Result<Bytes, NbdError> {
        self.check(offset, length, true)?;
        let assembly = Assembly::data(offset, length);
        match self.connection.call(Command::Read, offset, length, Bytes::new(), assembly).await? {
            Answer::Data(data) => Ok(data),
            other => Err(mismatch(&other)),
        }
    }

    /// Writes these bytes, not yet durably.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn write(&self, offset: u64, data: Bytes) -> Result<(), NbdError> {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.check_write(offset, length, true)?;
        self.call_for_nothing(Command::Write, offset, length, data).await
    }

    /// Makes these bytes read as zeros, not yet durably.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`NbdError::Unsupported`] when the server cannot.
    pub async fn write_zeroes(&self, offset: u64, length: u32) -> Result<(), NbdError> {
        self.check_write(offset, length, false)?;
        if !self.can_write_zeroes() {
            return Err(NbdError::unsupported("the server cannot write zeros by itself"));
        }
        self.call_for_nothing(Command::WriteZeroes, offset, length, Bytes::new()).await
    }

    /// Returns when every write that returned before is durable.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`NbdError::Unsupported`] when the server cannot promise it.
    pub async fn flush(&self) -> Result<(), NbdError> {
        if self.agreement.flags & wire::EXPORT_SEND_FLUSH == 0 {
            return Err(NbdError::unsupported("the server cannot say when writes are durable"));
        }
        self.call_for_nothing(Command::Flush, 0, 0, Bytes::new()).await
    }

    /// Asks a context about these bytes. The answer is at least one run of blocks, begins at `offset`, may stop early,
    /// and its last run may pass the end of the question.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`NbdError::Unsupported`] when the context was not agreed on.
    pub async fn block_status(&self, context: &str, offset: u64, length: u32) -> Result<Vec<StatusEntry>, NbdError> {
        self.check(offset, length, false)?;
        let contexts = &self.agreement.contexts;
        let Some(agreed) = contexts.iter().find(|agreed| agreed.name == context) else {
            return Err(NbdError::unsupported(format!("the server does not tell about {context:?}")));
        };
        let ids = contexts.iter().map(|context| context.id).collect();
        let assembly = Assembly::status(offset, length, self.size_bytes(), agreed.id, ids);
        match self.connection.call(Command::BlockStatus, offset, length, Bytes::new(), assembly).await? {
            Answer::Status(entries) => Ok(entries),
            other => Err(mismatch(&other)),
        }
    }

    /// Waits for the calls in flight, then ends the connection in an orderly way.
    pub async fn disconnect(&self) {
        self.connection.disconnect().await;
    }

    async fn call_for_nothing(&self, command: Command, offset: u64, length: u32, data: Bytes) -> Result<(), NbdError> {
        match self.connection.call(command, offset, length, data, Assembly::nothing(offset, length)).await? {
            Answer::Done => Ok(()),
            other => Err(mismatch(&other)),
        }
    }
}

/// An assembly answers in its own kind; this is for the compiler.
fn mismatch(answer: &Answer) -> NbdError {
    let kind = match answer {
        Answer::Done => "nothing",
        Answer::Data(_) => "data",
        Answer::Status(_) => "block status",
    };
    NbdError::protocol(format!("{kind} for a request of another kind"))
}
