//! The client as a [`DiskTransport`]: pieces of a size that the server takes, and errors that name the export.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use farshore_core::{Clock, Extent};

use super::{BlockSizes, NbdClient, NbdEndpoint, NbdError, NbdOptions, wire};
use crate::{
    TransportError,
    transport::{BlockStatus, DiskTransport, REQUEST_BYTES_MAX, check_extent},
};

/// The most bytes that one request zeroes: a server that has to write them is done within the timeout.
const ZEROES_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// The most zeros that are sent at once to a server that cannot write them by itself.
const ZEROES_SENT_BYTES_MAX: u64 = 1024 * 1024;
/// The most bytes that one question about blocks covers, before it is widened to whole blocks.
const STATUS_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// A disk behind an NBD server.
#[derive(Debug)]
pub struct NbdDisk {
    client: NbdClient,
    name: String,
}

impl NbdDisk {
    /// Connects to an export. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`TransportError::Open`] when no connection comes about, [`TransportError::Unsupported`] when the server is too
    /// old or its disk ends within a block, [`TransportError::Protocol`] when it lies.
    pub async fn connect(
        endpoint: NbdEndpoint,
        options: NbdOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TransportError> {
        let name = endpoint.to_string();
        match NbdClient::connect(&endpoint, &options, clock).await {
            Ok(client) => Ok(Self { client, name }),
            Err(NbdError::Refused { kind, what } | NbdError::Lost { kind, what }) => {
                Err(TransportError::Open { transport: name, source: io::Error::new(kind, what) })
            }
            Err(NbdError::Request { number, .. }) => {
                Err(TransportError::Open { transport: name, source: wire::error_of_number(number) })
            }
            Err(NbdError::Protocol { what }) => Err(TransportError::Protocol { transport: name, what }),
            Err(NbdError::Unsupported { what }) => Err(TransportError::Unsupported { transport: name, what }),
        }
    }

    /// Those of the requested contexts that the server has.
    pub fn contexts(&self) -> impl Iterator<Item = &str> {
        self.client.contexts()
    }

    /// What the server told about the sizes of requests. Reads and questions of any alignment are widened; writes must
    /// keep to the minimum.
    pub const fn block_sizes(&self) -> BlockSizes {
        self.client.block_sizes()
    }

    fn error(&self, operation: &'static str, extent: Extent, error: NbdError) -> TransportError {
        let transport = self.name.clone();
        match error {
            NbdError::Request { number, message } => {
                let source = wire::error_of_number(number);
                let writes = matches!(operation, "write" | "zero" | "flush");
                if writes && source.kind() == io::ErrorKind::StorageFull {
                    return TransportError::NoSpace { transport, extent };
                }
                let source = match message.as_str() {
                    "" => source,
                    words => io::Error::new(source.kind(), format!("{source}: {words}")),
                };
                TransportError::Request { transport, operation, extent, source }
            }
            NbdError::Refused { kind, what } | NbdError::Lost { kind, what } => {
                TransportError::Lost { transport, source: io::Error::new(kind, what) }
            }
            NbdError::Protocol { what } => TransportError::Protocol { transport, what },
            NbdError::Unsupported { what } => TransportError::Unsupported { transport, what },
        }
    }

    fn check(&self, extent: Extent, bytes_max: u64) -> Result<(), TransportError> {
        check_extent(&self.name, self.client.size_bytes(), extent, bytes_max)
    }

    /// The smallest extent of whole blocks that covers this one. It is on the disk, because the disk is whole blocks.
    fn widen(&self, extent: Extent) -> Extent {
        let block = u64::from(self.block_sizes().minimum);
        let offset = round_down(extent.offset, block);
        let end = extent.offset.saturating_add(extent.length);
        let end = end.checked_next_multiple_of(block).unwrap_or(end);
        Extent { offset, length: end.saturating_sub(offset) }
    }

    /// The largest piece of at most this many bytes, in whole blocks.
    fn piece_bytes(&self, bytes_max: u64) -> u64 {
        let block = u64::from(self.block_sizes().minimum);
        round_down(bytes_max, block).max(block)
    }
}

fn round_down(number: u64, multiple: u64) -> u64 {
    number.saturating_sub(number.checked_rem(multiple).unwrap_or(0))
}

/// Cuts an extent into pieces, in order.
fn pieces(extent: Extent, piece_bytes: u64) -> impl Iterator<Item = (Extent, u32)> {
    let end = extent.offset.saturating_add(extent.length);
    let mut offset = extent.offset;
    std::iter::from_fn(move || {
        let length = end.saturating_sub(offset).min(piece_bytes).min(u64::from(u32::MAX));
        let piece = Extent { offset, length };
        offset = offset.saturating_add(length);
        u32::try_from(length).ok().filter(|length| *length > 0).map(|length| (piece, length))
    })
}

#[async_trait::async_trait]
impl DiskTransport for NbdDisk {
    fn size_bytes(&self) -> u64 {
        self.client.size_bytes()
    }

    async fn read(&self, extent: Extent) -> Result<Bytes, TransportError> {
        self.check(extent, REQUEST_BYTES_MAX)?;
        let wide = self.widen(extent);
        let mut parts = Vec::new();
        for (piece, length) in pieces(wide, self.piece_bytes(u64::from(self.block_sizes().maximum))) {
            let data = self.client.read(piece.offset, length).await;
            parts.push(data.map_err(|error| self.error("read", piece, error))?);
        }
        let whole = match parts.as_slice() {
            [one] => one.clone(),
            many => many
                .iter()
                .fold(BytesMut::new(), |mut whole, part| {
                    whole.extend_from_slice(part);
                    whole
                })
                .freeze(),
        };
        // Both numbers are at most 4 MiB and a block, and the parts are as long as they were asked to be.
        let start = extent.offset.saturating_sub(wide.offset) as usize;
        Ok(whole.slice(start..start.saturating_add(extent.length as usize)))
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), TransportError> {
        let extent = Extent { offset, length: data.len() as u64 };
        self.check(extent, REQUEST_BYTES_MAX)?;
        let mut rest = data;
        for (piece, length) in pieces(extent, self.piece_bytes(u64::from(self.block_sizes().maximum))) {
            let part = rest.split_to((length as usize).min(rest.len()));
            self.client.write(piece.offset, part).await.map_err(|error| self.error("write", piece, error))?;
        }
        Ok(())
    }

    async fn write_zeroes(&self, extent: Extent) -> Result<(), TransportError> {
        self.check(extent, u64::MAX)?;
        if self.client.can_write_zeroes() {
            for (piece, length) in pieces(extent, self.piece_bytes(ZEROES_BYTES_MAX)) {
                let zeroed = self.client.write_zeroes(piece.offset, length).await;
                zeroed.map_err(|error| self.error("zero", piece, error))?;
            }
            return Ok(());
        }
        let piece_bytes = self.piece_bytes(ZEROES_SENT_BYTES_MAX.min(u64::from(self.block_sizes().maximum)));
        let zeros = Bytes::from(vec![0; piece_bytes.min(extent.length) as usize]);
        for (piece, length) in pieces(extent, piece_bytes) {
            let part = zeros.slice(..(length as usize).min(zeros.len()));
            self.client.write(piece.offset, part).await.map_err(|error| self.error("zero", piece, error))?;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), TransportError> {
        if self.client.is_read_only() {
            return Ok(());
        }
        let disk = Extent { offset: 0, length: self.client.size_bytes() };
        self.client.flush().await.map_err(|error| self.error("flush", disk, error))
    }

    async fn block_status(&self, context: &str, extent: Extent) -> Result<Vec<BlockStatus>, TransportError> {
        self.check(extent, u64::MAX)?;
        let asked = Extent { length: extent.length.min(STATUS_BYTES_MAX), ..extent };
        let wide = self.widen(asked);
        let length = u32::try_from(wide.length).unwrap_or(u32::MAX);
        let entries = self.client.block_status(context, wide.offset, length).await;
        let entries = entries.map_err(|error| self.error("ask about", wide, error))?;
        // What the question was widened by is cut off again, at both ends: an answer is about what was asked.
        let end = extent.offset.saturating_add(extent.length);
        let mut statuses = Vec::with_capacity(entries.len());
        let mut entry_offset = wide.offset;
        for entry in entries {
            let entry_end = entry_offset.saturating_add(entry.length);
            let offset = entry_offset.max(extent.offset);
            let length = entry_end.min(end).saturating_sub(offset);
            if length > 0 {
                statuses.push(BlockStatus { extent: Extent { offset, length }, flags: entry.flags });
            }
            entry_offset = entry_end;
        }
        if statuses.is_empty() {
            let what = "block status that ends before the first byte that was asked about".into();
            return Err(TransportError::Protocol { transport: self.name.clone(), what });
        }
        Ok(statuses)
    }

    async fn close(&self) -> Result<(), TransportError> {
        self.client.disconnect().await;
        Ok(())
    }
}
