//! The numbers and the fixed-size heads of the protocol, without any input or output.
//!
//! Names and values are those of <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>. Every number is
//! big-endian.

use std::io;

use super::NbdError;

pub const SERVER_MAGIC: u64 = 0x4e42_444d_4147_4943;
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

pub const HANDSHAKE_FIXED_NEWSTYLE: u16 = 1;
pub const HANDSHAKE_NO_ZEROES: u16 = 2;

pub const OPTION_EXPORT_NAME: u32 = 1;
pub const OPTION_ABORT: u32 = 2;
pub const OPTION_GO: u32 = 7;
pub const OPTION_STRUCTURED_REPLY: u32 = 8;
pub const OPTION_SET_META_CONTEXT: u32 = 10;

pub const REPLY_ACK: u32 = 1;
pub const REPLY_INFO: u32 = 3;
pub const REPLY_META_CONTEXT: u32 = 4;
pub const REPLY_ERROR_BIT: u32 = 1 << 31;
pub const REPLY_ERROR_UNSUPPORTED: u32 = REPLY_ERROR_BIT | 1;
pub const REPLY_ERROR_POLICY: u32 = REPLY_ERROR_BIT | 2;
pub const REPLY_ERROR_TLS_REQUIRED: u32 = REPLY_ERROR_BIT | 5;
pub const REPLY_ERROR_UNKNOWN: u32 = REPLY_ERROR_BIT | 6;
pub const REPLY_ERROR_SHUTDOWN: u32 = REPLY_ERROR_BIT | 7;

pub const INFO_EXPORT: u16 = 0;
pub const INFO_BLOCK_SIZE: u16 = 3;

pub const EXPORT_READ_ONLY: u16 = 1 << 1;
pub const EXPORT_SEND_FLUSH: u16 = 1 << 2;
pub const EXPORT_SEND_WRITE_ZEROES: u16 = 1 << 6;

pub const CHUNK_FLAG_DONE: u16 = 1;
pub const CHUNK_NONE: u16 = 0;
pub const CHUNK_OFFSET_DATA: u16 = 1;
pub const CHUNK_OFFSET_HOLE: u16 = 2;
pub const CHUNK_BLOCK_STATUS: u16 = 5;
pub const CHUNK_ERROR_BIT: u16 = 1 << 15;
pub const CHUNK_ERROR_OFFSET: u16 = CHUNK_ERROR_BIT | 2;

/// A string of the protocol is at most this long.
pub const STRING_BYTES_MAX: usize = 4096;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
    WriteZeroes = 6,
    BlockStatus = 7,
}

/// The head of a request; a write's data follow it.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead {
    pub command: Command,
    pub cookie: u64,
    pub offset: u64,
    pub length: u32,
}

impl RequestHead {
    /// 28 bytes.
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(28);
        bytes.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        // No command flag is ever set: no forced unit access, holes are welcome, and a server may answer a question
        // about blocks with as many entries as it likes.
        bytes.extend_from_slice(&0_u16.to_be_bytes());
        bytes.extend_from_slice(&(self.command as u16).to_be_bytes());
        bytes.extend_from_slice(&self.cookie.to_be_bytes());
        bytes.extend_from_slice(&self.offset.to_be_bytes());
        bytes.extend_from_slice(&self.length.to_be_bytes());
        bytes
    }
}

/// Takes numbers off the front of a message; running out of bytes is the server's lie.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    rest: &'a [u8],
    message: &'static str,
}

impl<'a> Fields<'a> {
    /// The fields of a message, which is named in errors.
    pub const fn new(message: &'static str, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, message }
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], NbdError> {
        let too_short = || NbdError::protocol(format!("a {} ends too early", self.message));
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(too_short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], NbdError> {
        let mut array = [0; COUNT];
        array.copy_from_slice(self.bytes(COUNT)?);
        Ok(array)
    }

    pub fn u16(&mut self) -> Result<u16, NbdError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, NbdError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, NbdError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// What has not been taken yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// What an error number of the protocol means here. Numbers that the protocol does not define mean a failed device.
pub fn error_of_number(number: u32) -> io::Error {
    use rustix::io::Errno;
    match number {
        1 => Errno::PERM.into(),
        12 => Errno::NOMEM.into(),
        22 => Errno::INVAL.into(),
        28 => Errno::NOSPC.into(),
        75 => Errno::OVERFLOW.into(),
        95 => Errno::OPNOTSUPP.into(),
        108 => Errno::SHUTDOWN.into(),
        _ => Errno::IO.into(),
    }
}

/// A server's text as it can be shown: cut to 256 characters, control characters escaped.
pub fn shown(bytes: &[u8]) -> String {
    let cut = bytes.get(..bytes.len().min(STRING_BYTES_MAX)).unwrap_or_default();
    String::from_utf8_lossy(cut)
        .chars()
        .take(256)
        .flat_map(|character| {
            let (escaped, plain) =
                if character.is_control() { (Some(character.escape_default()), None) } else { (None, Some(character)) };
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_head_has_the_layout_of_the_protocol() {
        let head = RequestHead { command: Command::BlockStatus, cookie: 0x0102, offset: 0x1_0000_0000, length: 0x200 };
        let expected = [
            [0x25, 0x60, 0x95, 0x13, 0, 0, 0, 7].as_slice(),
            &[0, 0, 0, 0, 0, 0, 1, 2],
            &[0, 0, 0, 1, 0, 0, 0, 0],
            &[0, 0, 2, 0],
        ];
        assert_eq!(head.encode(), expected.concat());
    }

    #[test]
    fn text_from_a_server_cannot_drive_a_terminal() {
        assert_eq!(shown(b"no \x1b[2Jroom\n"), "no \\u{1b}[2Jroom\\n");
        assert_eq!(shown(&[b'x'; 5000]).len(), 256);
        assert_eq!(shown(&[0xff, b'a']), "\u{fffd}a");
    }
}
