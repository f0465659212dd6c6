//! What the component does to the host.

use crate::{
    Settings,
    bindings::farshore::{
        host::{
            clock, files,
            http::{self, BlockDisk, BlockRead, BlockWrite, Header, Method, Request},
            log,
            nbd::{self, Address, ExportedDisk, TcpAddress},
            programs::{self, Slot},
            progress,
            streams::Connection,
        },
        platform::model::PlatformError,
    },
    told,
};

/// Does the deed; the text says what came of it, if the component lives to tell.
pub fn perform(settings: &Settings) -> Result<String, PlatformError> {
    match settings.behaviour.as_str() {
        "loop" => loop {
            std::hint::black_box(());
        },
        "allocate" => allocate(),
        "trap" => std::process::abort(),
        "panic" => panic!("this is on purpose"),
        "recurse" => Ok(recurse(1).to_string()),
        "sleep" => loop {
            clock::sleep(10_000).map_err(told)?;
        },
        "sleep-too-long" => clock::sleep(u32::MAX).map(|_| String::new()).map_err(told),
        "log-flood" => log_flood(),
        "log-control" => {
            log::write(log::Level::Warn, "\u{1b}[2Jcleared\nsecond line");
            Ok(String::new())
        }
        "progress-flood" => progress_flood(),
        "connect-unix" => Connection::connect_unix(&settings.path).map(|_| "connected".to_owned()).map_err(told),
        "swallow" => swallow(settings),
        "connect-tcp" => {
            Connection::connect_tcp(&settings.host, settings.port).map(|_| "connected".to_owned()).map_err(told)
        }
        "converse" => converse(settings),
        "silent-server" => silent_server(settings),
        "write-without-reader" => write_without_reader(settings),
        "connection-leak" => connection_leak(settings),
        "nbd-unix" => nbd_open(Address::Unix(settings.path.clone())),
        "nbd-tcp" => nbd_open(Address::Tcp(TcpAddress { host: settings.host.clone(), port: settings.port })),
        "handle-leak" => handle_leak(settings),
        "file-open" => files::open(&settings.path, true).map(|_| "opened".to_owned()).map_err(told),
        "file-write" => files::open(&settings.path, false).map(|_| "opened".to_owned()).map_err(told),
        "file-inspect" => files::inspect(&settings.path).map(|file| file.size_bytes.to_string()).map_err(told),
        "file-create" => files::create(&settings.path, 4_096).map(|file| file.size_bytes.to_string()).map_err(told),
        "file-remove" => files::remove(&settings.path).map(|removal| removal.removed.to_string()).map_err(told),
        "file-list" => files::list_folder(&settings.path, None)
            .map(|page| page.entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>().join(" "))
            .map_err(told),
        "http-get" => http_get(settings, Vec::new()),
        "http-header" => http_get(settings, vec![Header { name: settings.value.clone(), value: "x".to_owned() }]),
        "http-blocks" => http_blocks(settings),
        "program" => program(settings),
        "big-argument" => big_argument(settings),
        _ => Ok(String::new()),
    }
}

fn allocate() -> ! {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        kept.push(vec![1; 1 << 20]);
    }
}

fn recurse(depth: u64) -> u64 {
    let frame = [depth; 64];
    std::hint::black_box(&frame);
    if depth == u64::MAX { depth } else { recurse(depth + 1) + std::hint::black_box(frame)[0] }
}

fn log_flood() -> Result<String, PlatformError> {
    let line = "flood ".repeat(1_000);
    for _ in 0..20_000 {
        log::write(log::Level::Info, &line);
    }
    Ok(String::new())
}

fn progress_flood() -> Result<String, PlatformError> {
    for done in 0..20_000 {
        progress::report(&progress::Update { doing: "flooding\u{7}".repeat(100), done, total: None });
    }
    Ok(String::new())
}

/// Tries to go on after a refusal.
fn swallow(settings: &Settings) -> Result<String, PlatformError> {
    let outcome = Connection::connect_unix(&settings.path);
    Ok(format!("swallowed {}", outcome.is_err()))
}

/// Sends a line and gives back what came.
fn converse(settings: &Settings) -> Result<String, PlatformError> {
    let connection = Connection::connect_unix(&settings.path).map_err(told)?;
    connection.write(settings.value.as_bytes()).map_err(told)?;
    let mut answer = Vec::new();
    loop {
        let chunk = connection.read(4_096, 5_000).map_err(told)?;
        answer.extend(chunk.bytes);
        if chunk.ended {
            return Ok(String::from_utf8_lossy(&answer).into_owned());
        }
    }
}

/// Reads from a server that says nothing, then shows that the connection is still of use.
fn silent_server(settings: &Settings) -> Result<String, PlatformError> {
    let connection = Connection::connect_unix(&settings.path).map_err(told)?;
    let silence = connection.read(16, 50);
    let written = connection.write(b"still here").map_err(told)?;
    Ok(format!("{silence:?} {}", written.bytes))
}

fn write_without_reader(settings: &Settings) -> Result<String, PlatformError> {
    let connection = Connection::connect_unix(&settings.path).map_err(told)?;
    let bytes = vec![7; 1 << 20];
    loop {
        if let Err(error) = connection.write(&bytes) {
            let again = connection.write(b"x");
            return Ok(format!("{error:?} {again:?}"));
        }
    }
}

fn connection_leak(settings: &Settings) -> Result<String, PlatformError> {
    let mut kept = Vec::new();
    loop {
        match Connection::connect_unix(&settings.path) {
            Ok(connection) => kept.push(connection),
            Err(error) => return Ok(format!("{} {error:?}", kept.len())),
        }
    }
}

fn nbd_open(address: Address) -> Result<String, PlatformError> {
    let disk = ExportedDisk { address, name: "disk".to_owned(), read_only: true };
    nbd::open(&disk).map(|_| "opened".to_owned()).map_err(told)
}

/// Asks the endpoint that `host` names, for at most `port` milliseconds.
fn http_get(settings: &Settings, headers: Vec<Header>) -> Result<String, PlatformError> {
    let request = Request {
        method: Method::Get,
        target: settings.path.clone(),
        headers,
        body: Vec::new(),
        repeatable: true,
        timeout_milliseconds: u32::from(settings.port),
        throttle_words: Vec::new(),
    };
    let response = http::send(&settings.host, &request).map_err(told)?;
    Ok(format!("{} {}", response.status, String::from_utf8_lossy(&response.body)))
}

/// Opens a disk of `value` bytes in blocks of `port` KiB, read at `path`.
fn http_blocks(settings: &Settings) -> Result<String, PlatformError> {
    let disk = BlockDisk {
        endpoint: settings.host.clone(),
        size_bytes: settings.size()?,
        block_bytes: u32::from(settings.port) << 10,
        read: Some(BlockRead { target: settings.path.clone(), checksum_header: "x-checksum".to_owned() }),
        write: Some(BlockWrite { target: "/{index}".to_owned(), headers: Vec::new() }),
        throttle_words: Vec::new(),
    };
    http::open_blocks(&disk).map(|_| "opened".to_owned()).map_err(told)
}

fn handle_leak(settings: &Settings) -> Result<String, PlatformError> {
    let mut kept = Vec::new();
    loop {
        let address = Address::Unix(settings.path.clone());
        match nbd::open(&ExportedDisk { address, name: String::new(), read_only: true }) {
            Ok(transport) => kept.push(transport),
            Err(error) => return Ok(format!("{} {error:?}", kept.len())),
        }
    }
}

fn program(settings: &Settings) -> Result<String, PlatformError> {
    let slot = Slot { name: "value".to_owned(), value: settings.value.clone() };
    let name = if settings.host.is_empty() { "tool" } else { &settings.host };
    let completion = programs::run(name, &[slot], &[]).map_err(told)?;
    Ok(format!("{} {} {}", completion.exit_code, completion.output, completion.errors))
}

fn big_argument(settings: &Settings) -> Result<String, PlatformError> {
    let connection = Connection::connect_unix(&settings.path).map_err(told)?;
    let written = connection.write(&vec![0; 48 << 20]);
    Ok(format!("{written:?}"))
}
