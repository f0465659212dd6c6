//! What the daemon hears of its cycles: onto the board, and into the diary.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use farshore_core::{Basis, Clock, Coded as _, GroupName, Timestamp};
use farshore_replication::{
    Board, CycleEvent, CycleObserver, CycleReport, PhaseTimes, ReplicationError, WatchObserver,
};
use farshore_state::{CycleOutcome, CycleRecord, Severity};
use serde_json::json;

use super::{diary::Diary, events};
use crate::{
    command::basis,
    output::{Failure, Repeats, human, milliseconds},
};

/// Hears the loop.
pub struct Loop {
    board: Arc<Board>,
    diary: Diary,
    clock: Arc<dyn Clock>,
    began: Mutex<BTreeMap<GroupName, Timestamp>>,
    said: Repeats,
}

impl Loop {
    /// Tells this board and this diary.
    pub fn new(board: Arc<Board>, diary: Diary, clock: Arc<dyn Clock>) -> Self {
        Self { board, diary, clock, began: Mutex::default(), said: Repeats::default() }
    }

    fn keep(&self, group: &GroupName, outcome: CycleOutcome, times: Option<&PhaseTimes>) {
        let ended_at = self.clock.now();
        let began = self.began.lock().unwrap_or_else(PoisonError::into_inner).remove(group);
        let record = CycleRecord { group: group.clone(), begun_at: began.unwrap_or(ended_at), ended_at, outcome };
        self.diary.cycle(record, times);
    }
}

impl WatchObserver for Loop {
    fn begun(&self, group: &GroupName, _: Duration) {
        self.began.lock().unwrap_or_else(PoisonError::into_inner).insert(group.clone(), self.clock.now());
        self.board.begun(group);
    }

    fn committed(&self, report: &CycleReport, waited: Duration, pause: Option<Duration>) {
        let (failing, age_before) = self.board.committed(report, pause);
        let (group, point) = (&report.group, &report.point);
        self.keep(group, committed(report, age_before, waited), Some(&report.times));
        if let Some(failing) = failing {
            let since = human::duration(self.clock.now().since(failing.since));
            let text = format!("point {} after {} tries that failed, for {since}", point.sequence, failing.failures);
            let details = json!({ "point": point.sequence, "failures": failing.failures });
            self.diary.tell_end(Severity::Warning, events::CYCLE_RECOVERED, Some(group), text, details);
        }
        tell_label(&self.diary, report);
    }

    fn waits(&self, group: &GroupName, error: &ReplicationError, pause: Option<Duration>) {
        self.began.lock().unwrap_or_else(PoisonError::into_inner).remove(group);
        let cause = match error {
            ReplicationError::Waiting { source, .. } => source.as_deref(),
            _ => None,
        };
        let why = cause.map(|cause| format!("[{}] {}", cause.code(), Failure::describe(cause).in_a_line()));
        // While it catches up there is nothing new to say.
        if self.board.waits(group, cause.map_or(error.code(), |cause| cause.code()), why, pause) && cause.is_some() {
            let failure = Failure::describe(error);
            let text = format!("[{}] {}", failure.code, failure.in_a_line());
            let details = json!({ "code": failure.code });
            self.diary.tell(events::POINTS_WAITING, Severity::Warning, Some(group), text, details);
        }
    }

    fn failed(&self, group: &GroupName, error: &ReplicationError, failures: u32, pause: Option<Duration>) {
        let failure = Failure::describe(error);
        let message = failure.in_a_line();
        if matches!(error, ReplicationError::Suspending { .. }) {
            // That the machine is suspended was told as such, and the others' next cycle begins at once.
            self.keep(group, CycleOutcome::Failed { code: error.code().to_string(), message }, None);
            return self.board.rests(group, pause);
        }
        let is_final = error.is_final();
        let is_new = self.board.failed(group, error.code(), message.clone(), is_final, failures, pause);
        self.keep(group, CycleOutcome::Failed { code: error.code().to_string(), message: message.clone() }, None);
        if is_new {
            let advice = failure.advice.as_ref().map(|advice| format!("\nhint: {advice}")).unwrap_or_default();
            let text = format!("[{}] {message}{advice}", failure.code);
            let details = json!({ "code": failure.code, "failures": failures, "final": is_final });
            self.diary.tell(events::CYCLE_FAILED, Severity::Warning, Some(group), text, details);
        }
    }

    fn application_failed(&self, group: &GroupName, error: &ReplicationError, pause: Duration) {
        let made = matches!(error, ReplicationError::NotAtRest { .. });
        if !made {
            self.began.lock().unwrap_or_else(PoisonError::into_inner).remove(group);
            self.board.stopped(group);
        }
        let instead = if made { "" } else { "an ordinary point takes its place, and " };
        let failure = Failure::describe(error);
        let next = human::duration(pause);
        let text = format!("[{}] {}; {instead}the next is tried in {next}", failure.code, failure.in_a_line());
        if self.said.is_new(&format!("{group}: {text}"), self.clock.monotonic()) {
            self.diary.tell(
                events::APPLICATION_FAILED,
                Severity::Warning,
                Some(group),
                text,
                json!({ "code": failure.code }),
            );
        }
    }

    fn rests(&self, group: &GroupName, pause: Option<Duration>) {
        self.began.lock().unwrap_or_else(PoisonError::into_inner).remove(group);
        self.board.rests(group, pause);
    }

    fn stopped(&self, group: &GroupName) {
        self.began.lock().unwrap_or_else(PoisonError::into_inner).remove(group);
        self.board.stopped(group);
    }
}

/// A cycle that became a point, as it is remembered.
fn committed(report: &CycleReport, age_before: Option<Duration>, waited: Duration) -> CycleOutcome {
    let point = &report.point;
    CycleOutcome::Committed {
        point: point.sequence,
        captured_at: point.captured_at,
        basis: basis(point),
        bytes_read: report.read_bytes,
        bytes_changed: point.stats.bytes_changed,
        bytes_stored: point.stats.bytes_stored,
        held_microseconds: report.held_microseconds,
        lag_milliseconds: report.lag_milliseconds,
        age_before_milliseconds: age_before.map(milliseconds),
        waited_milliseconds: milliseconds(waited),
    }
}

/// Whoever asked for a point hears that it is durable.
fn tell_label(diary: &Diary, report: &CycleReport) {
    let point = &report.point;
    if let Some(label) = &point.label {
        let text = format!("point {}, {:?}, is durable", point.sequence, label.as_str());
        let details = json!({ "point": point.sequence, "label": label });
        diary.tell(events::POINT_CREATED, Severity::Info, Some(&report.group), text, details);
    }
}

/// Hears the cycles of one group.
pub struct Cycles {
    group: GroupName,
    board: Arc<Board>,
    diary: Diary,
    clock: Arc<dyn Clock>,
    said: Repeats,
}

impl Cycles {
    /// Tells this board and this diary.
    pub fn new(group: &GroupName, board: &Arc<Board>, diary: &Diary, clock: &Arc<dyn Clock>) -> Self {
        let (board, diary, clock) = (Arc::clone(board), diary.clone(), Arc::clone(clock));
        Self { group: group.clone(), board, diary, clock, said: Repeats::default() }
    }

    fn warn(&self, text: String) {
        if self.said.is_new(&text, self.clock.monotonic()) {
            self.diary.tell(events::CYCLE_WARNING, Severity::Warning, Some(&self.group), text, json!({}));
        }
    }
}

impl CycleObserver for Cycles {
    fn event(&self, event: CycleEvent) {
        match event {
            CycleEvent::Leftover(text) | CycleEvent::Warning(text) => self.warn(text),
            CycleEvent::Waiting(text) => self.board.does(&self.group, &text),
            CycleEvent::Captured(report) => {
                self.board.does(&self.group, "");
                if !report.note.is_empty() {
                    self.warn(report.note);
                }
            }
            CycleEvent::Disk { machine, disk, size_bytes, basis, reason } => {
                let size = human::bytes(size_bytes);
                self.board.does(&self.group, &format!("{machine} {disk} ({size}, {})", word(basis)));
                if !reason.is_empty() {
                    self.warn(format!("{machine} {disk}: {reason}"));
                }
            }
            CycleEvent::Untracked { machine, disk, bytes } => {
                let text = format!(
                    "{machine} {disk}: change tracking left out {} that had changed; all of the disk is compared now. Points since it was \
                     last compared may lack changes",
                    human::bytes(bytes)
                );
                let details = json!({ "machine": machine, "disk": disk, "bytes": bytes });
                self.diary.tell(events::TRACKING_WRONG, Severity::Error, Some(&self.group), text, details);
            }
            CycleEvent::Moved(bytes) => self.board.moved(&self.group, bytes),
            CycleEvent::Spooled { points, bytes } => {
                if self.board.spooled(&self.group, points, bytes) {
                    let text = "no point waits at this host any more".to_owned();
                    let trouble = Severity::Warning;
                    self.diary.tell_end(trouble, events::POINTS_CAUGHT_UP, Some(&self.group), text, json!({}));
                }
            }
            CycleEvent::CaughtUp(report) => {
                let age_before = self.board.caught_up(&report);
                let ended_at = self.clock.now();
                let took = report.times.copy_milliseconds.saturating_add(report.times.commit_milliseconds);
                let took = i64::try_from(took).unwrap_or(i64::MAX);
                let begun_at = ended_at.as_unix_milliseconds().saturating_sub(took);
                let record = CycleRecord {
                    group: self.group.clone(),
                    begun_at: Timestamp::from_unix_milliseconds(begun_at),
                    ended_at,
                    outcome: committed(&report, age_before, Duration::ZERO),
                };
                self.diary.cycle(record, Some(&report.times));
                tell_label(&self.diary, &report);
            }
            CycleEvent::GivenUp { points, why } => {
                let text = format!("{points} that waited will not come into the vault: {why}");
                let details = json!({ "points": points });
                self.diary.tell(events::POINTS_GIVEN_UP, Severity::Warning, Some(&self.group), text, details);
            }
            CycleEvent::Suspended { machine, code, why, captured_at } => {
                self.board.suspended(&self.group, &machine, code, why.clone(), captured_at);
                let has = match captured_at {
                    Some(at) => format!("points have of it what was captured {}", human::age(at, self.clock.now())),
                    None => "no point has anything of it".to_owned(),
                };
                let text = format!("machine {machine} is suspended, and the others go on; {has}: [{code}] {why}");
                let details = json!({ "machine": machine, "code": code.to_string(), "captured_at": captured_at });
                self.diary.tell(events::MACHINE_SUSPENDED, Severity::Warning, Some(&self.group), text, details);
            }
            CycleEvent::Returned { machine, suspended_for } => {
                self.board.returned(&self.group, &machine);
                let text =
                    format!("machine {machine} is part of points again, after {}", human::duration(suspended_for));
                let (trouble, details) = (Severity::Warning, json!({ "machine": machine }));
                self.diary.tell_end(trouble, events::MACHINE_RETURNED, Some(&self.group), text, details);
            }
            CycleEvent::Committed(_) => {}
        }
    }
}

const fn word(basis: Basis) -> &'static str {
    match basis {
        Basis::Tracked => "tracked",
        Basis::Compared => "compared",
        Basis::Full => "full",
    }
}
