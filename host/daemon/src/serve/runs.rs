//! The view of the vault's runs in the state file, and what is told of them.
//!
//! *Whose runs these are.* A run's journal is in the vault, and any process may have executed it: a command at this host or another. So
//! nobody tells the daemon; it looks. The view is of all runs of the vault. Events are told of those whose machines were protected, or
//! are recovered, at a site that this host serves. Where two hosts share a vault, and each serves one of the two sites, each tells of the
//! run in its own diary, once: after a disaster one of the two is gone, and nobody knows beforehand which.
//!
//! *What is news.* A run that the view has as not ended and that ended, and one that the view does not have. Into a view that is empty, of
//! a first start or of a file that was lost, runs are put without a word, unless the vault was seen without any before; and what is older
//! than [`NEWS_FOR`] is no news in any case. Rows are written before an event is told: after a crash between the two it is missing, and it
//! is never told twice.
//!
//! *What it costs.* A look is one listing. The journal of a run that has ended is read once, ever. That of one that has not ended, or
//! cannot be read, is read again the more seldom the longer that lasts. What a look did not do, because the vault did not answer or the
//! daemon ended, the next one does.
//!
//! *Who may not read journals* (a replicator with no other power) is told so by the API, and nobody else hears of it. Without a state file
//! there is no view and there are no events: it would not be known what was told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use farshore_core::{Clock, RunId, Timestamp, VaultId};
use farshore_failover::{RunHead, RunKind, RunOutcome, RunReport, RunState, load_run};
use farshore_state::{RunEnd, RunQuery, RunRecord, Severity, State, StateError};
use farshore_vault::{Error as VaultError, Vault};
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{diary::Diary, events, keeper::Known};
use crate::output::{Failure, human, milliseconds};

/// How often the vault is asked.
const EVERY: Duration = Duration::from_secs(60);
/// How often if the state file cannot be written: what was read is then read again.
const UNWRITTEN_EVERY: Duration = Duration::from_secs(600);
/// So many of the newest runs are looked at.
const RUNS_MAX: u16 = 500;
/// A journal that is not complete is read again after this part of the time for which it has been so, and after [`AGAIN_MAX`] at most.
const AGAIN_PART: u32 = 10;
const AGAIN_MAX: Duration = Duration::from_secs(3_600);
/// What happened longer ago is put into the view, and not told.
const NEWS_FOR: Duration = Duration::from_secs(7 * 86_400);
/// So many of the things that a run left behind are named.
const LEFTOVERS_MAX: usize = 5;

/// The view, for whoever reads it.
#[derive(Default)]
pub struct RunsView {
    standing: Mutex<Standing>,
}

/// What is known of the view.
#[derive(Debug, Clone, Default)]
pub enum Standing {
    /// The vault has not been looked at since the daemon began: the view is what it was before.
    #[default]
    NotLooked,
    /// This host may not read the journals of runs.
    Refused(Failure),
    /// The vault was looked at.
    Looked,
}

impl RunsView {
    /// What is known of it.
    pub fn standing(&self) -> Standing {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stand(&self, standing: Standing) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }
}

/// Keeps the view at what the vault has.
pub struct Looker {
    vault: Arc<Vault>,
    state: Arc<State>,
    view: Arc<RunsView>,
    diary: Diary,
    known: Arc<Known>,
    clock: Arc<dyn Clock>,
    /// The runs whose journals have to be read again.
    incomplete: BTreeMap<RunId, Incomplete>,
    /// The view has no rows of another vault.
    is_own: bool,
    /// The vault was seen without runs, and the view as well: whatever comes is new.
    was_empty: bool,
}

/// A run that has not ended, or whose journal could not be read.
struct Incomplete {
    since: Duration,
    next: Duration,
    /// It was not there when an empty view was filled.
    is_news: bool,
}

/// A journal that was read, and what the view had of it.
struct Found {
    run: RunState,
    row: RunRecord,
    before: Option<RunRecord>,
    is_news: bool,
}

impl Looker {
    /// Looks into this vault, keeps here and tells there.
    pub fn new(
        vault: Arc<Vault>,
        state: Arc<State>,
        view: Arc<RunsView>,
        diary: Diary,
        known: Arc<Known>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (incomplete, is_own, was_empty) = Default::default();
        Self { vault, state, view, diary, known, clock, incomplete, is_own, was_empty }
    }

    /// Looks until the daemon stops.
    pub async fn look(mut self, stop: &CancellationToken) {
        loop {
            let pause = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                pause = self.look_once() => pause,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.clock.sleep(pause) => {}
            }
        }
    }

    /// Looks once; how long until the next time.
    async fn look_once(&mut self) -> Duration {
        let listed = match self.vault.runs(RUNS_MAX.into()).await {
            Ok(listed) => listed,
            Err(error @ VaultError::PowerMissing { .. }) => {
                self.view.stand(Standing::Refused(Failure::from(error)));
                return EVERY;
            }
            // That the vault does not answer is told by those who need it.
            Err(error) => {
                tracing::debug!(%error, "the vault's runs are not known for now");
                return EVERY;
            }
        };
        match self.bring_up_to_date(listed).await {
            Ok(()) => {
                self.view.stand(Standing::Looked);
                EVERY
            }
            Err(error) => {
                tracing::warn!(%error, "the view of the vault's runs is not kept for now");
                UNWRITTEN_EVERY
            }
        }
    }

    /// Brings the view to what the vault has of the runs that it lists, newest first, and tells what is new.
    async fn bring_up_to_date(&mut self, listed: Vec<RunId>) -> Result<(), String> {
        if !self.is_own {
            let vault = self.vault.id();
            in_state(&self.state, move |state| state.forget_other_vaults(vault)).await?;
            self.is_own = true;
        }
        let rows = in_state(&self.state, |state| state.runs(&RunQuery { group: None, limit: RUNS_MAX.into() })).await?;
        let mut rows: BTreeMap<RunId, RunRecord> = rows.into_iter().map(|row| (row.run, row)).collect();
        self.was_empty |= rows.is_empty() && listed.is_empty();
        let is_told = !rows.is_empty() || self.was_empty;
        self.incomplete.retain(|run, _| listed.contains(run));
        let mut found = Vec::new();
        // The oldest first, so that they are told in their order.
        for run in listed.into_iter().rev() {
            let before = rows.remove(&run);
            if before.as_ref().is_none_or(|row| row.end.is_none()) {
                found.extend(self.read(run, before, is_told).await);
            }
        }
        let changed: Vec<RunRecord> = found
            .iter()
            .filter(|found| found.before.as_ref() != Some(&found.row))
            .map(|found| found.row.clone())
            .collect();
        in_state(&self.state, move |state| state.put_runs(&changed)).await?;
        found.iter().for_each(|found| self.tell(found));
        Ok(())
    }

    /// Reads a journal, if it is its time.
    async fn read(&mut self, run: RunId, before: Option<RunRecord>, is_told: bool) -> Option<Found> {
        let now = self.clock.monotonic();
        let is_new = Incomplete { since: now, next: now, is_news: is_told };
        let incomplete = self.incomplete.entry(run).or_insert(is_new);
        if now < incomplete.next {
            return None;
        }
        let pause = now.saturating_sub(incomplete.since) / AGAIN_PART;
        incomplete.next = now.saturating_add(pause.min(AGAIN_MAX));
        let is_news = incomplete.is_news;
        match load_run(&self.vault, run).await {
            Ok(state) => {
                if state.has_ended() {
                    self.incomplete.remove(&run);
                }
                Some(Found { row: row(self.vault.id(), &state), run: state, before, is_news })
            }
            // `farshore run list` names it.
            Err(error) => {
                tracing::debug!(%run, %error, "a run's journal cannot be read for now");
                None
            }
        }
    }

    fn tell(&self, Found { run, before, is_news, .. }: &Found) {
        let RunHead { source, target, .. } = &run.head;
        if !self.known.serves(source) && !self.known.serves(target) {
            return;
        }
        let is_recent = |at: Timestamp| self.clock.now().since(at) < NEWS_FOR;
        match (&run.report, before) {
            (Some(report), Some(_)) if is_recent(report.ended_at) => self.tell_end(report),
            (Some(report), None) if *is_news && is_recent(report.ended_at) => self.tell_end(report),
            (None, None) if *is_news && is_recent(run.head.began_at) => self.tell_beginning(&run.head),
            _ => {}
        }
    }

    fn tell_beginning(&self, head: &RunHead) {
        let RunHead { run, kind, group, point, source, target, .. } = head;
        let text = format!("{kind} of point {point}, {source} -> {target}, began; run {run}");
        let details = json!({
            "run": run, "kind": kind, "group": group, "point": point, "source": source, "target": target,
        });
        self.diary.tell(events::RUN_BEGAN, Severity::Info, Some(group), text, details);
    }

    fn tell_end(&self, report: &RunReport) {
        let RunReport { run, kind, group, point, source, target, outcome, leftovers, .. } = report;
        let has_left = has_left_something(report);
        let severity = match outcome {
            RunOutcome::Succeeded if !has_left => Severity::Info,
            RunOutcome::Succeeded | RunOutcome::Partly | RunOutcome::Failed => Severity::Warning,
        };
        let (recovered, machines) = (recovered(report), report.machines.len());
        let within = length(report.seconds_to_recover).map(|length| format!(" within {}", human::duration(length)));
        let left = match leftovers.len() {
            0 if has_left => "; it was not cleaned up".to_owned(),
            0 => String::new(),
            count => {
                let named = leftovers.iter().take(LEFTOVERS_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
                let more = count.saturating_sub(LEFTOVERS_MAX);
                let more = if more == 0 { String::new() } else { format!(" and {more} more") };
                format!("; left behind: {named}{more}")
            }
        };
        let advice =
            if severity == Severity::Info { String::new() } else { format!("\nhint: farshore run show {run}") };
        let text = format!(
            "{kind} of point {point}, {source} -> {target}: {outcome}; {recovered} of {machines} machine{} recovered{}{left}{advice}",
            if machines == 1 { "" } else { "s" },
            within.unwrap_or_default(),
        );
        let details = json!({
            "run": run, "kind": kind, "group": group, "point": point, "source": source, "target": target,
            "outcome": outcome, "leftovers": leftovers.len(),
        });
        self.diary.tell(events::RUN_ENDED, severity, Some(group), text, details);
    }
}

/// Asks the state file, which may have to wait for a disk. The error is for the log.
async fn in_state<T: Send + 'static>(
    state: &Arc<State>,
    ask: impl FnOnce(&State) -> Result<T, StateError> + Send + 'static,
) -> Result<T, String> {
    let state = Arc::clone(state);
    match tokio::task::spawn_blocking(move || ask(&state)).await {
        Ok(answer) => answer.map_err(|error| Failure::describe(&error).in_a_line()),
        Err(error) => Err(error.to_string()),
    }
}

/// A run as the view has it.
fn row(vault: VaultId, run: &RunState) -> RunRecord {
    let head = &run.head;
    RunRecord {
        run: head.run,
        vault,
        kind: word(head.kind),
        group: head.group.clone(),
        point: head.point,
        captured_at: head.captured_at,
        source: head.source.clone(),
        target: head.target.clone(),
        machines: count(head.machines.len()),
        began_at: head.began_at,
        end: run.report.as_ref().map(|report| RunEnd {
            ended_at: report.ended_at,
            outcome: word(report.outcome),
            machines_recovered: count(recovered(report)),
            leftovers: count(report.leftovers.len()),
            recovered_in_milliseconds: length(report.seconds_to_recover).map(milliseconds),
            lost_at_most_milliseconds: length(report.seconds_lost_at_most).map(milliseconds),
        }),
    }
}

fn recovered(report: &RunReport) -> usize {
    report.machines.iter().filter(|machine| machine.error.is_none()).count()
}

/// A failover keeps what it made; a drill does not.
fn has_left_something(report: &RunReport) -> bool {
    !report.leftovers.is_empty() || (report.kind == RunKind::Drill && !report.cleaned_up)
}

/// The word that a journal has for it.
fn word<T: Serialize>(value: T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn length(seconds: Option<f64>) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds?).ok()
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
