//! A guest's console: the lines that it wrote, each with the time at which they were seen from outside.
//!
//! QEMU appends what the guest writes to a log file, and a thread here follows that file. The file is the truth: it loses
//! nothing, whoever is connected to the console's socket, and it is still there when QEMU was killed. The thread looks
//! every 10 ms, so a line's time is late by at most that, plus what a busy machine adds.
//!
//! Dropping a [`Console`] ends its thread. At most [`LINES_MAX`] lines are kept; the oldest go first.

use std::{
    collections::VecDeque,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use farshore_core::{Clock, SystemClock};

use crate::{
    error::{AtPath, DemoError},
    wait::{Deadline, POLL, Stop, pause},
};

/// How many lines are kept.
pub const LINES_MAX: usize = 100_000;

/// A longer line is cut into several.
const LINE_BYTES_MAX: usize = 8 << 10;

/// How many of the last lines an error quotes.
const LINES_QUOTED_MAX: usize = 8;

/// How long a log that nobody writes any more may take to be read.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);

/// How often a wait looks whether its time is over.
const CHECK: Duration = Duration::from_millis(50);

/// A line of the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it was seen, on this process's monotonic clock.
    pub seen: Duration,
    /// The line without its end.
    pub text: String,
}

/// What a guest writes to its console. See the module.
#[derive(Debug)]
pub struct Console {
    log: PathBuf,
    shared: Arc<Shared>,
    follower: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Line>,
    /// The number of the first kept line; lines are numbered from 0.
    first: usize,
    unfinished: Vec<u8>,
    consumed_bytes: u64,
    ending: bool,
}

impl Console {
    /// Follows the log file, from its beginning; it need not exist yet.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn follow(log: &Path) -> Result<Self, DemoError> {
        let shared = Arc::new(Shared::default());
        let (for_thread, path) = (Arc::clone(&shared), log.to_owned());
        let follower = std::thread::Builder::new().name("console".to_owned()).spawn(move || for_thread.run(&path));
        let follower = follower.map_err(|source| DemoError::File { doing: "follow", path: log.to_owned(), source })?;
        Ok(Self { log: log.to_owned(), shared, follower: Some(follower) })
    }

    /// The log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How many lines there were so far. A wait from here on sees only what comes later.
    pub fn line_count(&self) -> usize {
        let state = self.shared.lock();
        state.first + state.lines.len()
    }

    /// The kept lines from this number on.
    pub fn lines_from(&self, number: usize) -> Vec<Line> {
        let state = self.shared.lock();
        state.lines.iter().skip(number.saturating_sub(state.first)).cloned().collect()
    }

    /// The first line from this number on that the function takes, as soon as there is one, with the number after it.
    ///
    /// # Errors
    /// None came within `limit`, or stopping was asked for.
    pub fn wait_for<T>(
        &self,
        awaited: &str,
        from: usize,
        limit: Duration,
        stop: &Stop,
        mut take: impl FnMut(&Line) -> Option<T>,
    ) -> Result<(T, usize), DemoError> {
        let deadline = Deadline::after(limit, stop);
        let mut next = from;
        let mut state = self.shared.lock();
        loop {
            next = next.max(state.first);
            while let Some(line) = state.lines.get(next - state.first) {
                next += 1;
                if let Some(taken) = take(line) {
                    return Ok((taken, next));
                }
            }
            deadline.check(awaited, || state.last_lines())?;
            let waited = self.shared.changed.wait_timeout(state, CHECK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns when everything that the log holds now has been read: for the moment after the guest was killed.
    ///
    /// # Errors
    /// The log cannot be read, or stopping was asked for.
    pub fn catch_up(&self, stop: &Stop) -> Result<(), DemoError> {
        let deadline = Deadline::after(CATCH_UP_MAX, stop);
        let length_bytes = std::fs::metadata(&self.log).at("inspect", &self.log)?.len();
        while self.shared.lock().consumed_bytes < length_bytes {
            deadline.check("the end of the console's log", String::new)?;
            pause(POLL);
        }
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.changed.notify_all();
        if let Some(follower) = self.follower.take() {
            // A panic there was reported there.
            let _ = follower.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: reads to the end of the file, waits a little, until it is told to end.
    fn run(&self, log: &Path) {
        let mut file: Option<File> = None;
        let mut buffer = vec![0; 64 << 10];
        loop {
            if file.is_none() {
                file = File::open(log).ok();
            }
            let count = file.as_mut().map_or(0, |file| file.read(&mut buffer).unwrap_or(0));
            let mut state = self.lock();
            if state.ending {
                return;
            }
            match buffer.get(..count) {
                Some(bytes) if !bytes.is_empty() => {
                    state.take(bytes, SystemClock.monotonic());
                    self.changed.notify_all();
                }
                _ => drop(self.changed.wait_timeout(state, POLL)),
            }
        }
    }
}

impl State {
    fn take(&mut self, bytes: &[u8], seen: Duration) {
        self.consumed_bytes += bytes.len() as u64;
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(seen),
                b'\r' => {}
                _ if self.unfinished.len() >= LINE_BYTES_MAX => self.end_line(seen),
                byte => self.unfinished.push(*byte),
            }
        }
    }

    fn end_line(&mut self, seen: Duration) {
        let text = String::from_utf8_lossy(&self.unfinished).into_owned();
        self.unfinished.clear();
        self.lines.push_back(Line { seen, text });
        if self.lines.len() > LINES_MAX {
            self.lines.pop_front();
            self.first += 1;
        }
    }

    fn last_lines(&self) -> String {
        let skipped = self.lines.len().saturating_sub(LINES_QUOTED_MAX);
        let lines = self.lines.iter().skip(skipped).map(|line| line.text.as_str());
        lines.chain([String::from_utf8_lossy(&self.unfinished).as_ref()]).collect::<Vec<_>>().join(" | ")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn text(line: &Line) -> Option<String> {
        line.text.starts_with("two").then(|| line.text.clone())
    }

    #[test]
    fn lines_are_followed_as_they_come() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("serial.log");
        let console = Console::follow(&log).expect("it follows a file that is not there yet");
        let mut file = File::create(&log).expect("a file");
        file.write_all(b"one\r\ntw").expect("written");
        let early = console.wait_for("two", 0, Duration::from_millis(100), &Stop::default(), text);
        assert!(matches!(early, Err(DemoError::TooLate { .. })), "half a line is none: {early:?}");
        file.write_all(b"o 2\nthree\n").expect("written");
        let (line, next) = console.wait_for("two", 0, SOON, &Stop::default(), text).expect("the line");
        assert_eq!((line.as_str(), next), ("two 2", 2));
        let again = console.wait_for("two", next, Duration::from_millis(100), &Stop::default(), text);
        assert!(again.is_err(), "what was seen before does not count");
    }

    #[test]
    fn a_wish_to_stop_ends_a_wait() {
        let folder = tempfile::tempdir().expect("a folder");
        let console = Console::follow(&folder.path().join("none")).expect("followed");
        let stop = Stop::default();
        stop.request();
        assert!(matches!(console.wait_for("two", 0, SOON, &stop, text), Err(DemoError::Interrupted)));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut state = State::default();
        for _ in 0..LINES_MAX + 5 {
            state.take(b"x\n", Duration::ZERO);
        }
        assert_eq!((state.lines.len(), state.first), (LINES_MAX, 5));
        state.take(&vec![b'y'; LINE_BYTES_MAX * 3], Duration::ZERO);
        assert!(state.unfinished.len() <= LINE_BYTES_MAX);
    }
}
