//! The guest with its load, the site, and the daemon that comes and goes.

use std::{
    fs::{self, File},
    io::{BufWriter, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use farshore_bench::latencies::Second;
use farshore_core::{Clock as _, SystemClock};
use farshore_e2e::{
    COMMAND_MAX, DiskFormat, Farshore, Guest, ProtectedGroup, Running, Stop, World, disk, image, leftovers,
};
use serde_json::json;

use super::{
    Arguments,
    busy::Ticks,
    records::{Cycle, Outcome, Part},
};
use crate::{dice::Dice, measure};

/// What the guest and its group are called.
const NAME: &str = "orders";
/// The beginning of the load's disk holds the load itself, as an archive; the load writes behind it.
const ARCHIVE_BYTES: u64 = 16 << 20;
/// The guest has no compiler, so its images lack what every program of Rust needs beside the C library.
const LIBRARY: &str = "/lib/x86_64-linux-gnu/libgcc_s.so.1";
/// How many cycles in a row must have read only what bitmaps told before it counts.
const SETTLED_CYCLES: usize = 3;
/// The first copy is in it.
const SETTLE_MAX: Duration = Duration::from_secs(600);
/// How long a last cycle may take after its part's time.
const LAST_CYCLE_MAX: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(250);
/// How often it is said how things stand.
const SAY: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_secs(60);
const CYCLES_ASKED: u32 = 10_000;
/// QEMU may hold the console back for a moment, so that a line is seen after its part.
const LINES_LATE: Duration = Duration::from_millis(1_500);

/// The guest with its load, the site, and the daemon that comes and goes.
pub struct Scene {
    world: World,
    farshore: Farshore,
    stall_limit: String,
    stop: Stop,
}

impl Scene {
    /// Boots the guest, starts the load, and makes a vault.
    pub fn begin(arguments: &Arguments, stop: &Stop) -> Result<Self> {
        let mut world = World::new()?;
        let folder = world.folder().join("g").join(NAME);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        eprintln!("making the guest's disks ({} MiB)", arguments.mebibytes);
        let system = disk::copy(&image()?.disk, &folder.join("disk0.qcow2"), DiskFormat::Qcow2)?;
        let raw = folder.join("data.raw");
        write_data(&raw, &arguments.writer, arguments.mebibytes << 20, arguments.seed)?;
        let data = disk::copy(&raw, &folder.join("disk1.qcow2"), DiskFormat::Qcow2)?;
        fs::remove_file(&raw).with_context(|| format!("removing {}", raw.display()))?;
        let mut options = world.guest_options(NAME, vec![system, data]);
        options.stop = stop.clone();
        eprintln!("booting the guest");
        let (guest, _) = Guest::boot(options)?;
        start_load(&guest, arguments, stop)?;
        world.add_guest(guest);
        let mut farshore = world.farshore()?;
        farshore.stop = stop.clone();
        let mut scene = Self { world, farshore, stall_limit: arguments.stall_limit.clone(), stop: stop.clone() };
        scene.set_objective(&arguments.rpo[0])?;
        for command in [&["vault", "create", "--yes"][..], &["machine", "discover"]] {
            scene.farshore.run(command, COMMAND_MAX)?.succeeded()?;
        }
        Ok(scene)
    }

    /// Writes the configuration with this objective. No daemon runs.
    pub fn set_objective(&mut self, rpo: &str) -> Result<()> {
        let stall_limit = self.stall_limit.clone();
        let group = ProtectedGroup { rpo: rpo.to_owned(), stall_limit, ..ProtectedGroup::new(NAME, &[NAME]) };
        self.world.protect_group(group)?;
        self.farshore.run(&["config", "check"], COMMAND_MAX)?.succeeded()?;
        Ok(())
    }

    /// Lets the guest write without Farshore and without the bitmaps that it left in QEMU.
    pub fn unprotected(&mut self, length: Duration) -> Result<Part> {
        let guest = self.world.guest(NAME);
        let bitmaps = leftovers(guest)?.bitmaps;
        let mut control = guest.control()?;
        for bitmap in &bitmaps {
            let (node, name) = bitmap.split_once('/').context("a bitmap without a node")?;
            control.execute("block-dirty-bitmap-remove", json!({ "node": node, "name": name }))?;
        }
        drop(control);
        // What the daemon has left in memory goes to the disk outside of the part.
        rustix::fs::sync();
        let begun = Begun::now(guest, None)?;
        self.wait(length, "unprotected")?;
        begun.end(self.world.guest(NAME), None, &self.stop)
    }

    /// Has the daemon protect the guest for so long after it has settled.
    pub fn protected(&mut self, length: Duration) -> Result<Part> {
        let mut daemon = self.farshore.start(&["serve"])?;
        let started = SystemClock.now().as_unix_milliseconds();
        self.wait_for_cycle(&mut daemon, SETTLE_MAX, "settled", |cycles| {
            let own = cycles.iter().filter(|cycle| cycle.begun_at.as_unix_milliseconds() >= started);
            let tracked = own.rev().take_while(|cycle| cycle.committed().is_some_and(|made| made.basis == "tracked"));
            tracked.count() >= SETTLED_CYCLES
        })?;
        let vault = self.world.site.vault_folder();
        let process = Some(daemon.process_id());
        let stored = measure::census(&vault)?.bytes;
        let begun = Begun::now(self.world.guest(NAME), process)?;
        self.wait(length, "protected")?;
        let time = SystemClock.now().as_unix_milliseconds();
        let after = |cycle: &Cycle| cycle.ended_at.as_unix_milliseconds() > time && cycle.committed().is_some();
        let cycles =
            self.wait_for_cycle(&mut daemon, LAST_CYCLE_MAX, "made a last point", |cycles| cycles.iter().any(after))?;
        let last = cycles.iter().position(after).context("the last cycle is gone")?;
        let mut part = begun.end(self.world.guest(NAME), process, &self.stop)?;
        part.ended = cycles[last].ended_at.as_unix_milliseconds();
        part.vault_bytes = measure::census(&vault)?.bytes.saturating_sub(stored);
        let first = cycles.iter().position(|cycle| cycle.ended_at.as_unix_milliseconds() >= part.begun);
        let first = first.and_then(|first| first.checked_sub(1)).context("no cycle ended before the part")?;
        part.cycles = cycles[first..=last].to_vec();
        daemon.interrupt(&self.stop)?.succeeded()?;
        ensure!(leftovers(self.world.guest(NAME))?.nothing_attached(), "the daemon left something in QEMU");
        Ok(part)
    }

    /// Waits until the cycles are as wanted, and returns all of them in their order.
    fn wait_for_cycle(
        &self,
        daemon: &mut Running,
        limit: Duration,
        wanted: &str,
        mut is_so: impl FnMut(&[Cycle]) -> bool,
    ) -> Result<Vec<Cycle>> {
        let begun = SystemClock.monotonic();
        let socket = self.world.site.folder().join("state").join("farshore.sock");
        loop {
            if let Some(status) = daemon.try_status()? {
                let words = fs::read_to_string(daemon.log()).unwrap_or_default();
                bail!("the daemon ended ({status}): {words}");
            }
            let cycles = if socket.exists() { cycles(&socket).unwrap_or_default() } else { Vec::new() };
            if is_so(&cycles) {
                return Ok(cycles);
            }
            if SystemClock.monotonic() - begun > limit {
                let failed = cycles.iter().rev().find_map(|cycle| match &cycle.outcome {
                    Outcome::Failed { code, message } => Some(format!("[{code}] {message}")),
                    Outcome::Committed(_) => None,
                });
                bail!("the daemon has not {wanted} after {} s: {failed:?}", limit.as_secs());
            }
            self.pause(LOOK)?;
        }
    }

    fn wait(&mut self, length: Duration, what: &str) -> Result<()> {
        let ends = SystemClock.monotonic() + length;
        let mut said = SystemClock.monotonic();
        loop {
            let now = SystemClock.monotonic();
            ensure!(self.world.guest_mut(NAME).is_running(), "the guest ended");
            let left = ends.saturating_sub(now);
            if left.is_zero() {
                return Ok(());
            }
            if now - said >= SAY {
                said = now;
                eprintln!("  {what}, {} s left", left.as_secs());
            }
            self.pause(left.min(LOOK))?;
        }
    }

    fn pause(&self, length: Duration) -> Result<()> {
        pause(length);
        Ok(self.stop.check()?)
    }
}

/// A part that has begun.
struct Begun {
    at: i64,
    line: usize,
    ticks: Ticks,
}

impl Begun {
    fn now(guest: &Guest, farshore: Option<u32>) -> Result<Self> {
        let at = SystemClock.now().as_unix_milliseconds();
        // The lines of some seconds before: the first point of the part was captured then.
        let line = guest.console().line_count().saturating_sub(60);
        Ok(Self { at, line, ticks: Ticks::now(guest.process_id(), farshore)? })
    }

    fn end(self, guest: &Guest, farshore: Option<u32>, stop: &Stop) -> Result<Part> {
        let busy = Ticks::now(guest.process_id(), farshore)?.since(self.ticks);
        let ended = SystemClock.now().as_unix_milliseconds();
        pause(LINES_LATE);
        stop.check()?;
        let civil = SystemClock.now().as_unix_milliseconds();
        let monotonic = SystemClock.monotonic();
        let seen_at = |seen: Duration| civil - i64::try_from((monotonic - seen).as_millis()).unwrap_or(i64::MAX);
        let mut seconds: Vec<(i64, Second)> = Vec::new();
        for line in guest.console().lines_from(self.line) {
            ensure!(!line.text.starts_with("WRITER-FAILED"), "the load failed: {}", line.text);
            let Ok(second) = line.text.parse::<Second>() else { continue };
            seconds.push((seen_at(line.seen), second));
        }
        ensure!(seconds.iter().any(|(seen, _)| *seen >= self.at), "the load says nothing");
        Ok(Part { begun: self.at, ended, seconds, busy, ..Part::default() })
    }
}

/// All cycles that the daemon knows, in their order.
fn cycles(socket: &Path) -> Result<Vec<Cycle>> {
    let mut stream = UnixStream::connect(socket).context("connecting to the daemon")?;
    stream.set_read_timeout(Some(ANSWER_MAX)).context("setting a limit")?;
    let request = format!("GET /v1/cycles?limit={CYCLES_ASKED} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("asking the daemon")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("hearing the daemon")?;
    let (_, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    let mut cycles: Vec<Cycle> = serde_json::from_str(body).context("reading the cycles")?;
    cycles.sort_by_key(|cycle| cycle.ended_at);
    Ok(cycles)
}

/// Writes the load's disk: the load as an archive, and noise in every place that it will write to.
fn write_data(path: &Path, writer: &Path, size_bytes: u64, seed: u64) -> Result<()> {
    let (folder, name) = (writer.parent().context("the writer lies in no folder")?, writer.file_name());
    let name = name.context("the writer has no name")?;
    let library = Path::new(LIBRARY);
    let mut tar = Command::new("tar");
    tar.arg("--dereference").arg("-cf").arg(path).arg("-C").arg(folder).arg(name);
    tar.arg("-C").arg(library.parent().context("no folder")?).arg(library.file_name().context("no name")?);
    let output = tar.output().context("starting tar")?;
    ensure!(output.status.success(), "tar failed: {}", String::from_utf8_lossy(&output.stderr));
    let file = File::options().append(true).open(path).with_context(|| format!("opening {}", path.display()))?;
    let archive_bytes = file.metadata()?.len();
    ensure!(archive_bytes <= ARCHIVE_BYTES, "the load is too large: {archive_bytes} bytes");
    file.set_len(ARCHIVE_BYTES).context("extending the disk")?;
    let mut file = BufWriter::new(file);
    let (dice, mut block) = (Dice::new(seed, 0), vec![0; 1 << 20]);
    for _ in 0..(size_bytes - ARCHIVE_BYTES) >> 20 {
        dice.fill(&mut block);
        file.write_all(&block).context("writing the disk")?;
    }
    file.flush().context("writing the disk")
}

/// Takes the load out of its disk, and starts it in the background.
fn start_load(guest: &Guest, arguments: &Arguments, stop: &Stop) -> Result<()> {
    let agent = guest.agent();
    let blocks = ARCHIVE_BYTES >> 16;
    agent.succeed(&format!(
        "mkdir -p /run/bench && dd if=/dev/vdb bs=65536 count={blocks} 2>/dev/null | tar x -C /run/bench"
    ))?;
    let name = arguments.writer.file_name().context("the writer has no name")?.to_string_lossy();
    let (to, rate) = (arguments.mebibytes << 20, arguments.rate_bytes_per_second());
    let (size, seed) = (arguments.write_bytes, arguments.seed);
    let mode = if arguments.unflushed { "direct" } else { "durable" };
    agent.succeed(&format!(
        "LD_LIBRARY_PATH=/run/bench setsid /run/bench/{name} /dev/vdb {ARCHIVE_BYTES} {to} {size} {rate} {mode} {seed} \
         < /dev/null > /dev/ttyS0 2>&1 &"
    ))?;
    let first = |line: &farshore_e2e::Line| line.text.parse::<Second>().ok();
    guest.console().wait_for("the load's first line", 0, ANSWER_MAX, stop, first)?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the bench measures real processes, which no simulator owns")]
fn pause(length: Duration) {
    thread::sleep(length);
}
