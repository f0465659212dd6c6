//! What comes back: the check and the assembly of one request's reply.
//!
//! An [`Assembly`] is told of each part of a reply in the order of its arrival, and says at the end what the answer is.
//! It holds no socket. It never trusts: a part outside the request, over another part, or of the wrong kind ends the
//! connection, and nothing is allocated by a number from the server that has not been compared with the request first.

use bytes::{Bytes, BytesMut};

use super::{NbdError, wire};

/// The most entries that one answer about blocks holds. A server may send many more; what is cut off is asked again.
pub const STATUS_ENTRIES_MAX: usize = 16 * 1024;
/// The longest list of entries that is taken (and cut): 8 Mi entries.
pub const STATUS_CHUNK_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// The most separate pieces in which the data of one read may stand at any moment.
const READ_PIECES_MAX: usize = 16 * 1024;

/// A run of blocks with one status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusEntry {
    /// Bytes; not 0.
    pub length: u64,
    /// The context's flags.
    pub flags: u32,
}

/// What a request was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was done.
    Done,
    /// The bytes that were read: as many as were asked for.
    Data(Bytes),
    /// The runs of blocks from the request's offset on, without gaps; at least one, at most [`STATUS_ENTRIES_MAX`].
    /// The last may pass the request's end, but not the disk's.
    Status(Vec<StatusEntry>),
}

/// What a request expects.
#[derive(Debug)]
enum Expected {
    Nothing,
    Data(DataAssembly),
    Status(StatusAssembly),
}

/// The reply to one request, as far as it has come.
#[derive(Debug)]
pub struct Assembly {
    expected: Expected,
    offset: u64,
    length: u32,
    failure: Option<NbdError>,
}

impl Assembly {
    /// For a request whose reply carries nothing.
    pub const fn nothing(offset: u64, length: u32) -> Self {
        Self { expected: Expected::Nothing, offset, length, failure: None }
    }

    /// For a read.
    pub fn data(offset: u64, length: u32) -> Self {
        Self { expected: Expected::Data(DataAssembly::new()), offset, length, failure: None }
    }

    /// For a question about blocks to the context with this id, when all of `contexts` were agreed on.
    pub const fn status(offset: u64, length: u32, disk_bytes: u64, context: u32, contexts: Vec<u32>) -> Self {
        let assembly =
            StatusAssembly { context, contexts, seen: Vec::new(), disk_bytes, entries: Vec::new(), cut: false };
        Self { expected: Expected::Status(assembly), offset, length, failure: None }
    }

    /// Where the request starts on the disk.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The number of data bytes that follow a simple reply without an error.
    pub const fn simple_data_bytes(&self) -> u32 {
        if matches!(self.expected, Expected::Data(_)) { self.length } else { 0 }
    }

    /// A simple reply arrived; its data, if there are any, have been appended.
    pub fn accept_simple(&mut self, number: u32, structured_replies: bool) -> Result<(), NbdError> {
        match (number, &self.expected) {
            (0, Expected::Nothing) => Ok(()),
            (0, Expected::Data(_)) if !structured_replies => Ok(()),
            (0, _) => Err(NbdError::protocol("a simple reply where a structured one is due")),
            (number, _) => {
                self.fail(number, String::new());
                Ok(())
            }
        }
    }

    /// A chunk of data begins at this offset of the disk. Gives the buffer, and where in it the data belong.
    pub fn begin_data(&mut self, offset: u64, length: u32) -> Result<(&mut BytesMut, usize), NbdError> {
        let (request_offset, request_length) = (self.offset, self.length);
        let Expected::Data(data) = &mut self.expected else {
            return Err(NbdError::protocol("data for a request that asked for none"));
        };
        let start = data.cover(request_offset, request_length, offset, length)?;
        Ok((data.room(request_length), start))
    }

    /// A chunk says that these bytes read as zeros.
    pub fn accept_hole(&mut self, offset: u64, length: u32) -> Result<(), NbdError> {
        let (buffer, start) = self.begin_data(offset, length)?;
        let end = start.saturating_add(length as usize);
        if start >= buffer.len() {
            // Fills a gap before it too: other chunks will write there.
            buffer.resize(end, 0);
        }
        // Otherwise it lies in a gap, which was filled with zeros.
        Ok(())
    }

    /// A chunk of status begins for this context. True if it is the one that was asked about.
    pub fn begin_status(&mut self, context: u32) -> Result<bool, NbdError> {
        let Expected::Status(status) = &mut self.expected else {
            return Err(NbdError::protocol("block status for a request that asked for none"));
        };
        if !status.contexts.contains(&context) {
            return Err(NbdError::protocol(format!("block status of a context {context} that was not agreed on")));
        }
        if status.seen.contains(&context) {
            return Err(NbdError::protocol("block status of one context twice"));
        }
        status.seen.push(context);
        Ok(status.context == context)
    }

    /// The check for the entries of a chunk of status.
    pub fn status_check(&self) -> StatusCheck {
        let disk_bytes = if let Expected::Status(status) = &self.expected { status.disk_bytes } else { 0 };
        let room_bytes = disk_bytes.saturating_sub(self.offset);
        StatusCheck { told_bytes: 0, asked_bytes: u64::from(self.length), room_bytes }
    }

    /// An entry of the context that was asked about. Neighbours with the same flags become one; what no longer fits is
    /// dropped.
    pub fn accept_status(&mut self, entry: StatusEntry) {
        let Expected::Status(StatusAssembly { entries, cut, .. }) = &mut self.expected else { return };
        if *cut {
            return;
        }
        let room = entries.len() < STATUS_ENTRIES_MAX;
        match entries.last_mut() {
            Some(last) if last.flags == entry.flags => last.length = last.length.saturating_add(entry.length),
            _ if room => entries.push(entry),
            _ => *cut = true,
        }
    }

    /// An error chunk, whole: `payload` has at most a string and three numbers.
    pub fn accept_error(&mut self, kind: u16, payload: &[u8]) -> Result<(), NbdError> {
        let mut fields = wire::Fields::new("chunk of error", payload);
        let number = fields.u32()?;
        let message_bytes = usize::from(fields.u16()?);
        let message = wire::shown(fields.bytes(message_bytes)?);
        if number == 0 {
            return Err(NbdError::protocol("a chunk of error without an error"));
        }
        if kind == wire::CHUNK_ERROR_OFFSET {
            let offset = fields.u64()?;
            let inside = offset.checked_sub(self.offset).is_some_and(|distance| distance < u64::from(self.length));
            if !inside {
                return Err(NbdError::protocol(format!("an error at byte {offset}, which was not asked for")));
            }
        }
        self.fail(number, message);
        Ok(())
    }

    fn fail(&mut self, number: u32, message: String) {
        // The first error is the cause; those after it are usually its consequences.
        self.failure.get_or_insert(NbdError::Request { number, message });
    }

    /// The reply is complete. The outer result is the connection's, the inner the request's.
    pub fn finish(self) -> Result<Result<Answer, NbdError>, NbdError> {
        if let Some(failure) = self.failure {
            return Ok(Err(failure));
        }
        match self.expected {
            Expected::Nothing => Ok(Ok(Answer::Done)),
            Expected::Data(data) => {
                if !data.is_whole(self.length) {
                    return Err(NbdError::protocol("a read was answered in part, without an error"));
                }
                Ok(Ok(Answer::Data(data.buffer.freeze())))
            }
            Expected::Status(status) => {
                if status.entries.is_empty() {
                    return Err(NbdError::protocol("a question about blocks was answered without block status"));
                }
                Ok(Ok(Answer::Status(status.entries)))
            }
        }
    }
}

/// The data of a read. Chunks may come in any order, but each byte once.
#[derive(Debug)]
struct DataAssembly {
    /// Never longer than the request.
    buffer: BytesMut,
    /// What has come, as ranges of the buffer in order, neighbours joined.
    pieces: Vec<std::ops::Range<u64>>,
}

impl DataAssembly {
    fn new() -> Self {
        Self { buffer: BytesMut::new(), pieces: Vec::new() }
    }

    /// Notes that a chunk covers these bytes of the disk. Gives where it starts in the buffer.
    fn cover(&mut self, request_offset: u64, request_length: u32, offset: u64, length: u32) -> Result<usize, NbdError> {
        let outside = || NbdError::protocol(format!("{length} bytes at byte {offset}, which were not asked for"));
        let start = offset.checked_sub(request_offset).ok_or_else(outside)?;
        let end = start.checked_add(u64::from(length)).ok_or_else(outside)?;
        if length == 0 || end > u64::from(request_length) {
            return Err(outside());
        }
        let place = self.pieces.partition_point(|piece| piece.start < start);
        let before = place.checked_sub(1).and_then(|index| self.pieces.get(index));
        let overlap = before.is_some_and(|piece| piece.end > start)
            || self.pieces.get(place).is_some_and(|piece| piece.start < end);
        if overlap {
            return Err(NbdError::protocol(format!("{length} bytes at byte {offset} twice in one reply")));
        }
        let joins_before = before.is_some_and(|piece| piece.end == start);
        let joins_after = self.pieces.get(place).is_some_and(|piece| piece.start == end);
        match (joins_before, joins_after) {
            (true, true) => {
                let after = self.pieces.remove(place);
                if let Some(piece) = place.checked_sub(1).and_then(|index| self.pieces.get_mut(index)) {
                    piece.end = after.end;
                }
            }
            (true, false) => {
                if let Some(piece) = place.checked_sub(1).and_then(|index| self.pieces.get_mut(index)) {
                    piece.end = end;
                }
            }
            (false, true) => {
                if let Some(piece) = self.pieces.get_mut(place) {
                    piece.start = start;
                }
            }
            (false, false) if self.pieces.len() >= READ_PIECES_MAX => {
                return Err(NbdError::protocol(format!("a read was answered in more than {READ_PIECES_MAX} pieces")));
            }
            (false, false) => self.pieces.insert(place, start..end),
        }
        usize::try_from(start).map_err(|_| outside())
    }

    /// The buffer, with room for the whole request, so that it is allocated once.
    fn room(&mut self, request_length: u32) -> &mut BytesMut {
        let missing = (request_length as usize).saturating_sub(self.buffer.len());
        if self.buffer.capacity() == 0 {
            self.buffer.reserve(missing);
        }
        &mut self.buffer
    }

    fn is_whole(&self, request_length: u32) -> bool {
        matches!(self.pieces.as_slice(), [piece] if piece.start == 0 && piece.end == u64::from(request_length))
    }
}

#[derive(Debug)]
struct StatusAssembly {
    /// The one that was asked about.
    context: u32,
    /// All that were agreed on: a server tells about each of them in every reply.
    contexts: Vec<u32>,
    seen: Vec<u32>,
    disk_bytes: u64,
    entries: Vec<StatusEntry>,
    /// An entry was dropped: nothing after it may be taken, or a gap would be hidden.
    cut: bool,
}

/// Checks the entries of one chunk, one by one: none is empty, none but the last passes the request's end, and none
/// passes the disk's.
#[derive(Debug, Clone, Copy)]
pub struct StatusCheck {
    told_bytes: u64,
    asked_bytes: u64,
    room_bytes: u64,
}

impl StatusCheck {
    /// Takes the next entry as it is on the wire.
    pub fn accept(&mut self, length: u32, flags: u32) -> Result<StatusEntry, NbdError> {
        if length == 0 {
            return Err(NbdError::protocol("block status of no bytes"));
        }
        if self.told_bytes >= self.asked_bytes {
            return Err(NbdError::protocol("block status that starts after the end of the question"));
        }
        self.told_bytes = self.told_bytes.saturating_add(u64::from(length));
        if self.told_bytes > self.room_bytes {
            return Err(NbdError::protocol("block status that passes the end of the disk"));
        }
        Ok(StatusEntry { length: u64::from(length), flags })
    }
}
