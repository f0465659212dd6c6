//! The load that `cargo xtask bench rpo` runs inside a guest: writes of one size at random places of a device, at a steady pace,
//! each as it is asked for, and a line a second that tells how long they took.
//!
//! It must not need anything but the C library: it is copied into a guest that has little else.
//!
//! `farshore-bench-writer DEVICE FROM_BYTES TO_BYTES WRITE_BYTES BYTES_PER_SECOND direct|durable SEED`
//!
//! Places are multiples of the size. The device is opened with `O_DIRECT`, so that a write returns when the device has taken it;
//! `durable` adds `O_DSYNC`, so that it returns when the device has flushed it, too. One write is under way at a time. After a
//! pause the load catches up with its pace, but never with more than a second of it.

use std::{
    env,
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    process::ExitCode,
    thread,
    time::Duration,
};

use farshore_bench::latencies::Second;
use farshore_core::{Clock as _, Entropy as _, SeededEntropy, SystemClock};
use rustix::fs::OFlags;

/// What `O_DIRECT` wants memory to be aligned to.
const ALIGNMENT_BYTES: usize = 4096;
/// What the load owes at most after a pause.
const DEBT_MAX: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("WRITER-FAILED {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> io::Result<()> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    let [device, from, to, size, rate, mode, seed] = arguments else { return Err(wrong("seven arguments are needed")) };
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong("an argument is no number"));
    let (from, to, size, rate, seed) = (number(from)?, number(to)?, number(size)?, number(rate)?, number(seed)?);
    let length = usize::try_from(size).map_err(|_| wrong("too large a size"))?;
    let places = to.saturating_sub(from).checked_div(size).filter(|places| *places > 0).ok_or(wrong("no place"))?;
    let flags = match mode.as_str() {
        "direct" => OFlags::DIRECT,
        "durable" => OFlags::DIRECT | OFlags::DSYNC,
        _ => return Err(wrong("neither direct nor durable")),
    };
    let file = OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(device)?;
    let pace = Duration::from_nanos((size * 1_000_000_000).checked_div(rate).ok_or(wrong("no rate"))?);
    let entropy = SeededEntropy::new(seed);
    let mut memory = vec![0; length + ALIGNMENT_BYTES];
    let aligned = memory.as_ptr().align_offset(ALIGNMENT_BYTES);
    let buffer = memory.get_mut(aligned..aligned + length).ok_or(wrong("memory that cannot be aligned"))?;
    let start = SystemClock.monotonic();
    let (mut due, mut second) = (start, Second::default());
    loop {
        let mut drawn = [0; 8];
        entropy.fill(&mut drawn);
        entropy.fill(buffer);
        let place = from + u64::from_le_bytes(drawn) % places * size;
        due += pace;
        due = due.max(SystemClock.monotonic().saturating_sub(DEBT_MAX));
        pause_until(due);
        let begun = SystemClock.monotonic();
        file.write_all_at(buffer, place)?;
        let ended = SystemClock.monotonic();
        second.writes += 1;
        second.bytes += size;
        second.latencies.add(microseconds(ended - begun));
        second.behind_microseconds = second.behind_microseconds.max(microseconds(begun - due));
        let number = (ended - start).as_secs();
        if number > second.number {
            writeln!(io::stdout(), "{second}")?;
            second = Second { number, ..Second::default() };
        }
    }
}

fn microseconds(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "it runs in a guest, whose time no simulator owns")]
fn pause_until(due: Duration) {
    let left = due.saturating_sub(SystemClock.monotonic());
    if !left.is_zero() {
        thread::sleep(left);
    }
}
