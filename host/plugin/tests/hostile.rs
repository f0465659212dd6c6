//! A component that does what no component should harms nothing but its own call: each call ends as promised, and the next
//! one works.

mod support;

use std::time::Duration;

use farshore_core::{Clock, SystemClock};
use farshore_plugin::{
    CallError, HostOptions, Limits, LoadError, Mode, Outcome, PluginHost,
    abi::{CaptureOutcome, CaptureRequest, Consistency, Kind, PlatformError},
};
use support::{World, bytes, told};

/// Short enough for tests, long enough for a loaded machine.
const SHORT: Limits =
    Limits { call_milliseconds: 1_500, host_function_milliseconds: 400, instance_memory_bytes: 32 << 20 };

/// The component does as it is asked and tells of it: nothing of what came before does harm.
async fn still_works(world: &World) {
    assert_eq!(told(&world.with("nothing")).await.expect("an honest call"), "");
}

fn reason(error: &CallError) -> &str {
    match error {
        CallError::Trapped { reason, .. } => reason,
        CallError::Nonsense { problem, .. } => problem,
        other => panic!("neither trapped nor nonsense: {other:?}"),
    }
}

#[tokio::test]
async fn a_component_that_breaks_is_thrown_away() {
    let world = World::new(SHORT).await;
    for (behaviour, wanted) in [
        ("trap", "unreachable"),
        ("panic", "unreachable"),
        ("recurse", ""),
        ("allocate", "more memory than the 32 MiB that it may have"),
        ("huge-result", "too much data"),
    ] {
        let error = world.with(behaviour).list_machines(None).await.expect_err(behaviour);
        assert_eq!(error.outcome(), Outcome::Trapped, "{behaviour}: {error}");
        assert!(reason(&error).contains(wanted), "{behaviour}: {error}");
        let text = error.to_string();
        let call = "component hostile of site \"production\", inventory.list-machines in mode protect: it broke: ";
        assert!(text.starts_with(call), "{text}");
        still_works(&world).await;
    }
}

#[tokio::test]
async fn a_component_that_loops_or_sleeps_is_ended_at_its_deadline() {
    let world = World::new(SHORT).await;
    for (behaviour, wanted) in [("loop", "its own code was running"), ("sleep", "was waiting in clock.sleep")] {
        let started = SystemClock.monotonic();
        let error = world.with(behaviour).list_machines(None).await.expect_err(behaviour);
        let took = SystemClock.monotonic().saturating_sub(started);
        assert_eq!(error.outcome(), Outcome::TimedOut, "{error}");
        assert!(error.to_string().contains(wanted), "{error}");
        assert!(took >= Duration::from_millis(1_490) && took < Duration::from_millis(6_000), "{took:?}");
        still_works(&world).await;
    }
    let error = world.with("sleep-too-long").list_machines(None).await.expect_err("too long");
    assert!(error.to_string().contains("a sleep is at most 10000 ms"), "{error}");
}

/// More loops than the host has threads: others still get their turn, and the caller's own runtime does not notice.
#[tokio::test]
async fn components_that_loop_do_not_starve_the_others() {
    let world = World::new(Limits { call_milliseconds: 20_000, ..SHORT }).await;
    let loops: Vec<_> = (0..6)
        .map(|_| {
            let bound = world.with("loop");
            tokio::spawn(async move { bound.list_machines(None).await })
        })
        .collect();
    SystemClock.sleep(Duration::from_millis(100)).await;
    // Without giving way it would wait for the end of a loop, 20 s.
    tokio::select! {
        () = still_works(&world) => {}
        () = SystemClock.sleep(Duration::from_secs(10)) => panic!("an honest call waits for loops"),
    }
    for looping in loops {
        assert!(!looping.is_finished(), "a loop ended by itself");
        looping.abort();
    }
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_ends() {
    let world = World::new(Limits { call_milliseconds: 60_000, ..SHORT }).await;
    // More than may run at once: if abandoned calls went on, the honest one would wait a minute for its turn.
    for _ in 0..20 {
        let bound = world.with("loop");
        let waiting = tokio::spawn(async move { bound.list_machines(None).await });
        SystemClock.sleep(Duration::from_millis(20)).await;
        waiting.abort();
    }
    tokio::select! {
        () = still_works(&world) => {}
        () = SystemClock.sleep(Duration::from_secs(10)) => panic!("abandoned calls go on"),
    }
}

#[tokio::test]
async fn answers_that_the_interface_does_not_allow_go_no_further() {
    let world = World::new(SHORT).await;
    for (behaviour, wanted) in [
        ("huge-name", "a machine's name has 2097152 bytes; 256 are allowed"),
        ("control-name", "a machine's name has a control character"),
        ("empty-id", "a machine's id is empty"),
        ("huge-page", "there are 101 machines in a page; 100 are allowed"),
        ("same-id-twice", "two machines with the id \"one\""),
        ("odd-size", "a disk's size is 1000, not a multiple of 512"),
        ("size-beyond-doubles", "not below 2^53"),
        ("same-disk-twice", "two disks with the id \"d\""),
        ("many-disks", "there are 257 disks of one machine; 256 are allowed"),
        ("bad-mac", "a mac is not six pairs"),
        ("huge-cursor", "the cursor has 5000 bytes; 4096 are allowed"),
        ("error-with-control", "the error's sentence has a control character"),
        ("huge-error", "the error's sentence has 1048576 bytes; 4096 are allowed"),
    ] {
        let error = world.with(behaviour).list_machines(None).await.expect_err(behaviour);
        assert!(matches!(error, CallError::Nonsense { .. }), "{behaviour}: {error:?}");
        assert_eq!(error.outcome(), Outcome::Trapped);
        assert!(reason(&error).contains(wanted), "{behaviour}: {error}");
    }
    still_works(&world).await;
}

fn request() -> CaptureRequest {
    CaptureRequest {
        id: "0".repeat(32),
        owner: "farshore".to_owned(),
        machines: vec!["one".to_owned()],
        tracked: Vec::new(),
        consistency: Consistency::Crash,
        stall_limit_milliseconds: 100,
    }
}

#[tokio::test]
async fn states_tokens_notes_and_pages_keep_their_limits() {
    let world = World::new(SHORT).await;
    let error = world.with("huge-state").begin_capture(request()).await.expect_err("too large");
    assert!(error.to_string().contains("the state has 65537 bytes; 65536 are allowed"), "{error}");
    let error = world.with("huge-wait").continue_capture(request(), vec![1]).await.expect_err("too long");
    assert!(error.to_string().contains("the wait is 60001 ms; 60000 are allowed"), "{error}");
    let step = world.with("nothing").begin_capture(request()).await.expect("the largest state");
    assert_eq!(step.state.len(), 64 << 10);
    let bound = world.with("nothing");
    let error = bound.list_disks(Vec::new(), None).await.expect_err("a long token");
    assert!(error.to_string().contains("a token has 1025 bytes; 1024 are allowed"), "{error}");
    let error = bound.end_capture(Vec::new(), CaptureOutcome::Abandoned).await.expect_err("a long note");
    assert!(error.to_string().contains("the note has 1025 bytes; 1024 are allowed"), "{error}");
    let error = bound.list_owned(Kind::Disk, "farshore".to_owned(), None).await.expect_err("a long page");
    assert!(error.to_string().contains("there are 101 items in a page; 100 are allowed"), "{error}");
    let error = bound.verify_capture(Vec::new()).await.expect_err("its own error");
    assert_eq!(error.outcome(), Outcome::PluginError);
    assert_eq!(error.platform_error(), Some(&PlatformError::CaptureBroken("the store is full".to_owned())));
}

#[tokio::test]
async fn floods_are_cut() {
    let world = World::new(Limits { call_milliseconds: 20_000, ..SHORT }).await;
    let started = SystemClock.monotonic();
    told(&world.with("log-flood")).await.expect("it ends well");
    told(&world.with("progress-flood")).await.expect("it ends well");
    let seconds = SystemClock.monotonic().saturating_sub(started).as_secs() as usize + 1;
    let lines = world.heard.lines.lock().expect("lines").clone();
    let bytes: usize = lines.iter().map(String::len).sum();
    assert!(bytes <= seconds * (65 << 10), "{bytes} bytes of log in {seconds} s");
    assert!(!lines.is_empty() && lines.iter().all(|line| line.len() <= 4_200));
    let progress = world.heard.progress.lock().expect("progress").clone();
    assert!(!progress.is_empty() && progress.len() <= 10 * seconds, "{} reports", progress.len());
    assert!(progress.iter().all(|update| update.doing.len() <= 200 && !update.doing.contains('\u{7}')));

    // In the next second there is room again, and the control characters of a line are shown, not obeyed.
    SystemClock.sleep(Duration::from_millis(1_100)).await;
    world.heard.lines.lock().expect("lines").clear();
    told(&world.with("log-control")).await.expect("it ends well");
    let lines = world.heard.lines.lock().expect("lines").clone();
    assert!(lines[0].ends_with("\\u{1b}[2Jcleared\\nsecond line") && lines[0].contains("lines dropped"), "{lines:?}");
}

/// What the process holds in memory, in bytes.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1_024
}

#[tokio::test]
async fn what_a_component_takes_is_given_back() {
    let world = World::new(SHORT).await;
    world.with("allocate").list_machines(None).await.expect_err("too much");
    let before = resident_bytes();
    for _ in 0..30 {
        world.with("allocate").list_machines(None).await.expect_err("too much");
        world.with("huge-result").list_machines(None).await.expect_err("too much");
    }
    let grown = resident_bytes().saturating_sub(before);
    // 30 calls of 32 MiB each; other tests of this process run beside this one.
    assert!(grown < 400 << 20, "the host grew by {grown} bytes");
}

#[tokio::test]
async fn what_is_no_adapter_is_not_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    let host = PluginHost::new(HostOptions::new(folder.path().join("cache"))).expect("a host");
    let load = async |bytes: Vec<u8>| host.load(bytes).await.expect_err("no adapter");
    assert!(matches!(load(b"#!/bin/sh".to_vec()).await, LoadError::Manifest(_)));
    assert!(matches!(load(vec![0; (64 << 20) + 1]).await, LoadError::TooLarge { .. }));

    let manifest = b"name = \"empty\"\nversion = \"1\"\nwit = \"0.2.0\"\n";
    let mut empty = b"\0asm\x0d\0\x01\0\0".to_vec();
    empty.push(u8::try_from(1 + 17 + manifest.len()).expect("a short section"));
    empty.extend(b"\x11farshore-manifest");
    empty.extend(manifest);
    let error = load(empty).await;
    assert!(matches!(error, LoadError::NoInventory { .. }), "{error}");
    assert!(farshore_core::Coded::advice(&error).expect("advice").contains("WIT 0.2.0"));

    let mut cut = bytes("hostile");
    let manifest = cut.len() - 400;
    cut[manifest / 2] ^= 0xff;
    let error = load(cut).await;
    assert!(matches!(error, LoadError::Manifest(_) | LoadError::Compile { .. } | LoadError::Imports { .. }), "{error}");
}

#[tokio::test]
async fn a_mode_is_not_needed_for_a_description() {
    let world = World::new(SHORT).await;
    let bound = world.bind(Mode::Observe, serde_json::json!({}), "", "");
    assert_eq!(bound.describe().await.expect("a description").name, "hostile");
    let error = bound.list_machines(None).await.expect_err("no behaviour");
    assert!(matches!(error.platform_error(), Some(PlatformError::Settings(_))), "{error}");
}
