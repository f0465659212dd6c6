//! Disks of blocks, written to and read from the twin of EBS direct, which checks what it is sent.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use farshore_core::{Coded as _, Extent, SeededEntropy, SiteName, SystemClock};
use farshore_http::{
    Endpoint, EndpointGrant, EndpointOptions, KeyError, KeySource, Method, Request, Response, SigV4, SigV4Keys,
};
use farshore_platform::{
    BlockStatus, DiskTransport, SiteError, TransportError, WrittenBlocks,
    blocks::{
        ALLOCATED_BLOCKS, BlockDisk, BlockLister, BlockPage, BlockRead, BlockSet, BlockWords, BlockWrite,
        CHANGED_BLOCKS, ListedBlock,
    },
    extents,
};
use farshore_twin_ebs::{Faults, Options, Twin};
use futures::{StreamExt as _, TryStreamExt as _};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

const BLOCK: u64 = 512 * 1024;
const DISK: u64 = 1 << 30;
/// What the service calls a throttle.
const THROTTLES: [&str; 2] = ["RequestThrottledException", "ThrottlingException"];
const TIME: Duration = Duration::from_secs(20);

struct Keys;

impl KeySource for Keys {
    fn keys(&self) -> Result<SigV4Keys, KeyError> {
        let text = |text: &str| text.to_owned().into();
        Ok(SigV4Keys { access_key_id: text("TWIN"), secret_access_key: text("twin-secret"), session_token: None })
    }
}

/// A twin and the way to its EBS direct.
struct Ebs {
    twin: Twin,
    endpoint: Arc<Endpoint>,
    _folder: TempDir,
}

impl Ebs {
    fn start(faults: Faults) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options { faults, ..Options::new(folder.path()) };
        let twin = Twin::start(options, [0, 0]).expect("it serves");
        let grant = format!("address = '{}'\nallow-http = true\ncredential = 'keys'\nservice = 'ebs'", twin.ebs_url());
        let grant: EndpointGrant = toml::from_str(&grant).expect("a grant");
        let signing = SigV4 { region: "eu-west-1".to_owned(), service: "ebs".to_owned(), keys: Arc::new(Keys) };
        let endpoint = Endpoint::new(EndpointOptions {
            name: "ebs".parse().expect("a name"),
            grant,
            certificates: None,
            signing: Some(signing),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SeededEntropy::new(1)),
        });
        Self { twin, endpoint: Arc::new(endpoint.expect("an endpoint")), _folder: folder }
    }

    async fn ask(&self, method: Method, target: String, headers: &[(&str, String)], body: Value) -> Response {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request {
            method,
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            body: body.into(),
            throttle_words: THROTTLES.map(str::to_owned).to_vec(),
            ..Request::get(target, TIME)
        };
        self.endpoint.send(&request).await.expect("an answer")
    }

    /// Begins a snapshot; the token makes it the same one when the answer is lost.
    async fn begin(&self, token: &str, parent: Option<&str>) -> String {
        let mut body = json!({"VolumeSize": 1, "ClientToken": token, "Timeout": 60});
        if let Some(parent) = parent {
            body["ParentSnapshotId"] = parent.into();
        }
        let response = self.ask(Method::Post, "/snapshots".to_owned(), &[], body).await;
        let answer: Value = serde_json::from_slice(&response.body).expect("JSON");
        answer["SnapshotId"].as_str().unwrap_or_else(|| panic!("{} {answer}", response.status)).to_owned()
    }

    async fn complete(&self, snapshot: &str, WrittenBlocks { count, checksum }: &WrittenBlocks) -> Response {
        let headers = [
            ("x-amz-ChangedBlocksCount", count.to_string()),
            ("x-amz-Checksum", checksum.clone()),
            ("x-amz-Checksum-Algorithm", "SHA256".to_owned()),
            ("x-amz-Checksum-Aggregation-Method", "LINEAR".to_owned()),
        ];
        self.ask(Method::Post, format!("/snapshots/completion/{snapshot}"), &headers, Value::Null).await
    }

    fn words(snapshot: &str, block_bytes: u32) -> BlockWords {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        BlockWords {
            size_bytes: DISK,
            block_bytes,
            read: Some(BlockRead {
                target: format!("/snapshots/{snapshot}/blocks/{{index}}?blockToken={{key}}"),
                checksum_header: "x-amz-checksum".to_owned(),
            }),
            write: Some(BlockWrite {
                target: format!("/snapshots/{snapshot}/blocks/{{index}}"),
                headers: vec![
                    header("x-amz-Data-Length", "{length}"),
                    header("x-amz-Checksum", "{sha256}"),
                    header("x-amz-Checksum-Algorithm", "SHA256"),
                ],
            }),
            throttle_words: THROTTLES.map(str::to_owned).to_vec(),
        }
    }

    fn disk(&self, snapshot: &str, lister: Option<Arc<dyn BlockLister>>) -> BlockDisk {
        BlockDisk::new(Arc::clone(&self.endpoint), Self::words(snapshot, 512 * 1024), lister)
    }

    /// The disk of a sealed snapshot, listed by pages of so many blocks at most, as changes since another.
    fn sealed(&self, snapshot: &str, since: Option<&str>) -> BlockDisk {
        let lister = Lister {
            endpoint: Arc::clone(&self.endpoint),
            snapshot: snapshot.to_owned(),
            since: since.map(str::to_owned),
        };
        self.disk(snapshot, Some(Arc::new(lister)))
    }

    /// A sealed snapshot with these writes.
    async fn made(&self, token: &str, parent: Option<&str>, writes: &[(u64, Vec<u8>)]) -> String {
        let snapshot = self.begin(token, parent).await;
        let disk = self.disk(&snapshot, None);
        // As a restore does it: pieces of at most 1 MiB in ascending order, eight on the way at once.
        let piece = |(offset, data): &(u64, Vec<u8>)| {
            let (offset, pieces) = (*offset, data.chunks(1 << 20).map(Bytes::copy_from_slice).collect::<Vec<_>>());
            pieces.into_iter().enumerate().map(move |(index, piece)| (offset + ((index as u64) << 20), piece))
        };
        let pieces: Vec<(u64, Bytes)> = writes.iter().flat_map(piece).collect();
        let written = futures::stream::iter(pieces).for_each_concurrent(8, |(offset, piece)| {
            let disk = &disk;
            async move { disk.write(offset, piece).await.expect("a write") }
        });
        written.await;
        disk.flush().await.expect("a flush");
        let written = disk.written_blocks().expect("a summary");
        let response = self.complete(&snapshot, &written).await;
        assert!(response.is_success(), "{} {}", response.status, String::from_utf8_lossy(&response.body));
        snapshot
    }
}

struct Lister {
    endpoint: Arc<Endpoint>,
    snapshot: String,
    since: Option<String>,
}

#[async_trait::async_trait]
impl BlockLister for Lister {
    async fn page(&self, set: BlockSet, offset: u64) -> Result<BlockPage, SiteError> {
        let Self { endpoint, snapshot, since } = self;
        let (of, list, key) = match (set, since) {
            (BlockSet::Changed, Some(since)) => {
                (format!("changedblocks?firstSnapshotId={since}&"), "ChangedBlocks", "SecondBlockToken")
            }
            _ => ("blocks?".to_owned(), "Blocks", "BlockToken"),
        };
        let first = offset / BLOCK;
        let mut target = format!("/snapshots/{snapshot}/{of}maxResults=100&startingBlockIndex={first}");
        loop {
            let request =
                Request { throttle_words: THROTTLES.map(str::to_owned).to_vec(), ..Request::get(&target, TIME) };
            let answer = endpoint.send(&request).await.expect("an answer");
            let page: Value = serde_json::from_slice(&answer.body).expect("JSON");
            let blocks = page[list].as_array().unwrap_or_else(|| panic!("{page}"));
            let block = |block: &Value| ListedBlock {
                index: block["BlockIndex"].as_u64().expect("a number"),
                key: block[key].as_str().map(str::to_owned),
            };
            let blocks: Vec<ListedBlock> = blocks.iter().map(block).collect();
            match (page["NextToken"].as_str(), blocks.last()) {
                (None, _) => return Ok(BlockPage { blocks, told_to: DISK }),
                (Some(_), Some(last)) => {
                    let told_to = (last.index + 1) * BLOCK;
                    return Ok(BlockPage { blocks, told_to });
                }
                // A page without blocks, and more to come.
                (Some(next), None) => {
                    let next = next.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
                    target = format!("/snapshots/{snapshot}/{of}maxResults=100&pageToken={next}");
                }
            }
        }
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    farshore_core::Entropy::fill(&SeededEntropy::new(seed), &mut bytes);
    bytes
}

async fn told(disk: &BlockDisk, context: &str) -> Vec<BlockStatus> {
    extents(disk, context, DISK).try_collect().await.expect("extents")
}

/// The blocks of which a context says something, by what it says.
async fn blocks_with(disk: &BlockDisk, context: &str, wanted: impl Fn(u32) -> bool) -> BTreeSet<u64> {
    let told = told(disk, context).await;
    let extents = told.iter().filter(|status| wanted(status.flags)).map(|status| status.extent);
    extents.flat_map(|extent| extent.offset / BLOCK..(extent.offset + extent.length) / BLOCK).collect()
}

async fn read(disk: &BlockDisk, offset: u64, length: usize) -> Vec<u8> {
    disk.read(Extent { offset, length: length as u64 }).await.expect("a read").to_vec()
}

#[tokio::test]
async fn what_was_written_in_pieces_is_sealed_and_comes_back() {
    let ebs = Ebs::start(Faults::default());
    let data = noise(1, 3 * BLOCK as usize);
    let snapshot = ebs.begin("a", None).await;
    let disk = ebs.disk(&snapshot, None);
    // 64 KiB at a time, beginning in the middle of the second block, and far behind it one sector.
    let begins = BLOCK + BLOCK / 2;
    for (index, piece) in data.chunks(64 * 1024).enumerate() {
        disk.write(begins + index as u64 * 64 * 1024, Bytes::copy_from_slice(piece)).await.expect("a write");
    }
    disk.write(DISK - 512, Bytes::from(noise(2, 512))).await.expect("a write");
    disk.write(DISK - 2 * BLOCK, Bytes::from(vec![0; 4_096])).await.expect("zeros");
    assert_eq!(disk.written_blocks(), None, "nothing is summed up before it is flushed");
    disk.flush().await.expect("a flush");
    let written = disk.written_blocks().expect("a summary");
    assert_eq!(written.count, 6, "four blocks, the last, and the one that was written as zeros");
    assert!(ebs.complete(&snapshot, &written).await.is_success());

    let disk = ebs.sealed(&snapshot, None);
    assert_eq!(read(&disk, begins, data.len()).await, data);
    assert_eq!(read(&disk, DISK - 512, 512).await, noise(2, 512));
    assert_eq!(read(&disk, begins - 4_096, 4_608).await[..4_096], vec![0; 4_096]);
    assert_eq!(read(&disk, 100 * BLOCK, 4 * BLOCK as usize).await, vec![0; 4 * BLOCK as usize]);
    let allocated = blocks_with(&disk, ALLOCATED_BLOCKS, |flags| flags & 2 == 0).await;
    assert_eq!(allocated, [1, 2, 3, 4, 2046, 2047].into());
    let gets = ebs.twin.calls().iter().filter(|call| call.action == "ebs:GetSnapshotBlock").count();
    assert_eq!(gets, 4 + 1 + 1, "zeros are not asked for");
}

#[tokio::test]
async fn a_disk_that_began_from_another_reads_as_that_where_nobody_wrote() {
    let ebs = Ebs::start(Faults::default());
    let base = ebs.made("base", None, &[(0, noise(1, 32 * BLOCK as usize))]).await;
    let snapshot = ebs.begin("next", Some(&base)).await;
    let disk = ebs.disk(&snapshot, None);
    assert_eq!(disk.block_bytes(), Some(BLOCK));
    disk.write(BLOCK, Bytes::from(noise(2, BLOCK as usize))).await.expect("a write");
    disk.write(2 * BLOCK, Bytes::from(vec![0; BLOCK as usize])).await.expect("zeros");
    disk.write_zeroes(Extent { offset: 3 * BLOCK, length: 10 * BLOCK }).await.expect("zeros");
    disk.flush().await.expect("a flush");
    let written = disk.written_blocks().expect("a summary");
    assert_eq!(written.count, 12);
    assert!(ebs.complete(&snapshot, &written).await.is_success());

    let mut expected = noise(1, 32 * BLOCK as usize);
    expected[BLOCK as usize..2 * BLOCK as usize].copy_from_slice(&noise(2, BLOCK as usize));
    expected[2 * BLOCK as usize..13 * BLOCK as usize].fill(0);
    let sealed = ebs.sealed(&snapshot, None);
    for (index, expected) in expected.chunks(1 << 20).enumerate() {
        assert!(read(&sealed, (index as u64) << 20, expected.len()).await == expected, "at MiB {index}");
    }
}

#[tokio::test]
async fn what_is_sealed_with_another_summary_is_no_snapshot() {
    let ebs = Ebs::start(Faults::default());
    for (token, count, checksum, is_right) in
        [("a", 1, None, true), ("b", 2, None, false), ("c", 1, Some("A".repeat(43) + "="), false)]
    {
        let snapshot = ebs.begin(token, None).await;
        let disk = ebs.disk(&snapshot, None);
        disk.write(0, Bytes::from(noise(1, 512))).await.expect("a write");
        disk.flush().await.expect("a flush");
        let checksum = checksum.unwrap_or_else(|| disk.written_blocks().expect("a summary").checksum);
        ebs.complete(&snapshot, &WrittenBlocks { count, checksum }).await;
        let listed = ebs.ask(Method::Get, format!("/snapshots/{snapshot}/blocks"), &[], Value::Null).await;
        assert_eq!(listed.is_success(), is_right, "{token}: {} {:?}", listed.status, listed.body);
    }
}

#[tokio::test]
async fn a_disk_may_end_inside_its_last_block() {
    let ebs = Ebs::start(Faults::default());
    let snapshot = ebs.begin("a", None).await;
    let size_bytes = DISK - BLOCK + 1_536;
    let words = BlockWords { size_bytes, ..Ebs::words(&snapshot, 512 * 1024) };
    let disk = BlockDisk::new(Arc::clone(&ebs.endpoint), words.clone(), None);
    disk.write(size_bytes - 512, Bytes::from(vec![7; 512])).await.expect("a write");
    disk.write(size_bytes, Bytes::from(vec![7; 512])).await.expect_err("behind the end");
    disk.flush().await.expect("a flush");
    assert!(ebs.complete(&snapshot, &disk.written_blocks().expect("a summary")).await.is_success());
    let lister = Lister { endpoint: Arc::clone(&ebs.endpoint), snapshot, since: None };
    let disk = BlockDisk::new(Arc::clone(&ebs.endpoint), words, Some(Arc::new(Short(lister, size_bytes))));
    assert_eq!(read(&disk, size_bytes - 1_024, 1_024).await, [vec![0; 512], vec![7; 512]].concat());
}

/// A lister of a disk that ends before the snapshot does.
struct Short(Lister, u64);

#[async_trait::async_trait]
impl BlockLister for Short {
    async fn page(&self, set: BlockSet, offset: u64) -> Result<BlockPage, SiteError> {
        let page = self.0.page(set, offset).await?;
        Ok(BlockPage { told_to: page.told_to.min(self.1), ..page })
    }
}

/// Pieces of two blocks each, eight on the way: one that waits for its first block must not be overtaken with its second.
#[tokio::test]
async fn a_dense_disk_is_written_by_pieces_side_by_side() {
    let ebs = Ebs::start(Faults::default());
    let data = noise(3, 24 << 20);
    let snapshot = ebs.made("a", None, &[(0, data.clone())]).await;
    let disk = ebs.sealed(&snapshot, None);
    for (index, expected) in data.chunks(1 << 20).enumerate() {
        assert!(read(&disk, (index as u64) << 20, expected.len()).await == expected, "at MiB {index}");
    }
}

#[tokio::test]
async fn changes_are_the_blocks_that_the_platform_names() {
    let ebs = Ebs::start(Faults { short_pages: 300, over_reported: 0, seed: 5, ..Faults::default() });
    let writes = |numbers: &[u64], seed: u64| -> Vec<(u64, Vec<u8>)> {
        numbers.iter().map(|number| (number * BLOCK, noise(seed + number, BLOCK as usize))).collect()
    };
    let many: Vec<u64> = (0..250).map(|number| number * 3).collect();
    let first = ebs.made("a", None, &writes(&many, 0)).await;
    let second = ebs.made("b", Some(&first), &writes(&[3, 7, 600, 2047], 5_000)).await;
    let disk = ebs.sealed(&second, Some(&first));
    assert_eq!(blocks_with(&disk, CHANGED_BLOCKS, |flags| flags & 1 == 1).await, [3, 7, 600, 2047].into());
    let mut all: BTreeSet<u64> = many.into_iter().collect();
    all.extend([7, 2047]);
    assert_eq!(blocks_with(&disk, ALLOCATED_BLOCKS, |flags| flags & 2 == 0).await, all);
    for (number, seed) in [(3, 5_000), (6, 0), (600, 5_000), (747, 0)] {
        assert_eq!(read(&disk, number * BLOCK, BLOCK as usize).await, noise(seed + number, BLOCK as usize), "{number}");
    }
}

#[tokio::test]
async fn storms_pass_and_leave_the_right_bytes() {
    // Few throttles: the twin throttles whatever the pace is, and the endpoint gives way each time.
    for seed in 1..3 {
        let faults = Faults { seed, throttled: 30, failing: 200, lost: 200, short_pages: 200, ..Faults::default() };
        let ebs = Ebs::start(faults);
        let writes: Vec<_> = (0..30).map(|number| (number * 2 * BLOCK, noise(number, BLOCK as usize))).collect();
        let snapshot = ebs.made("a", None, &writes).await;
        let disk = ebs.sealed(&snapshot, None);
        for (offset, data) in &writes {
            assert_eq!(&read(&disk, *offset, data.len()).await, data, "seed {seed}");
        }
        assert!(ebs.twin.calls().iter().filter(|call| call.error.is_some()).count() > 10, "there was a storm");
    }
}

#[tokio::test]
async fn keys_that_expired_are_asked_for_again() {
    let ebs = Ebs::start(Faults::default());
    let data = noise(1, BLOCK as usize);
    let snapshot = ebs.made("a", None, &[(0, data.clone())]).await;
    let disk = ebs.sealed(&snapshot, None);
    assert_eq!(told(&disk, ALLOCATED_BLOCKS).await.len(), 2);
    ebs.twin.pass(Duration::from_secs(8 * 86_400));
    assert_eq!(read(&disk, 0, data.len()).await, data);
    let refused =
        ebs.twin.calls().iter().filter(|call| call.action == "ebs:GetSnapshotBlock" && call.error.is_some()).count();
    assert_eq!(refused, 1);
}

#[tokio::test]
async fn writes_go_forward_and_a_block_that_was_not_sent_is_not_forgotten() {
    let ebs = Ebs::start(Faults::default());
    let snapshot = ebs.begin("a", None).await;
    let disk = ebs.disk(&snapshot, None);
    let block = Bytes::from(noise(1, BLOCK as usize));
    // The first goes when enough are behind it.
    for number in 5..22 {
        disk.write(number * BLOCK, block.clone()).await.expect("a write");
    }
    let error = disk.write(5 * BLOCK, block.clone()).await.expect_err("it was sent");
    assert!(matches!(error, TransportError::Unsupported { .. }), "{error}");
    disk.write(4 * BLOCK, block.clone()).await.expect_err("before one that was sent");
    disk.write(6 * BLOCK, block.clone()).await.expect("one that is held back");
    disk.write_zeroes(Extent { offset: 0, length: 6 * BLOCK }).await.expect_err("it cannot be taken back");
    // A snapshot that nobody knows any more.
    ebs.twin.pass(Duration::from_secs(3 * 3_600));
    let error = disk.write(22 * BLOCK, block.clone()).await.expect_err("the snapshot's time is over");
    assert_eq!(error.code().to_string(), "FS3104");
    assert!(error.to_string().contains("the service answered with the status 4"), "{error}");
    let error = disk.write(23 * BLOCK, block).await.expect_err("a block is missing");
    assert!(error.is_lost(), "{error}");
    disk.flush().await.expect_err("a block is missing");
    assert_eq!(disk.written_blocks(), None);
}

/// A lister that says what it is told to.
struct Saying(Vec<u64>, u64);

#[async_trait::async_trait]
impl BlockLister for Saying {
    async fn page(&self, _: BlockSet, _: u64) -> Result<BlockPage, SiteError> {
        let block = |index: &u64| ListedBlock { index: *index, key: Some("key".to_owned()) };
        Ok(BlockPage { blocks: self.0.iter().map(block).collect(), told_to: self.1 })
    }
}

#[tokio::test]
async fn a_listing_that_cannot_be_true_ends_the_reading() {
    let ebs = Ebs::start(Faults::default());
    let wrong: [(&[u64], u64); 8] = [
        (&[], 0),
        (&[], BLOCK),
        (&[], DISK + BLOCK),
        (&[], 10 * BLOCK + 512),
        (&[1], DISK),
        (&[10], 10 * BLOCK),
        (&[5, 5], DISK),
        (&[6, 5], DISK),
    ];
    for (blocks, told_to) in wrong {
        let disk = ebs.disk("snap-1", Some(Arc::new(Saying(blocks.to_vec(), told_to))));
        let asked = disk.block_status(CHANGED_BLOCKS, Extent { offset: 2 * BLOCK, length: DISK - 2 * BLOCK }).await;
        assert!(matches!(asked, Err(TransportError::Protocol { .. })), "{blocks:?} to {told_to}: {asked:?}");
    }
    let disk = ebs.disk("snap-1", None);
    disk.read(Extent { offset: 0, length: 512 }).await.expect_err("nobody lists it");
    disk.block_status("base:allocation", Extent { offset: 0, length: 512 }).await.expect_err("no such context");
}

/// A lister whose site fails.
struct Failing;

#[async_trait::async_trait]
impl BlockLister for Failing {
    async fn page(&self, _: BlockSet, _: u64) -> Result<BlockPage, SiteError> {
        let site: SiteName = "cloud".parse().expect("a name");
        Err(SiteError::CaptureBroken { site, message: "the snapshot is gone".to_owned() })
    }
}

#[tokio::test]
async fn what_the_site_says_when_it_fails_is_told() {
    let ebs = Ebs::start(Faults::default());
    let error = ebs.disk("snap-1", Some(Arc::new(Failing))).read(Extent { offset: 0, length: 512 }).await;
    let error = error.expect_err("it failed").to_string();
    assert!(error.contains("the snapshot is gone"), "{error}");
}

#[tokio::test]
async fn a_block_with_other_bytes_than_its_checksum_is_read_again_and_then_refused() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let asked: Arc<std::sync::atomic::AtomicUsize> = Arc::default();
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4_096];
            if stream.read(&mut head).await.is_err() {
                continue;
            }
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\nx-amz-checksum: AAAA\r\ncontent-length: 4096\r\n\r\n";
            // Whether the client reads it is the client's to say.
            let _ = stream.write_all(&[head.as_bytes(), &[7; 4_096]].concat()).await;
        }
    });
    let grant = toml::from_str(&format!("address = 'http://{address}'\nallow-http = true")).expect("a grant");
    let endpoint = Endpoint::new(EndpointOptions {
        name: "ebs".parse().expect("a name"),
        grant,
        certificates: None,
        signing: None,
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SeededEntropy::new(1)),
    });
    let words = Ebs::words("snap-1", 4_096);
    let disk = BlockDisk::new(Arc::new(endpoint.expect("an endpoint")), words, Some(Arc::new(Saying(vec![0], DISK))));
    let error = disk.read(Extent { offset: 0, length: 512 }).await.expect_err("other bytes");
    assert!(error.to_string().contains("not AAAA as it should"), "{error}");
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("FARSHORE_LONG").is_some() { 100 } else { 12 }))]

    /// Pieces of any size, in ascending order, some of them zeros.
    #[test]
    fn any_pieces_make_the_disk_that_they_say(
        pieces in prop::collection::vec((0_u64..6, 1_usize..12, prop::bool::weighted(0.2)), 1..30)
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let ebs = Ebs::start(Faults::default());
            let (mut model, mut writes, mut offset) = (vec![0_u8; 64 << 20], Vec::new(), 0_u64);
            for (index, (gap, chunks, is_zero)) in pieces.into_iter().enumerate() {
                offset += gap * 64 * 1024;
                let length = chunks * 64 * 1024;
                let data = if is_zero { vec![0; length] } else { noise(index as u64, length) };
                let at = usize::try_from(offset).expect("small");
                model[at..at + length].copy_from_slice(&data);
                writes.push((offset, data));
                offset += length as u64;
            }
            let snapshot = ebs.made("a", None, &writes).await;
            let disk = ebs.sealed(&snapshot, None);
            for (index, expected) in model.chunks(1 << 20).enumerate() {
                assert!(read(&disk, (index as u64) << 20, expected.len()).await == expected, "at MiB {index}");
            }
        });
    }
}
