//! Copies an NBD export to a file, and says how fast: `nbd-copy SOCKET FILE [REQUESTS]`.
//!
//! `SOCKET` is the path of a unix socket, or `HOST:PORT`. What the server calls zeros is not read. The file is replaced.

use std::{error::Error, fs::File, path::PathBuf, sync::Arc};

use bytes::Bytes;
use farshore_core::{Clock, Extent, SystemClock};
use farshore_platform::{
    DiskTransport, TransportError, extents,
    file::{FileDisk, FileOptions},
    nbd::{NbdAddress, NbdDisk, NbdEndpoint, NbdOptions},
};
use futures::{StreamExt, TryStreamExt, stream};

const CONTEXT: &str = "base:allocation";
const READS_ZERO: u32 = 2;
const PIECE_BYTES: u64 = 1024 * 1024;
const REQUESTS_DEFAULT: usize = 8;

fn pieces(whole: Extent) -> impl Iterator<Item = Extent> {
    let piece =
        move |start: u64| Extent { offset: whole.offset + start, length: (whole.length - start).min(PIECE_BYTES) };
    (0..whole.length.div_ceil(PIECE_BYTES)).map(move |index| piece(index * PIECE_BYTES))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (from, to, requests) = match arguments.as_slice() {
        [from, to] => (from, to, REQUESTS_DEFAULT),
        [from, to, requests] => (from, to, requests.parse()?),
        _ => return Err("usage: nbd-copy SOCKET|HOST:PORT FILE [REQUESTS]".into()),
    };
    let address = match from.rsplit_once(':') {
        Some((host, port)) if !from.starts_with('/') => NbdAddress::Tcp { host: host.into(), port: port.parse()? },
        _ => NbdAddress::Unix(PathBuf::from(from)),
    };
    let clock = Arc::new(SystemClock);
    let endpoint = NbdEndpoint { address, export: String::new(), read_only: true, contexts: vec![CONTEXT.to_owned()] };
    let source = NbdDisk::connect(endpoint, NbdOptions::default(), clock.clone()).await?;
    let size_bytes = source.size_bytes();
    File::create(to)?.set_len(size_bytes)?;
    let target = FileDisk::open(to, false, FileOptions::default()).await?;

    let started = clock.monotonic();
    let whole = Extent { offset: 0, length: size_bytes };
    let data = if source.contexts().any(|context| context == CONTEXT) {
        let walk = extents(&source, CONTEXT, size_bytes);
        walk.try_filter_map(|status| async move { Ok((status.flags & READS_ZERO == 0).then_some(status.extent)) })
            .boxed()
    } else {
        stream::iter([Ok::<_, TransportError>(whole)]).boxed()
    };
    let (source_disk, target_disk) = (&source, &target);
    let copied_bytes = data
        .map_ok(|extent| stream::iter(pieces(extent).map(Ok::<Extent, TransportError>)))
        .try_flatten()
        .map_ok(|piece| async move {
            let data: Bytes = source_disk.read(piece).await?;
            target_disk.write(piece.offset, data).await?;
            Ok(piece.length)
        })
        .try_buffer_unordered(requests.max(1))
        .try_fold(0, |sum: u64, length| async move { Ok(sum + length) })
        .await?;
    let seconds = (clock.monotonic() - started).as_secs_f64();
    source.close().await?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{:.0} MiB, {:.0} MiB of them data, in {seconds:.3} s: {:.0} MB/s of data",
        mib(size_bytes),
        mib(copied_bytes),
        copied_bytes as f64 / seconds / 1e6,
    );
    Ok(())
}
