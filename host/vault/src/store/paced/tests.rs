use std::{collections::BTreeMap, num::NonZeroU64, process};

use farshore_core::{Limit, Limits, Rate};
use futures::{StreamExt as _, TryStreamExt as _, future};
use object_store::{
    BackoffConfig, ClientConfigKey, ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum},
    path::Path,
};

use self::server::{Server, Way};
use super::*;

mod server;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// What passes at once after a rest, as time.
const BURST: Duration = Duration::from_millis(250);

fn limits(bytes_per_second: usize) -> Limits {
    let rate = NonZeroU64::new(bytes_per_second as u64).map(Rate::from_bytes_per_second);
    Limits { otherwise: rate.map_or(Limit::Unlimited, Limit::Rate), ..Limits::default() }
}

/// Without a limit if the rate is zero.
fn throttle(bytes_per_second: usize) -> Arc<Throttle> {
    Arc::new(Throttle::new(Arc::new(SystemClock), limits(bytes_per_second)))
}

fn upload(bytes_per_second: usize) -> PacedConnector {
    PacedConnector { upload: Some(throttle(bytes_per_second)), download: None }
}

fn download(bytes_per_second: usize) -> PacedConnector {
    PacedConnector { upload: None, download: Some(throttle(bytes_per_second)) }
}

fn builder(endpoint: &str, connector: &PacedConnector) -> AmazonS3Builder {
    let milliseconds = Duration::from_millis;
    let backoff = BackoffConfig { init_backoff: milliseconds(10), max_backoff: milliseconds(50), base: 2.0 };
    AmazonS3Builder::new()
        .with_bucket_name("bucket")
        .with_endpoint(format!("http://{endpoint}"))
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_access_key_id("testing")
        .with_secret_access_key("testing-secret")
        .with_checksum_algorithm(Checksum::SHA256)
        .with_retry(RetryConfig { backoff, max_retries: 1, retry_timeout: milliseconds(60_000) })
        .with_http_connector(connector.clone())
}

/// A store that gives up when nothing moves for so long, and tries nothing again.
fn impatient(server: &Server, connector: &PacedConnector, stall: &str) -> AmazonS3 {
    builder(&server.address.to_string(), connector)
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), stall)
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
        .build()
        .expect("a store")
}

fn store(server: &Server, connector: &PacedConnector) -> AmazonS3 {
    builder(&server.address.to_string(), connector).build().expect("a store")
}

fn path() -> Path {
    Path::from("folder/object")
}

/// Bytes of which no piece is like another.
fn content(bytes: usize) -> Bytes {
    let words =
        (0..bytes.div_ceil(8) as u64).flat_map(|number| number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    words.take(bytes).collect()
}

/// The content in parts of uneven sizes, one of them empty.
fn parts(content: &Bytes) -> PutPayload {
    let (first, second) = (content.len() / 3 + 1, content.len() / 2 + 7);
    [content.slice(..first), Bytes::new(), content.slice(first..second), content.slice(second..), Bytes::new()]
        .into_iter()
        .collect()
}

fn seconds(bytes: usize, rate: usize) -> f64 {
    bytes as f64 / rate as f64
}

/// How late this machine wakes those who sleep, at worst, while the future runs.
async fn with_lateness<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let late = Arc::new(Mutex::new(Duration::ZERO));
    let seen = Arc::clone(&late);
    let ticks = tokio::spawn(async move {
        let tick = Duration::from_millis(5);
        loop {
            let before = SystemClock.monotonic();
            SystemClock.sleep(tick).await;
            let lateness = (SystemClock.monotonic() - before).saturating_sub(tick);
            let mut late = seen.lock().expect("no panic");
            *late = lateness.max(*late);
        }
    });
    let output = future.await;
    ticks.abort();
    let late = *late.lock().expect("no panic");
    (output, late)
}

/// That never more came than the rate allows since the start, that no second has more than 1.5 times of it (and what
/// this machine was late), and that it was not much slower. Returns the average rate, and the most of one second.
fn assert_even(start: Duration, arrivals: &[(Duration, usize)], rate: usize, late: Duration) -> (f64, usize) {
    let total: usize = arrivals.iter().map(|(_, bytes)| bytes).sum();
    let allowed = |time: Duration| (time.as_secs_f64() * rate as f64) as usize;
    let (mut sum, mut most) = (0, 0);
    for (number, (at, bytes)) in arrivals.iter().enumerate() {
        sum += bytes;
        assert!(sum <= allowed(*at - start + BURST), "{sum} bytes after {:?}", *at - start);
        let second = arrivals[number..].iter().take_while(|(later, _)| *later < *at + Duration::from_secs(1));
        most = second.map(|(_, bytes)| bytes).sum::<usize>().max(most);
    }
    assert!(
        most <= rate * 3 / 2 + allowed(late) + 64 * KIB,
        "{most} bytes in one second; this machine was {late:?} late"
    );
    let took = (arrivals.last().expect("something came").0 - start).as_secs_f64();
    assert!(took < 2.0 * seconds(total, rate) + 2.0, "{total} bytes took {took} s");
    (total as f64 / took, most)
}

async fn put_evenly(bytes: usize, rate: usize) -> (f64, usize) {
    let server = Server::start(Bytes::new(), Vec::new()).await;
    let store = store(&server, &upload(rate));
    let content = content(bytes);
    let start = SystemClock.monotonic();
    let (put, late) = with_lateness(store.put(&path(), parts(&content))).await;
    put.expect("it is put");
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].headers["content-length"], bytes.to_string().as_str());
    assert!(!seen[0].headers.contains_key("transfer-encoding"), "{:?}", seen[0].headers);
    assert!(seen[0].bytes() == content, "other bytes came");
    assert_even(start, &seen[0].arrivals(), rate, late)
}

async fn get_evenly(bytes: usize, rate: usize) -> (f64, usize) {
    let content = content(bytes);
    let server = Server::start(content.clone(), Vec::new()).await;
    let store = store(&server, &download(rate));
    let start = SystemClock.monotonic();
    let read = async {
        let got = store.get(&path()).await.expect("it is there");
        assert_eq!(got.meta.size, bytes as u64);
        let chunks = got.into_stream().map_ok(|chunk| (SystemClock.monotonic(), chunk));
        chunks.try_collect::<Vec<_>>().await.expect("it comes")
    };
    let (chunks, late) = with_lateness(read).await;
    let read: Vec<u8> = chunks.iter().flat_map(|(_, chunk)| chunk.to_vec()).collect();
    assert!(read == content, "other bytes came");
    let arrivals: Vec<_> = chunks.iter().map(|(at, chunk)| (*at, chunk.len())).collect();
    assert_even(start, &arrivals, rate, late)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_flows_evenly_and_says_its_exact_length() {
    put_evenly(4 * MIB + 12_345, MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_flows_evenly() {
    get_evenly(4 * MIB + 12_345, MIB).await;
}

/// What does not pass stays with the sender, but for what the buffers of both systems hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_is_not_read_ahead() {
    let server = Server::start(content(64 * MIB), Vec::new()).await;
    let store = store(&server, &download(64 * KIB));
    let read = async { store.get(&path()).await?.bytes().await };
    tokio::time::timeout(Duration::from_secs(2), read).await.expect_err("it takes minutes");
    let sent = server.seen()[0].sent;
    assert!(sent < 32 * MIB, "the server has sent {sent} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_limit_the_same_bytes_go_with_the_same_heads() {
    let content = content(8 * MIB + 5);
    let mut heads = Vec::new();
    for connector in
        [PacedConnector::default(), PacedConnector { upload: Some(throttle(0)), download: Some(throttle(0)) }]
    {
        let server = Server::start(content.clone(), Vec::new()).await;
        let store = store(&server, &connector);
        store.put(&path(), parts(&content)).await.expect("it is put");
        store.put(&path(), PutPayload::new()).await.expect("nothing is put");
        let got = store.get(&path()).await.expect("it is there").bytes().await.expect("it comes");
        assert!(got == content, "other bytes came");
        let seen = server.seen();
        assert!(seen[0].bytes() == content && seen[1].bytes().is_empty(), "other bytes came");
        let head = |number: usize| {
            let values = seen[number].headers.iter().map(|(name, value)| (name.to_string(), value.clone()));
            let mut head: BTreeMap<_, _> = values.collect();
            // These depend on the time and on the port.
            let signed =
                head["authorization"].to_str().expect("text").rsplit_once(", ").expect("a signature").0.to_owned();
            assert!(signed.contains("SignedHeaders=host;"), "{signed}");
            for name in ["authorization", "host", "x-amz-date", "user-agent"] {
                head.remove(name).expect(name);
            }
            head
        };
        heads.push([head(0), head(1), head(2)]);
    }
    assert_eq!(heads[0], heads[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_sends_and_pays_for_all_of_it_again() {
    let server = Server::start(Bytes::new(), vec![Way { answer: Some(503), ..Way::default() }, Way::default()]).await;
    let content = content(2 * MIB);
    let start = SystemClock.monotonic();
    store(&server, &upload(2 * MIB)).put(&path(), parts(&content)).await.expect("it is put");
    let took = SystemClock.monotonic() - start;
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.bytes() == content && seen.is_whole == Some(true)), "other bytes came");
    assert!(took >= Duration::from_secs(2) - BURST, "only one was charged: {took:?}");
}

/// The store refuses a request before it has come, and would take the rest: it is not sent any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_answered_early_ends() {
    let server = Server::start(Bytes::new(), vec![Way { early: Some(503), ..Way::default() }, Way::default()]).await;
    let content = content(MIB);
    store(&server, &upload(512 * KIB)).put(&path(), parts(&content)).await.expect("it is put");
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[1].bytes() == content);
    assert!(seen[0].is_whole == Some(false) && seen[0].bytes().len() < content.len() / 2, "the rest was sent too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_reading_stalls_the_request() {
    let server = Server::start(Bytes::new(), vec![Way { stops_at: Some(MIB), ..Way::default() }]).await;
    let start = SystemClock.monotonic();
    let put = impatient(&server, &upload(64 * MIB), "2s").put(&path(), parts(&content(32 * MIB))).await;
    let took = SystemClock.monotonic() - start;
    let error = format!("{:?}", put.expect_err("it stalls"));
    assert!(error.contains("Timeout") && error.contains("Stalled"), "{error}");
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(20), "{took:?}");
    assert!(server.seen()[0].is_whole.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_never_answers_stalls_the_request() {
    let server = Server::start(content(MIB), vec![Way { silent: true, ..Way::default() }]).await;
    let store = impatient(&server, &upload(MIB), "1s");
    let start = SystemClock.monotonic();
    let (put, get) = future::join(store.put(&path(), parts(&content(2 * MIB))), store.get(&path())).await;
    let took = SystemClock.monotonic() - start;
    let errors = format!("{:?} {:?}", put.expect_err("it stalls"), get.expect_err("it stalls"));
    assert_eq!(errors.matches("Stalled").count(), 2, "{errors}");
    assert!(took >= Duration::from_millis(2_750) && took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_does_not_go_on_stalls() {
    let server = Server::start(content(4 * MIB), vec![Way { stops_at: Some(MIB), ..Way::default() }]).await;
    let start = SystemClock.monotonic();
    let got = impatient(&server, &download(64 * MIB), "1s").get(&path()).await.expect("it begins");
    let error = format!("{:?}", got.bytes().await.expect_err("it stalls"));
    let took = SystemClock.monotonic() - start;
    assert!(error.contains("Timeout") && error.contains("Stalled"), "{error}");
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(20), "{took:?}");
}

/// The other side rests again and again, and everything takes several times as long as nothing may move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_server_stalls_nothing() {
    let pause = Duration::from_millis(50);
    let server = Server::start(content(6 * MIB), vec![Way { pause, ..Way::default() }]).await;
    let paced = PacedConnector { upload: Some(throttle(0)), download: Some(throttle(0)) };
    let store = impatient(&server, &paced, "2s");
    let read = async { store.get(&path()).await?.bytes().await };
    let (content, start) = (content(16 * MIB), SystemClock.monotonic());
    let (put, get) = future::join(store.put(&path(), parts(&content)), read).await;
    let seen: Vec<_> = server.seen().iter().map(|seen| seen.bytes().len()).collect();
    put.unwrap_or_else(|error| panic!("it is put: {seen:?} {error}"));
    assert_eq!(get.expect("it comes").len(), 6 * MIB);
    assert!(SystemClock.monotonic() - start > Duration::from_secs(4), "the server was not slow");
}

/// A piece waits longer for its turn than nothing may move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_low_limit_stalls_nothing() {
    let server = Server::start(content(96 * KIB), Vec::new()).await;
    let paced = PacedConnector { upload: Some(throttle(8 * KIB)), download: Some(throttle(8 * KIB)) };
    let store = impatient(&server, &paced, "1s");
    let read = async { store.get(&path()).await?.bytes().await };
    let start = SystemClock.monotonic();
    let (put, get) = future::join(store.put(&path(), parts(&content(96 * KIB))), read).await;
    put.expect("it is put");
    assert_eq!(get.expect("it comes").len(), 96 * KIB);
    assert!(SystemClock.monotonic() - start >= Duration::from_secs(4), "the limit did not hold");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_uploads_share_the_rate() {
    const UPLOADS: usize = 8;
    let server = Server::start(Bytes::new(), Vec::new()).await;
    let store = store(&server, &upload(2 * MIB));
    let (content, path, start) = (content(MIB), &path(), SystemClock.monotonic());
    let puts = (0..UPLOADS).map(|_| store.put(path, parts(&content)));
    let (puts, late) = with_lateness(future::try_join_all(puts)).await;
    puts.expect("they are put");
    let seen = server.seen();
    assert!(seen.len() == UPLOADS && seen.iter().all(|seen| seen.bytes() == content));
    let mut arrivals: Vec<_> = seen.iter().flat_map(|seen| seen.arrivals()).collect();
    arrivals.sort();
    assert_even(start, &arrivals, 2 * MIB, late);
    // They take turns: none is far behind when the first is done.
    let first_done = seen.iter().map(|seen| seen.chunks.last().expect("a chunk").0).min().expect("one");
    for seen in seen.iter() {
        let come: usize = seen.arrivals().iter().filter(|(at, _)| *at <= first_done).map(|(_, bytes)| bytes).sum();
        assert!(come >= MIB / 4, "only {come} bytes had come when another was done");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_is_lifted_no_longer_holds_what_is_under_way() {
    let server = Server::start(Bytes::new(), Vec::new()).await;
    let paced = upload(128 * KIB);
    let (store, content) = (store(&server, &paced), content(8 * MIB));
    let start = SystemClock.monotonic();
    let lift = async {
        SystemClock.sleep(Duration::from_secs(1)).await;
        assert!(server.seen()[0].bytes().len() < MIB, "there was no limit");
        paced.upload.as_ref().expect("a throttle").set(Limits::default());
    };
    let (put, ()) = future::join(store.put(&path(), parts(&content)), lift).await;
    put.expect("it is put");
    let took = SystemClock.monotonic() - start;
    assert!(took < Duration::from_secs(20), "{took:?}; with the limit it is a minute");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_request_leaves_the_queue_and_the_connection() {
    const DROPPED: usize = 24;
    let server = Server::start(Bytes::new(), Vec::new()).await;
    let paced = upload(16 * KIB);
    let (store, big, path) = (store(&server, &paced), content(256 * KIB), &path());
    let puts = future::join_all((0..DROPPED).map(|_| store.put(path, parts(&big))));
    tokio::time::timeout(Duration::from_secs(2), puts).await.expect_err("they take minutes");
    let start = SystemClock.monotonic();
    store.put(path, parts(&content(32 * KIB))).await.expect("it is put");
    let took = SystemClock.monotonic() - start;
    let seen = server.seen();
    assert_eq!(seen.len(), DROPPED + 1);
    assert!(seen[..DROPPED].iter().all(|seen| seen.is_whole == Some(false)), "connections are still open");
    assert!(took < Duration::from_secs(14), "it waited {took:?} behind those that were dropped");
    let holders = Arc::strong_count(paced.upload.as_ref().expect("a throttle"));
    assert!(holders <= 4, "beside this test and the store {holders} have it");
}

/// As the futures of a `buffered` stream rest while its reader waits for something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_rests_holds_nobody_up() {
    let server = Server::start(content(192 * KIB), Vec::new()).await;
    let store = store(&server, &download(64 * KIB));
    let mut resting = Vec::new();
    for _ in 0..3 {
        let mut reply = store.get(&path()).await.expect("it is there").into_stream();
        let reads = async { while reply.next().await.is_some() {} };
        tokio::time::timeout(Duration::from_millis(300), reads).await.expect_err("it takes seconds");
        resting.push(reply);
    }
    let read = async { store.get(&path()).await?.bytes().await };
    let read = tokio::time::timeout(Duration::from_secs(20), read).await.expect("nobody is held up");
    assert_eq!(read.expect("it comes").len(), 192 * KIB);
    drop(resting);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let connect = |key: ClientConfigKey, value: &str| upload(1).connect(&ClientOptions::new().with_config(key, value));
    for key in [ClientConfigKey::Timeout, ClientConfigKey::ConnectTimeout, ClientConfigKey::PoolMaxIdlePerHost] {
        connect(key, "soon").expect_err("no number");
    }
    connect(ClientConfigKey::AllowHttp, "maybe").expect_err("no yes or no");
    connect(ClientConfigKey::AllowHttp, "Yes").expect("as object_store reads it");
    let stall = |options: ClientOptions| client::stall_timeout(&options).expect("durations");
    assert_eq!(stall(ClientOptions::new()), Duration::from_secs(30));
    assert_eq!(stall(ClientOptions::new().with_read_timeout(Duration::from_secs(7))), Duration::from_secs(7));
    assert_eq!(stall(ClientOptions::new().with_timeout_disabled()), Duration::MAX);
}

#[tokio::test]
async fn only_https_is_spoken_unless_the_options_say_otherwise() {
    let server = Server::start(Bytes::new(), Vec::new()).await;
    let store = builder(&server.address.to_string(), &upload(0)).with_allow_http(false).build().expect("a store");
    store.put(&path(), "x".into()).await.expect_err("not by HTTP");
    assert!(server.seen().is_empty());
}

/// MinIO checks the signature and the checksum, and takes no signed request without a length. It is named by
/// `FARSHORE_MINIO`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_accepts_the_signature() {
    let Some(program) = std::env::var_os("FARSHORE_MINIO") else {
        eprintln!("NOT RUN: FARSHORE_MINIO names no program (`cargo xtask test --long` sets it)");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("buckets/bucket")).expect("a bucket");
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let address = format!("127.0.0.1:{port}");
    let mut command = tokio::process::Command::new(program);
    command.args(["server", "--quiet", "--address", &address]).arg(folder.path().join("buckets"));
    command.env("MINIO_ROOT_USER", "testing").env("MINIO_ROOT_PASSWORD", "testing-secret");
    command.env("MINIO_BROWSER", "off").env("MINIO_UPDATE", "off").env("HOME", folder.path());
    command.stdout(process::Stdio::null()).stderr(process::Stdio::null()).kill_on_drop(true);
    let mut minio = command.spawn().expect("it starts");
    for _ in 0..200 {
        if tokio::net::TcpStream::connect(&address).await.is_ok() {
            break;
        }
        SystemClock.sleep(Duration::from_millis(100)).await;
    }
    SystemClock.sleep(Duration::from_secs(1)).await;
    let paced = PacedConnector { upload: Some(throttle(2 * MIB)), download: Some(throttle(2 * MIB)) };
    let store = builder(&address, &paced).build().expect("a store");
    let wrong = builder(&address, &paced).with_secret_access_key("another-secret").build().expect("a store");
    let content = content(4 * MIB + 3);
    let start = SystemClock.monotonic();
    let put = store.put(&path(), parts(&content)).await;
    let put_took = SystemClock.monotonic() - start;
    let read = async { store.get(&path()).await?.bytes().await };
    let (read, refused) = (read.await, wrong.put(&path(), "x".into()).await);
    let deleted = store.delete_stream(futures::stream::iter([Ok(path())]).boxed()).try_collect::<Vec<_>>().await;
    minio.kill().await.expect("it ends");
    put.expect("it is put");
    assert!(put_took >= Duration::from_secs(2) - BURST, "{put_took:?}");
    assert!(read.expect("it comes") == content, "other bytes came");
    assert_eq!(deleted.expect("a list of names is accepted").len(), 1);
    assert!(matches!(refused, Err(object_store::Error::PermissionDenied { .. })), "{refused:?}");
}
