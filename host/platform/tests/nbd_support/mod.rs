//! Real servers that end with the test, and a scripted one that says what it is told to say.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::disallowed_methods, reason = "tests wait for real processes")]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use farshore_core::{Clock, Extent, SystemClock};
use farshore_platform::{
    TransportError,
    nbd::{NbdAddress, NbdDisk, NbdEndpoint, NbdOptions},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

pub const MIB: u64 = 1024 * 1024;

pub fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

pub const fn extent(offset: u64, length: u64) -> Extent {
    Extent { offset, length }
}

/// Bytes that differ everywhere, the same for the same offset.
pub fn pattern(offset: u64, length: usize) -> Vec<u8> {
    (offset..).take(length).map(|at| (at ^ (at >> 8) ^ (at >> 16).wrapping_mul(31)) as u8).collect()
}

/// A process that is killed, by its own id, when the test ends.
pub struct Server {
    child: Child,
    pub address: NbdAddress,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts a server that will listen at `socket`, and waits for it.
    pub fn start(program: &str, arguments: &[&str], socket: &Path) -> Self {
        let address = NbdAddress::Unix(socket.to_owned());
        let mut server = Self { child: spawn(program, arguments), address };
        server.wait_until(|| std::os::unix::net::UnixStream::connect(socket).is_ok());
        server
    }

    /// Starts a server that will listen at this TCP port, and waits for it.
    pub fn start_tcp(program: &str, arguments: &[&str], port: u16) -> Self {
        let address = NbdAddress::Tcp { host: "127.0.0.1".into(), port };
        let mut server = Self { child: spawn(program, arguments), address };
        // As long as nobody listens, a connection may be to itself: its own port is one of those that are drawn.
        let is_another = |stream: std::net::TcpStream| stream.local_addr().ok() != stream.peer_addr().ok();
        server.wait_until(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok_and(is_another));
        server
    }

    fn wait_until(&mut self, ready: impl Fn() -> bool) {
        let started = Instant::now();
        while !ready() {
            assert!(started.elapsed() < Duration::from_secs(20), "the server does not listen");
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                panic!("the server ended with {status}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn endpoint(&self, export: &str, read_only: bool, contexts: &[&str]) -> NbdEndpoint {
        let contexts = contexts.iter().map(|&context| context.to_owned()).collect();
        NbdEndpoint { address: self.address.clone(), export: export.into(), read_only, contexts }
    }

    pub async fn connect(&self, export: &str, read_only: bool, contexts: &[&str]) -> NbdDisk {
        let endpoint = self.endpoint(export, read_only, contexts);
        NbdDisk::connect(endpoint, NbdOptions::default(), clock()).await.expect("an export that is served")
    }
}

fn spawn(program: &str, arguments: &[&str]) -> Child {
    let spawned = Command::new(program).args(arguments).stdin(Stdio::null()).spawn();
    spawned.unwrap_or_else(|error| panic!("{program} is needed (Debian packages qemu-utils and nbdkit): {error}"))
}

/// Runs a program to its end; it must succeed.
pub fn run(program: &str, arguments: &[&str]) {
    let status = spawn(program, arguments).wait().expect("a child of ours");
    assert!(status.success(), "{program} {arguments:?} ended with {status}");
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path in UTF-8")
}

/// A path that no server of this test had before: a killed one leaves its socket.
fn fresh_socket(folder: &TempDir) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    folder.path().join(format!("{}.sock", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// `nbdkit` on a unix socket in this folder.
pub fn nbdkit(folder: &TempDir, arguments: &[&str]) -> Server {
    let socket = fresh_socket(folder);
    Server::start("nbdkit", &[&["-f", "-U", text(&socket)], arguments].concat(), &socket)
}

/// `qemu-nbd` on a unix socket in this folder.
pub fn qemu_nbd(folder: &TempDir, arguments: &[&str]) -> Server {
    let socket = fresh_socket(folder);
    Server::start("qemu-nbd", &[&["-t", "-e", "4", "-k", text(&socket)], arguments].concat(), &socket)
}

/// A request as the scripted server saw it.
#[derive(Debug, Clone)]
pub struct Request {
    pub kind: u16,
    pub cookie: u64,
    pub offset: u64,
    pub length: u32,
    pub data: Vec<u8>,
}

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const BLOCK_STATUS: u16 = 7;

impl Request {
    pub fn chunk(&self, done: bool, kind: u16, payload: &[u8]) -> Vec<u8> {
        let head = [&0x668e_33ef_u32.to_be_bytes()[..], &u16::from(done).to_be_bytes(), &kind.to_be_bytes()].concat();
        let length = u32::try_from(payload.len()).expect("a payload below 4 GiB").to_be_bytes();
        [&head[..], &self.cookie.to_be_bytes(), &length, payload].concat()
    }

    pub fn data(&self, done: bool, offset: u64, data: &[u8]) -> Vec<u8> {
        self.chunk(done, 1, &[&offset.to_be_bytes()[..], data].concat())
    }

    pub fn hole(&self, done: bool, offset: u64, length: u32) -> Vec<u8> {
        self.chunk(done, 2, &[&offset.to_be_bytes()[..], &length.to_be_bytes()].concat())
    }

    pub fn status(&self, context: u32, entries: impl IntoIterator<Item = (u32, u32)>) -> Vec<u8> {
        let mut payload = context.to_be_bytes().to_vec();
        for (length, flags) in entries {
            payload.extend_from_slice(&length.to_be_bytes());
            payload.extend_from_slice(&flags.to_be_bytes());
        }
        self.chunk(true, 5, &payload)
    }

    pub fn simple(&self, error: u32) -> Vec<u8> {
        [&0x6744_6698_u32.to_be_bytes()[..], &error.to_be_bytes(), &self.cookie.to_be_bytes()].concat()
    }
}

/// What the scripted server does with a request.
pub enum Reaction {
    /// Sends these bytes, perhaps none.
    Send(Vec<u8>),
    /// Hangs up after these bytes.
    SendAndHangUp(Vec<u8>),
}

/// The answer to an option: reply types and their data.
pub type OptionReplies = Vec<(u32, Vec<u8>)>;

/// What an honest server of this size says to the options. Contexts get the ids 1, 2, ... in the order of asking.
pub fn honest_options(size_bytes: u64, flags: u16) -> impl FnMut(u32, &[u8]) -> OptionReplies + Send + 'static {
    move |option, data| match option {
        7 => vec![(3, [&[0, 0][..], &size_bytes.to_be_bytes(), &flags.to_be_bytes()].concat()), (1, Vec::new())],
        8 => vec![(1, Vec::new())],
        10 => {
            let number = |at: usize| u32::from_be_bytes(data[at..at + 4].try_into().expect("four bytes"));
            let mut at = 4 + number(0) as usize;
            let count = number(at);
            at += 4;
            let mut replies = OptionReplies::new();
            for id in 1..=count {
                let length = number(at) as usize;
                replies.push((4, [&id.to_be_bytes()[..], &data[at + 4..at + 4 + length]].concat()));
                at += 4 + length;
            }
            replies.push((1, Vec::new()));
            replies
        }
        _ => vec![(1 << 31 | 1, Vec::new())],
    }
}

/// A server that says what the test wants it to say, to one client after another. It ends with the test's runtime.
pub struct Scripted {
    folder: TempDir,
}

impl Scripted {
    pub fn start<O, A>(mut options: O, mut answer: A) -> Self
    where
        O: FnMut(u32, &[u8]) -> OptionReplies + Send + 'static,
        A: FnMut(Request) -> Reaction + Send + 'static,
    {
        let folder = TempDir::new().expect("a folder for the socket");
        let listener = UnixListener::bind(folder.path().join("sock")).expect("a socket");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that hangs up ends its session with an error.
                let _ = serve(stream, &mut options, &mut answer).await;
            }
        });
        Self { folder }
    }

    pub fn endpoint(&self, contexts: &[&str]) -> NbdEndpoint {
        let address = NbdAddress::Unix(self.path());
        let contexts = contexts.iter().map(|&context| context.to_owned()).collect();
        NbdEndpoint { address, export: String::new(), read_only: false, contexts }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("sock")
    }

    pub async fn try_connect(&self, contexts: &[&str]) -> Result<NbdDisk, TransportError> {
        let second = Duration::from_secs(1);
        let options = NbdOptions { connect_timeout: second, request_timeout: second, expected_size_bytes: None };
        NbdDisk::connect(self.endpoint(contexts), options, clock()).await
    }

    pub async fn connect(&self, contexts: &[&str]) -> NbdDisk {
        self.try_connect(contexts).await.expect("an honest handshake")
    }
}

async fn serve(
    mut stream: UnixStream,
    options: &mut impl FnMut(u32, &[u8]) -> OptionReplies,
    answer: &mut impl FnMut(Request) -> Reaction,
) -> std::io::Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\x00\x03").await?;
    stream.read_u32().await?;
    loop {
        let _magic = stream.read_u64().await?;
        let option = stream.read_u32().await?;
        let mut data = vec![0; stream.read_u32().await? as usize];
        stream.read_exact(&mut data).await?;
        let replies = options(option, &data);
        if option == 1 {
            // NBD_OPT_EXPORT_NAME has an answer without a head.
            for (_, data) in &replies {
                stream.write_all(data).await?;
            }
            break;
        }
        for (kind, data) in &replies {
            let length = u32::try_from(data.len()).expect("a short reply").to_be_bytes();
            let head = [&0x0003_e889_0455_65a9_u64.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes()];
            stream.write_all(&[&head.concat()[..], &length, data].concat()).await?;
        }
        if option == 7 && replies.last().is_some_and(|(kind, _)| *kind == 1) {
            break;
        }
    }
    loop {
        let _magic_and_flags = [stream.read_u32().await?, u32::from(stream.read_u16().await?)];
        let kind = stream.read_u16().await?;
        let (cookie, offset, length) = (stream.read_u64().await?, stream.read_u64().await?, stream.read_u32().await?);
        let mut data = vec![0; if kind == WRITE { length as usize } else { 0 }];
        stream.read_exact(&mut data).await?;
        if kind == 2 {
            return Ok(());
        }
        match answer(Request { kind, cookie, offset, length, data }) {
            Reaction::Send(bytes) => stream.write_all(&bytes).await?,
            Reaction::SendAndHangUp(bytes) => return stream.write_all(&bytes).await,
        }
    }
}
