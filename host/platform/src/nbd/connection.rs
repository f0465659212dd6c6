//! One connection in its transmission phase: who owns the socket, who waits for what, and how it dies.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes};
use farshore_core::Clock;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use super::{
    NbdError,
    reply::{Answer, Assembly, STATUS_CHUNK_BYTES_MAX},
    wire,
};

/// The most requests that one connection has in flight; further calls wait.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 16;
/// A request may take this many times the timeout if bytes keep arriving, so that a slow link is not taken for a dead
/// one, nor a server that drips for a live one.
const TIMEOUT_FACTOR_WITH_PROGRESS: u32 = 10;
/// How often within one timeout the watchdog looks.
const WATCHDOG_LOOKS_PER_TIMEOUT: u32 = 8;
/// The buffer for the heads of replies, in bytes; longer reads go past it.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// The part of a list of entries that is held at once, in bytes; a multiple of the 8 bytes of an entry.
const STATUS_BUFFER_BYTES: usize = 32 * 1024;
/// The longest payload of a chunk of error: a string and three numbers.
const ERROR_CHUNK_BYTES_MAX: u32 = 4096 + 14;

/// A request on its way to the socket.
enum Outgoing {
    Request {
        head: Vec<u8>,
        data: Bytes,
    },
    /// Say goodbye and close; nothing follows.
    Disconnect {
        done: oneshot::Sender<()>,
    },
}

/// A request whose reply has not come.
struct Pending {
    assembly: Assembly,
    /// A dropped receiver means that the caller gave up. The reply is taken all the same.
    answer: oneshot::Sender<Result<Answer, NbdError>>,
    started: Duration,
    /// Kept until the reply came, whether or not the caller still waits: it bounds what the server owes.
    _permit: OwnedSemaphorePermit,
}

#[derive(Default)]
struct State {
    pending: BTreeMap<u64, Pending>,
    /// When the request was sent whose reply is arriving now; it is not among the pending then.
    arriving_since: Option<Duration>,
    last_cookie: u64,
    failure: Option<NbdError>,
}

/// What the callers, the two socket tasks and the watchdog share.
struct Shared {
    state: Mutex<State>,
    permits: Arc<Semaphore>,
    ended: CancellationToken,
    clock: Arc<dyn Clock>,
    /// The monotonic time of the last byte in or out, in microseconds.
    progress_microseconds: AtomicU64,
    structured_replies: bool,
}

impl Shared {
    fn new(structured_replies: bool, clock: Arc<dyn Clock>) -> Self {
        Self {
            state: Mutex::default(),
            permits: Arc::new(Semaphore::new(REQUESTS_IN_FLIGHT_MAX)),
            ended: CancellationToken::new(),
            clock,
            progress_microseconds: AtomicU64::new(0),
            structured_replies,
        }
    }

    /// No code panics while it holds the lock; if it did, the state would still be whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_progress(&self) {
        let now = u64::try_from(self.clock.monotonic().as_micros()).unwrap_or(u64::MAX);
        self.progress_microseconds.fetch_max(now, Ordering::Relaxed);
    }

    fn failure(&self) -> NbdError {
        let unknown = || NbdError::lost(io::ErrorKind::NotConnected, "the connection has ended");
        self.lock().failure.clone().unwrap_or_else(unknown)
    }

    /// Ends the connection: the first reason stays, and everyone who waits is told it.
    fn end(&self, failure: NbdError) {
        let (pending, failure) = {
            let mut state = self.lock();
            let failure = state.failure.get_or_insert(failure).clone();
            (std::mem::take(&mut state.pending), failure)
        };
        self.permits.close();
        self.ended.cancel();
        for pending in pending.into_values() {
            // The caller may have given up.
            let _ = pending.answer.send(Err(failure.clone()));
        }
    }

    /// Why the connection must be given up now, if it must.
    fn overdue(&self, timeout: Duration) -> Option<NbdError> {
        let progress = Duration::from_micros(self.progress_microseconds.load(Ordering::Relaxed));
        let now = self.clock.monotonic();
        let state = self.lock();
        let oldest = state.pending.values().map(|pending| pending.started).chain(state.arriving_since).min()?;
        let silent = now.saturating_sub(oldest.max(progress));
        let waiting = now.saturating_sub(oldest);
        let seconds = if silent > timeout {
            silent.as_secs_f64()
        } else if waiting > timeout.saturating_mul(TIMEOUT_FACTOR_WITH_PROGRESS) {
            waiting.as_secs_f64()
        } else {
            return None;
        };
        Some(NbdError::lost(io::ErrorKind::TimedOut, format!("no answer for {seconds:.1} s")))
    }
}

/// A connection. Dropping it closes the socket; requests in flight are abandoned.
pub struct Connection {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Outgoing>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.end(NbdError::lost(io::ErrorKind::NotConnected, "the connection was dropped"));
    }
}

impl Connection {
    /// Takes over a socket whose handshake is done. Must be called on a tokio runtime.
    pub fn start<R, W>(reader: R, writer: W, structured_replies: bool, timeout: Duration, clock: Arc<dyn Clock>) -> Self
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let shared = Arc::new(Shared::new(structured_replies, clock));
        // Every message but the farewell has a permit, so there is always room.
        let (outgoing, messages) = mpsc::channel(REQUESTS_IN_FLIGHT_MAX + 1);
        tokio::spawn(run_reader(reader, Arc::clone(&shared)));
        tokio::spawn(run_writer(writer, messages, Arc::clone(&shared)));
        tokio::spawn(run_watchdog(timeout, Arc::clone(&shared)));
        Self { shared, outgoing }
    }

    /// Sends one request and waits for its reply.
    ///
    /// Dropping the future before the request is queued leaves no trace; after that, the request is carried out and its
    /// reply is taken and dropped.
    pub async fn call(
        &self,
        command: wire::Command,
        offset: u64,
        length: u32,
        data: Bytes,
        assembly: Assembly,
    ) -> Result<Answer, NbdError> {
        let permit = Arc::clone(&self.shared.permits).acquire_owned().await.map_err(|_| self.shared.failure())?;
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            state.last_cookie = state.last_cookie.wrapping_add(1);
            let cookie = state.last_cookie;
            let head = wire::RequestHead { command, cookie, offset, length }.encode();
            // Queued under the same lock, so that no reply can come to a request that is not listed.
            if self.outgoing.try_send(Outgoing::Request { head, data }).is_err() {
                drop(state);
                self.shared.end(NbdError::protocol("requests were answered before they were sent"));
                return Err(self.shared.failure());
            }
            let started = self.shared.clock.monotonic();
            state.pending.insert(cookie, Pending { assembly, answer, started, _permit: permit });
        }
        answered.await.unwrap_or_else(|_| Err(self.shared.failure()))
    }

    /// Waits for what is in flight, says goodbye and closes the socket. A connection that has ended stays ended.
    pub async fn disconnect(&self) {
        let everything = u32::try_from(REQUESTS_IN_FLIGHT_MAX).unwrap_or(u32::MAX);
        let Ok(_permits) = self.shared.permits.acquire_many(everything).await else { return };
        let (done, written) = oneshot::channel();
        if self.outgoing.try_send(Outgoing::Disconnect { done }).is_ok() {
            // Nothing is pending, so the watchdog does not look: the wait for the socket ends with the connection.
            tokio::select! {
                _ = written => {}
                () = self.shared.ended.cancelled() => {}
            }
        }
        self.shared.end(NbdError::lost(io::ErrorKind::NotConnected, "the connection was closed"));
    }
}

async fn run_watchdog(timeout: Duration, shared: Arc<Shared>) {
    let interval = (timeout / WATCHDOG_LOOKS_PER_TIMEOUT).max(Duration::from_millis(1));
    loop {
        tokio::select! {
            () = shared.ended.cancelled() => return,
            () = shared.clock.sleep(interval) => {}
        }
        if let Some(failure) = shared.overdue(timeout) {
            shared.end(failure);
        }
    }
}

async fn run_writer<W>(mut writer: W, mut messages: mpsc::Receiver<Outgoing>, shared: Arc<Shared>)
where
    W: AsyncWrite + Unpin,
{
    let write_all = async {
        while let Some(message) = messages.recv().await {
            match message {
                Outgoing::Request { head, data } => {
                    let mut bytes = Bytes::from(head).chain(data);
                    while bytes.has_remaining() {
                        if writer.write_buf(&mut bytes).await? == 0 {
                            return Err(io::ErrorKind::WriteZero.into());
                        }
                        shared.note_progress();
                    }
                }
                Outgoing::Disconnect { done } => {
                    let farewell =
                        wire::RequestHead { command: wire::Command::Disconnect, cookie: 0, offset: 0, length: 0 };
                    writer.write_all(&farewell.encode()).await?;
                    writer.shutdown().await?;
                    // Whoever asked may have given up.
                    let _ = done.send(());
                    return Ok(());
                }
            }
        }
        Ok(())
    };
    let result: io::Result<()> = tokio::select! {
        result = write_all => result,
        () = shared.ended.cancelled() => return,
    };
    if let Err(error) = result {
        shared.end(NbdError::socket(&error));
    }
}

async fn run_reader<R: AsyncRead + Unpin>(reader: R, shared: Arc<Shared>) {
    let failure = tokio::select! {
        failure = read_replies(reader, &shared) => failure,
        () = shared.ended.cancelled() => return,
    };
    shared.end(failure);
}

/// Takes replies until the connection cannot go on, and says why.
async fn read_replies<R: AsyncRead + Unpin>(reader: R, shared: &Shared) -> NbdError {
    let mut replies = Replies { reader: BufReader::with_capacity(READ_BUFFER_BYTES, reader), shared };
    loop {
        if let Err(failure) = replies.take_one().await {
            return failure;
        }
    }
}

struct Replies<'a, R> {
    reader: BufReader<R>,
    shared: &'a Shared,
}

/// The head of a chunk of a structured reply.
#[derive(Clone, Copy)]
struct ChunkHead {
    done: bool,
    kind: u16,
    length: u32,
}

impl<R: AsyncRead + Unpin> Replies<'_, R> {
    async fn read_array<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], NbdError> {
        let mut bytes = [0; COUNT];
        self.reader.read_exact(&mut bytes).await.map_err(|error| NbdError::socket(&error))?;
        self.shared.note_progress();
        Ok(bytes)
    }

    async fn take_one(&mut self) -> Result<(), NbdError> {
        match u32::from_be_bytes(self.read_array().await?) {
            wire::SIMPLE_REPLY_MAGIC => {
                let head: [u8; 12] = self.read_array().await?;
                let mut fields = wire::Fields::new("simple reply", &head);
                let (number, cookie) = (fields.u32()?, fields.u64()?);
                let mut pending = self.begin(cookie)?;
                let data_bytes = pending.assembly.simple_data_bytes();
                pending.assembly.accept_simple(number, self.shared.structured_replies)?;
                if number == 0 && data_bytes > 0 {
                    let offset = pending.assembly.offset();
                    self.take_data(&mut pending.assembly, offset, data_bytes).await?;
                }
                self.finish(pending)
            }
            wire::CHUNK_MAGIC if self.shared.structured_replies => {
                let head: [u8; 16] = self.read_array().await?;
                let mut fields = wire::Fields::new("chunk", &head);
                let (flags, kind, cookie, length) = (fields.u16()?, fields.u16()?, fields.u64()?, fields.u32()?);
                let mut pending = self.begin(cookie)?;
                let done = flags & wire::CHUNK_FLAG_DONE != 0;
                self.take_chunk(&mut pending.assembly, ChunkHead { done, kind, length }).await?;
                if done {
                    return self.finish(pending);
                }
                self.wait_for_more(cookie, pending);
                Ok(())
            }
            magic => Err(NbdError::protocol(format!("a reply with the magic number {magic:#010x}"))),
        }
    }

    /// Takes the request out of the list while its reply arrives, so that no lock is held meanwhile.
    fn begin(&self, cookie: u64) -> Result<Pending, NbdError> {
        let mut state = self.shared.lock();
        let unknown = || NbdError::protocol("a reply to a request that was not sent, or was answered already");
        let pending = state.pending.remove(&cookie).ok_or_else(unknown)?;
        state.arriving_since = Some(pending.started);
        Ok(pending)
    }

    fn wait_for_more(&self, cookie: u64, pending: Pending) {
        let mut state = self.shared.lock();
        state.arriving_since = None;
        if state.failure.is_none() {
            state.pending.insert(cookie, pending);
        }
    }

    fn finish(&self, pending: Pending) -> Result<(), NbdError> {
        let answer = pending.assembly.finish()?;
        self.shared.lock().arriving_since = None;
        // The caller may have given up.
        let _ = pending.answer.send(answer);
        Ok(())
    }

    async fn take_chunk(&mut self, assembly: &mut Assembly, head: ChunkHead) -> Result<(), NbdError> {
        let ChunkHead { done, kind, length } = head;
        match kind {
            wire::CHUNK_NONE if length == 0 && done => Ok(()),
            wire::CHUNK_OFFSET_DATA if length > 8 => {
                let offset = u64::from_be_bytes(self.read_array().await?);
                self.take_data(assembly, offset, length.saturating_sub(8)).await
            }
            wire::CHUNK_OFFSET_HOLE if length == 12 => {
                let payload: [u8; 12] = self.read_array().await?;
                let mut fields = wire::Fields::new("chunk of zeros", &payload);
                assembly.accept_hole(fields.u64()?, fields.u32()?)
            }
            wire::CHUNK_BLOCK_STATUS if (12..=STATUS_CHUNK_BYTES_MAX).contains(&length) && length % 8 == 4 => {
                let context = u32::from_be_bytes(self.read_array().await?);
                self.take_status(assembly, context, (length.saturating_sub(4) / 8) as usize).await
            }
            _ if kind & wire::CHUNK_ERROR_BIT != 0 && length <= ERROR_CHUNK_BYTES_MAX => {
                let mut payload = vec![0; length as usize];
                self.reader.read_exact(&mut payload).await.map_err(|error| NbdError::socket(&error))?;
                assembly.accept_error(kind, &payload)
            }
            _ => Err(NbdError::protocol(format!("a chunk of type {kind} with {length} bytes"))),
        }
    }

    async fn take_data(&mut self, assembly: &mut Assembly, offset: u64, length: u32) -> Result<(), NbdError> {
        let (buffer, start) = assembly.begin_data(offset, length)?;
        let mut remaining = length as usize;
        if start >= buffer.len() {
            // The gap is filled later, and until then holds zeros. The data go to the buffer's end without being zeroed
            // first; this is the way of every server that answers in order.
            buffer.resize(start, 0);
            while remaining > 0 {
                let count = self.reader.read_buf(&mut (&mut *buffer).limit(remaining)).await;
                remaining = self.note_read(count, remaining)?;
            }
            return Ok(());
        }
        let end = start.saturating_add(remaining);
        let gap = buffer.get_mut(start..end).ok_or_else(|| NbdError::protocol("data that do not fit the request"))?;
        let mut rest = gap;
        while !rest.is_empty() {
            let count = self.reader.read(rest).await;
            let left = self.note_read(count, rest.len())?;
            let taken = rest.len().saturating_sub(left);
            rest = rest.split_at_mut_checked(taken).map(|(_, rest)| rest).unwrap_or_default();
        }
        Ok(())
    }

    /// What remains of so many bytes after a read.
    fn note_read(&self, count: io::Result<usize>, remaining: usize) -> Result<usize, NbdError> {
        match count {
            Ok(0) => Err(NbdError::socket(&io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => {
                self.shared.note_progress();
                Ok(remaining.saturating_sub(count))
            }
            Err(error) => Err(NbdError::socket(&error)),
        }
    }

    async fn take_status(&mut self, assembly: &mut Assembly, context: u32, entries: usize) -> Result<(), NbdError> {
        let wanted = assembly.begin_status(context)?;
        let mut check = assembly.status_check();
        let mut buffer = vec![0; entries.saturating_mul(8).min(STATUS_BUFFER_BYTES)];
        let mut remaining_bytes = entries.saturating_mul(8);
        while remaining_bytes > 0 {
            let part_bytes = remaining_bytes.min(buffer.len());
            let part = buffer.get_mut(..part_bytes).unwrap_or_default();
            self.reader.read_exact(part).await.map_err(|error| NbdError::socket(&error))?;
            self.shared.note_progress();
            for entry in part.chunks_exact(8) {
                let mut fields = wire::Fields::new("block status", entry);
                let entry = check.accept(fields.u32()?, fields.u32()?)?;
                if wanted {
                    assembly.accept_status(entry);
                }
            }
            remaining_bytes = remaining_bytes.saturating_sub(part_bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
