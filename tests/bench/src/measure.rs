//! Running a program and saying what it took.
//!
//! Every program is treated alike. Before it starts, the system writes out what earlier ones left (`sync`), and what the
//! program will read is read once, so that it comes from memory. After it ended, what it wrote is brought to the disk, and
//! that time counts as its own: some tools do it themselves and some leave it to the system. Wall time, processor time and
//! the peak of resident memory are the system's own figures for that process (`wait4`).

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use farshore_core::{Clock as _, SystemClock};
use farshore_e2e::Stop;
use rustix::process::{Pid, Signal, kill_process};
use wait4::Wait4 as _;

/// A program that takes longer is killed.
const PROGRAM_MAX: Duration = Duration::from_secs(3600);
/// How often it is looked whether somebody wants to stop.
const POLL: Duration = Duration::from_millis(100);
const BUFFER_BYTES: usize = 1 << 20;
const ERRORS_QUOTED_CHARS_MAX: usize = 2_000;
/// A folder deeper than this is none that a tool made.
const DEPTH_MAX: usize = 16;

/// What a program took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// From its start to its end.
    pub running: Duration,
    /// Bringing to the disk what it wrote and had not brought there.
    pub flushing: Duration,
    /// Of all processors together.
    pub processor: Duration,
    /// The most resident memory that it had.
    pub peak_bytes: u64,
}

impl Usage {
    /// Until the result is on the disk.
    pub fn wall(&self) -> Duration {
        self.running + self.flushing
    }
}

/// Runs a program to its end, which must be success. Returns what it took and what it wrote to its standard output.
pub fn run(command: &mut Command, folder: &Path, stop: &Stop) -> Result<(Usage, String)> {
    let name = command.get_program().to_string_lossy().into_owned();
    let (output_file, errors_file) = (folder.join("program.output"), folder.join("program.errors"));
    let create = |path: &Path| File::create(path).with_context(|| format!("making {}", path.display()));
    command.stdin(Stdio::null()).stdout(create(&output_file)?).stderr(create(&errors_file)?).process_group(0);
    stop.check()?;
    let start = SystemClock.monotonic();
    let child = command.spawn().with_context(|| format!("starting {name}"))?;
    let process = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process without a number")?;
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        let ended = child.wait4();
        // Nobody listens only when the bench itself fails at this moment.
        let _ = sender.send((ended, SystemClock.monotonic()));
    });
    let mut given_up = None;
    let (ended, end) = loop {
        match receiver.recv_timeout(POLL) {
            Ok(ended) => break ended,
            Err(RecvTimeoutError::Disconnected) => bail!("waiting for {name} failed"),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if given_up.is_none() {
            let late = SystemClock.monotonic().saturating_sub(start) > PROGRAM_MAX;
            given_up = stop.check().err().map(anyhow::Error::from);
            if late {
                given_up = Some(anyhow::anyhow!("{name} took longer than {} s", PROGRAM_MAX.as_secs()));
            }
            if given_up.is_some() {
                // It has not been waited for, so the number is its own; it fails only if it has just ended.
                let _ = kill_process(process, Signal::KILL);
            }
        }
    };
    if let Some(reason) = given_up {
        return Err(reason);
    }
    let ended = ended.with_context(|| format!("waiting for {name}"))?;
    if !ended.status.success() {
        let errors = fs::read_to_string(&errors_file).unwrap_or_default();
        let skipped = errors.chars().count().saturating_sub(ERRORS_QUOTED_CHARS_MAX);
        let errors: String = errors.chars().skip(skipped).collect();
        bail!("{command:?} failed ({}): {}", ended.status, errors.trim());
    }
    let usage = Usage {
        running: end.saturating_sub(start),
        flushing: Duration::ZERO,
        processor: ended.rusage.utime + ended.rusage.stime,
        peak_bytes: ended.rusage.maxrss,
    };
    let output = fs::read_to_string(&output_file).with_context(|| format!("reading what {name} wrote"))?;
    Ok((usage, output))
}

/// Brings everything below a path to the disk, and says how long that took.
pub fn flush(path: &Path) -> Result<Duration> {
    let start = SystemClock.monotonic();
    visit(path, DEPTH_MAX, &mut |file| {
        let opened = File::open(file).and_then(|file| file.sync_all());
        opened.with_context(|| format!("bringing {} to the disk", file.display()))
    })?;
    Ok(SystemClock.monotonic().saturating_sub(start))
}

/// Lets the system write out what earlier programs left, and reads everything below a path, so that it is in memory.
pub fn prepare(path: &Path) -> Result<()> {
    rustix::fs::sync();
    let mut buffer = vec![0; BUFFER_BYTES];
    visit(path, DEPTH_MAX, &mut |file| {
        let failed = || format!("reading {}", file.display());
        let mut file = File::open(file).with_context(failed)?;
        while file.read(&mut buffer).with_context(failed)? > 0 {}
        Ok(())
    })
}

/// What is below a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Bytes of all files, as long as they are.
    pub bytes: u64,
    /// Files.
    pub files: u64,
}

/// Counts what is below a path.
pub fn census(path: &Path) -> Result<Census> {
    let mut census = Census::default();
    visit(path, DEPTH_MAX, &mut |file| {
        census.bytes += file.metadata().with_context(|| format!("looking at {}", file.display()))?.len();
        census.files += 1;
        Ok(())
    })?;
    Ok(census)
}

/// Calls the function for the file, or for every file below the folder.
fn visit(path: &Path, depth: usize, each: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    if !path.is_dir() {
        return each(path);
    }
    ensure!(depth > 0, "{} is deeper than {DEPTH_MAX} folders", path.display());
    let failed = || format!("listing {}", path.display());
    for entry in fs::read_dir(path).with_context(failed)? {
        visit(&entry.with_context(failed)?.path(), depth - 1, each)?;
    }
    Ok(())
}

/// Fails unless two files have the same bytes, and as many.
pub fn compare(left: &Path, right: &Path) -> Result<()> {
    let open = |path: &Path| File::open(path).with_context(|| format!("opening {}", path.display()));
    let (mut left_file, mut right_file) = (open(left)?, open(right)?);
    let (left_bytes, right_bytes) = (left_file.metadata()?.len(), right_file.metadata()?.len());
    ensure!(left_bytes == right_bytes, "{} has {left_bytes} bytes instead of {right_bytes}", left.display());
    let (mut left_buffer, mut right_buffer) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let mut offset = 0_u64;
    while offset < left_bytes {
        let length = usize::try_from(left_bytes - offset).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
        let (left_part, right_part) = (&mut left_buffer[..length], &mut right_buffer[..length]);
        left_file.read_exact(left_part).with_context(|| format!("reading {}", left.display()))?;
        right_file.read_exact(right_part).with_context(|| format!("reading {}", right.display()))?;
        ensure!(left_part == right_part, "{} differs from the disk in the MiB at {offset}", left.display());
        offset += length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_took_is_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 0.2; echo said"]);
        let (usage, output) = run(&mut command, folder.path(), &Stop::default()).expect("it runs");
        assert_eq!(output, "said\n");
        assert!(usage.running >= Duration::from_millis(200) && usage.processor < usage.running, "{usage:?}");
        assert!(usage.peak_bytes > 100 << 10, "{usage:?}");
        let mut command = Command::new("sh");
        command.args(["-c", "echo why >&2; exit 3"]);
        let error = run(&mut command, folder.path(), &Stop::default()).expect_err("it fails");
        assert!(error.to_string().contains("why"), "{error}");
    }

    #[test]
    fn one_wrong_byte_and_one_missing_byte_are_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let mut bytes = vec![7; BUFFER_BYTES + 5];
        fs::write(path("disk"), &bytes).expect("written");
        fs::write(path("same"), &bytes).expect("written");
        bytes[BUFFER_BYTES + 2] = 8;
        fs::write(path("wrong"), &bytes).expect("written");
        fs::write(path("short"), &bytes[..9]).expect("written");
        compare(&path("same"), &path("disk")).expect("they are the same");
        compare(&path("wrong"), &path("disk")).expect_err("a byte differs");
        compare(&path("short"), &path("disk")).expect_err("bytes are missing");
        let expected = Census { bytes: 3 * (BUFFER_BYTES as u64 + 5) + 9, files: 4 };
        assert_eq!(census(folder.path()).expect("counted"), expected);
    }
}
