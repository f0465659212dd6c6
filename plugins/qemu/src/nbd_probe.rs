//! One small read through an NBD export: the only honest way to ask whether a capture still holds its instant.
//!
//! QEMU tells nobody that a copy-before-write filter gave its snapshot up: there is no event and no query. But from then
//! on it refuses *every* read of the view, wherever it is, for as long as the view exists. So a read of the first sector
//! that succeeds after the last real read proves that the view was whole until then. The bytes are thrown away.
//!
//! This speaks just enough of the protocol (fixed newstyle, `NBD_OPT_GO`, one `NBD_CMD_READ`, simple replies) for that;
//! what moves disks is the host's client.

use crate::{
    error::{PlatformError, Result, sentence},
    ports::{Connection, Host, HostError},
};

const TIMEOUT_MILLISECONDS: u32 = 10_000;
const SECTOR_BYTES: u32 = 512;
const OPTION_REPLY_BYTES_MAX: usize = 64 * 1024;
const OPTION_REPLIES_MAX: usize = 16;

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const FIXED_NEWSTYLE_NO_ZEROES: u32 = 3;
const COMMAND_READ: u16 = 0;
const COMMAND_DISCONNECT: u16 = 2;

struct Probe {
    connection: Box<dyn Connection>,
    buffer: Vec<u8>,
}

/// Why a view cannot be read.
enum Trouble {
    /// It will not be readable again.
    Broken(String),
    /// Nobody can say now.
    Unknown(HostError),
}

impl Probe {
    fn take(&mut self, count: usize) -> std::result::Result<Vec<u8>, Trouble> {
        while self.buffer.len() < count {
            let chunk = self.connection.read(READ_BYTES_MAX, TIMEOUT_MILLISECONDS).map_err(Trouble::Unknown)?;
            if chunk.bytes.is_empty() && chunk.ended {
                return Err(Trouble::Broken("QEMU closed the connection".into()));
            }
            self.buffer.extend_from_slice(&chunk.bytes);
        }
        Ok(self.buffer.drain(..count).collect())
    }

    fn take_number(&mut self, bytes: usize) -> std::result::Result<u64, Trouble> {
        Ok(self.take(bytes)?.into_iter().fold(0, |number, byte| (number << 8) | u64::from(byte)))
    }

    fn write(&mut self, bytes: &[u8]) -> std::result::Result<(), Trouble> {
        self.connection.write(bytes).map_err(Trouble::Unknown)
    }

    fn negotiate(&mut self, export: &str) -> std::result::Result<(), Trouble> {
        self.take(18)?;
        let name = export.as_bytes();
        let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
        let mut bytes = FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes().to_vec();
        bytes.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        bytes.extend_from_slice(&OPTION_GO.to_be_bytes());
        bytes.extend_from_slice(&length.saturating_add(6).to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&[0, 0]);
        self.write(&bytes)?;
        for _ in 0..OPTION_REPLIES_MAX {
            let (magic, _option, reply) = (self.take_number(8)?, self.take_number(4)?, self.take_number(4)?);
            let length = usize::try_from(self.take_number(4)?).unwrap_or(usize::MAX);
            if magic != OPTION_REPLY_MAGIC || length > OPTION_REPLY_BYTES_MAX {
                return Err(Trouble::Broken("what listens on the socket is not an NBD server".into()));
            }
            self.take(length)?;
            match u32::try_from(reply).unwrap_or(u32::MAX) {
                REPLY_ACK => return Ok(()),
                REPLY_INFO => {}
                _ => return Err(Trouble::Broken(format!("QEMU no longer offers the export {export}"))),
            }
        }
        Err(Trouble::Broken("the NBD server never agreed".into()))
    }

    fn request(&mut self, command: u16, length: u32) -> std::result::Result<(), Trouble> {
        let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&0_u16.to_be_bytes());
        bytes.extend_from_slice(&command.to_be_bytes());
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(&length.to_be_bytes());
        self.write(&bytes)
    }

    fn read_first_sector(&mut self) -> std::result::Result<(), Trouble> {
        self.request(COMMAND_READ, SECTOR_BYTES)?;
        let (magic, error, _cookie) = (self.take_number(4)?, self.take_number(4)?, self.take_number(8)?);
        if magic != u64::from(SIMPLE_REPLY_MAGIC) {
            return Err(Trouble::Broken("the NBD server answered nonsense".into()));
        }
        if error != 0 {
            return Err(Trouble::Broken(format!("QEMU refuses to read the frozen view (error {error})")));
        }
        self.take(SECTOR_BYTES as usize)?;
        self.request(COMMAND_DISCONNECT, 0)
    }
}

const READ_BYTES_MAX: u32 = 64 * 1024;

/// Asks whether an export can still be read.
///
/// # Errors
/// `capture-broken` when it cannot, `unreachable` when QEMU does not answer in time.
pub fn check(host: &dyn Host, socket: &str, export: &str) -> Result<()> {
    let outcome = match host.connect_unix(socket) {
        Ok(connection) => {
            let mut probe = Probe { connection, buffer: Vec::new() };
            probe.negotiate(export).and_then(|()| probe.read_first_sector())
        }
        Err(error @ (HostError::NotFound(_) | HostError::Unreachable(_))) => {
            Err(Trouble::Broken(format!("QEMU is no longer there: {}", sentence(&error))))
        }
        Err(error) => Err(Trouble::Unknown(error)),
    };
    outcome.map_err(|trouble| match trouble {
        Trouble::Broken(text) => PlatformError::CaptureBroken(text),
        Trouble::Unknown(HostError::Unreachable(text)) => PlatformError::CaptureBroken(text),
        Trouble::Unknown(error) => PlatformError::Unreachable(sentence(&error).to_owned()),
    })
}
