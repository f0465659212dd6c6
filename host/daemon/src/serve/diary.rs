//! What the daemon remembers and tells: each event is printed, written into the state file and handed to whoever is alerted.
//!
//! Whoever tells something does not wait: records go to a thread of their own, which prints and writes many at once. If that thread is
//! behind by [`RECORDS_MAX`], or the file cannot be written, records are dropped and counted: a disk that is full is no reason to stop
//! protecting machines. It is said once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use farshore_core::{Clock, GroupName, Timestamp};
use farshore_replication::PhaseTimes;
use farshore_state::{CycleRecord, Event, Record, Severity, State};
use serde_json::{Map, Value};
use tokio::sync::Notify;

use super::{alarms::Alarms, traces::Traces};
use crate::output::{Output, human};

/// Records that wait to be written, at most.
const RECORDS_MAX: usize = 16_384;
/// Records that are written together, at most.
const BATCH_MAX: usize = 1_024;
/// How often old records are deleted, and how old they become.
const TRIM_EVERY: Duration = Duration::from_secs(3_600);
const KEPT_FOR: Duration = Duration::from_secs(90 * 86_400);
/// A thread that hangs, because nobody reads what it prints, is left after so long; it is looked at so often.
const END_MAX: Duration = Duration::from_secs(5);
const END_LOOK: Duration = Duration::from_millis(5);
/// The most rows of each kind.
const ROWS_MAX: u64 = 2_000_000;

/// Where events are printed and kept, and cycles kept.
#[derive(Clone)]
pub struct Kept {
    clock: Arc<dyn Clock>,
    records: SyncSender<Note>,
    dropped: Arc<AtomicU64>,
    written: Arc<Notify>,
}

/// Where events are told to all who hear of them, and cycles kept.
#[derive(Clone)]
pub struct Diary {
    kept: Kept,
    alarms: Arc<Alarms>,
    traces: Arc<Traces>,
}

/// What the diary's thread is sent.
enum Note {
    Record(Record),
    End,
}

/// The diary's thread.
pub struct Writing {
    thread: Option<JoinHandle<()>>,
    notes: SyncSender<Note>,
}

impl Writing {
    /// Waits until everything that was told before is written, or for [`END_MAX`] if that hangs. What is told later is not kept.
    pub async fn end(self, clock: &dyn Clock) {
        let Some(thread) = self.thread else { return };
        let deadline = clock.monotonic().saturating_add(END_MAX);
        let mut is_told = false;
        while !thread.is_finished() && clock.monotonic() < deadline {
            is_told = is_told || self.notes.try_send(Note::End).is_ok();
            clock.sleep(END_LOOK).await;
        }
    }
}

impl Kept {
    /// In this file.
    pub fn new(output: Output, clock: Arc<dyn Clock>, state: Option<Arc<State>>) -> (Self, Writing) {
        let (records, received) = sync_channel(RECORDS_MAX);
        let (of_thread, dropped, written) = (Arc::clone(&clock), Arc::new(AtomicU64::new(0)), Arc::<Notify>::default());
        let mut writer = Writer {
            output,
            clock: of_thread,
            state,
            dropped: Arc::clone(&dropped),
            written: Arc::clone(&written),
            is_failing: false,
        };
        let thread = std::thread::Builder::new().name("diary".to_owned()).spawn(move || writer.run(&received));
        if let Err(error) = &thread {
            output.warn(&format!("events are not kept, because a thread could not be started: {error}"));
        }
        let writing = Writing { thread: thread.ok(), notes: records.clone() };
        (Self { clock, records, dropped, written }, writing)
    }

    /// Something happened. Nobody is alerted.
    pub fn tell(
        &self,
        name: &str,
        severity: Severity,
        group: Option<&GroupName>,
        text: String,
        details: Value,
    ) -> Event {
        let details = match details {
            Value::Object(details) => details,
            _ => Map::new(),
        };
        let event =
            Event { at: self.clock.now(), name: name.to_owned(), severity, group: group.cloned(), text, details };
        self.keep(Record::Event(event.clone()));
        event
    }

    fn keep(&self, record: Record) {
        if self.records.try_send(Note::Record(record)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Diary {
    /// One that keeps here, alerts there, and gives away traces.
    pub const fn new(kept: Kept, alarms: Arc<Alarms>, traces: Arc<Traces>) -> Self {
        Self { kept, alarms, traces }
    }

    /// Something happened.
    pub fn tell(&self, name: &str, severity: Severity, group: Option<&GroupName>, text: String, details: Value) {
        let event = self.kept.tell(name, severity, group, text, details);
        self.alarms.tell(&event, severity);
    }

    /// A trouble is over that was so severe.
    pub fn tell_end(&self, trouble: Severity, name: &str, group: Option<&GroupName>, text: String, details: Value) {
        let event = self.kept.tell(name, Severity::Info, group, text, details);
        self.alarms.tell(&event, trouble);
    }

    /// A cycle has ended; its phases took so long.
    pub fn cycle(&self, cycle: CycleRecord, times: Option<&PhaseTimes>) {
        self.traces.cycle(&cycle, times);
        self.kept.keep(Record::Cycle(cycle));
    }

    /// How many spans of traces were given up.
    pub fn dropped_spans(&self) -> u64 {
        self.traces.dropped()
    }

    /// Wakes whoever waits for records each time that some were written.
    pub fn written(&self) -> &Notify {
        &self.kept.written
    }

    /// How many records were dropped.
    pub fn dropped(&self) -> u64 {
        self.kept.dropped.load(Ordering::Relaxed)
    }
}

/// An event as a line for people.
pub fn render(event: &Event) -> String {
    let Event { at, name, severity, group, text, .. } = event;
    let group = group.as_ref().map(|group| format!("  {group}")).unwrap_or_default();
    let severity = if *severity == Severity::Info { String::new() } else { format!("{severity}: ") };
    format!("{at}  {name}{group}  {severity}{}", human::clean(text).replace('\n', "\n    "))
}

struct Writer {
    output: Output,
    clock: Arc<dyn Clock>,
    /// None if it cannot be used.
    state: Option<Arc<State>>,
    dropped: Arc<AtomicU64>,
    written: Arc<Notify>,
    is_failing: bool,
}

impl Writer {
    fn run(&mut self, received: &Receiver<Note>) {
        let mut trimmed_at = None;
        loop {
            let now = self.clock.monotonic();
            if trimmed_at.is_none_or(|at| now.saturating_sub(at) >= TRIM_EVERY) {
                trimmed_at = Some(now);
                self.trim();
            }
            let first = match received.recv_timeout(TRIM_EVERY) {
                Ok(note) => note,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let (mut batch, mut is_end) = (Vec::new(), false);
            for note in std::iter::once(first).chain(received.try_iter()).take(BATCH_MAX) {
                match note {
                    Note::Record(record) => batch.push(record),
                    Note::End => is_end = true,
                }
            }
            self.write(&batch);
            if is_end {
                return;
            }
        }
    }

    fn write(&mut self, batch: &[Record]) {
        if let Some(state) = &self.state {
            let written = state.record(batch).map_err(|error| error.to_string());
            if written.is_err() {
                self.dropped.fetch_add(u64::try_from(batch.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
            self.look(written);
            self.written.notify_waiters();
        }
        // Last, because nobody may read what the daemon prints.
        for record in batch {
            if let Record::Event(event) = record {
                let _ = self.output.line(event, || render(event));
            }
        }
    }

    fn trim(&mut self) {
        let Some(state) = &self.state else { return };
        let now = self.clock.now().as_unix_milliseconds();
        let kept_for = i64::try_from(KEPT_FOR.as_millis()).unwrap_or(i64::MAX);
        let before = Timestamp::from_unix_milliseconds(now.saturating_sub(kept_for));
        let trimmed = state.trim(before, ROWS_MAX);
        self.look(trimmed.map(|_| ()).map_err(|error| error.to_string()));
    }

    fn look(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => self.is_failing = false,
            Err(why) if !self.is_failing => {
                self.is_failing = true;
                self.output.warn(&format!("what happens is not kept for now: {why}"));
            }
            Err(_) => {}
        }
    }
}
