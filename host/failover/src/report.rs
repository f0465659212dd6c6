//! What a run says when it has ended.

use farshore_core::{Generation, GroupName, MachineId, RunId, Sequence, SiteName, Timestamp};
use farshore_platform::Readiness;
use farshore_vault::MachineBehind;
use serde::{Deserialize, Serialize};

use crate::{RunKind, RunState};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunOutcome {
    /// Every machine came as far as was asked.
    Succeeded,
    /// Some machines did.
    Partly,
    /// None did.
    Failed,
}

impl std::fmt::Display for RunOutcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Succeeded => "succeeded",
            Self::Partly => "partly",
            Self::Failed => "failed",
        })
    }
}

/// What came of turning a source machine off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceReport {
    /// The machine.
    pub machine: MachineId,
    /// When it was tried.
    pub at: Timestamp,
    /// The platform's proof that it is off.
    pub proof: Option<String>,
    /// Why there is none.
    pub error: Option<String>,
}

/// What became of a machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineReport {
    /// The source machine.
    pub machine: MachineId,
    /// The id of the recovered machine; with dashes, its UUID where the platform has one.
    pub recovered_id: Option<String>,
    /// How far it came.
    pub readiness: Option<Readiness>,
    /// Bytes written to its disks.
    pub written_bytes: u64,
    /// From the run's beginning until it came that far.
    pub seconds_to_readiness: Option<f64>,
    /// Why it could not be recovered.
    pub error: Option<String>,
    /// It was started and is left as it is, though it did not come as far as was asked.
    pub left_running: bool,
}

/// What a run says when it has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// The run.
    pub run: RunId,
    /// What it was for.
    pub kind: RunKind,
    /// The group.
    pub group: GroupName,
    /// Where it was protected.
    pub source: SiteName,
    /// Where it was recovered.
    pub target: SiteName,
    /// The point that was recovered.
    pub point: Sequence,
    /// The instant of that point.
    pub captured_at: Timestamp,
    /// Machines of which it has what was captured earlier.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<MachineBehind>,
    /// When the run began.
    pub began_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How it ended.
    pub outcome: RunOutcome,
    /// What was lost, in a sentence.
    pub loss: String,
    /// From the point's instant, or from that of the machine that is furthest behind, until the source was proven to be off, or,
    /// where somebody attested that it was, until the run began: what the group did then is lost. None for a drill.
    pub seconds_lost_at_most: Option<f64>,
    /// From the run's beginning to the last machine's readiness.
    pub seconds_to_recover: Option<f64>,
    /// The generation that fences the old active side.
    pub generation: Option<Generation>,
    /// What came of turning the source off.
    pub fences: Vec<FenceReport>,
    /// Who says that the source is off.
    pub attestation: Option<String>,
    /// How a drill was kept from the source.
    pub isolation: Option<String>,
    /// What the target's component was refused.
    pub refusals: Vec<String>,
    /// What became of each machine.
    pub machines: Vec<MachineReport>,
    /// A drill removed everything that it made.
    pub cleaned_up: bool,
    /// What could not be removed.
    pub leftovers: Vec<String>,
}

impl RunReport {
    /// The report of a run in this state. `interrupted` is why it was cut short, if it was.
    pub(crate) fn of(state: &RunState, ended_at: Timestamp, refusals: Vec<String>, interrupted: Option<&str>) -> Self {
        let head = &state.head;
        let machines: Vec<_> =
            state.machines.keys().map(|machine| machine_report(state, machine, interrupted)).collect();
        let recovered = machines.iter().filter(|machine| machine.error.is_none()).count();
        let outcome = match recovered {
            0 => RunOutcome::Failed,
            count if count == machines.len() => RunOutcome::Succeeded,
            _ => RunOutcome::Partly,
        };
        let (loss, seconds_lost_at_most) = match head.kind {
            RunKind::Drill => ("none: the source was not touched".to_owned(), None),
            RunKind::Unplanned => {
                let (sentence, seconds) = loss(state);
                (sentence, Some(seconds))
            }
        };
        let readiness_times = machines.iter().filter_map(|machine| machine.seconds_to_readiness);
        let leftovers: Vec<_> = state.cleaned_up.iter().flatten().chain(&state.left).cloned().collect();
        Self {
            run: head.run,
            kind: head.kind,
            group: head.group.clone(),
            source: head.source.clone(),
            target: head.target.clone(),
            point: head.point,
            captured_at: head.captured_at,
            behind: head.behind.clone(),
            began_at: head.began_at,
            ended_at,
            outcome,
            loss,
            seconds_lost_at_most,
            seconds_to_recover: readiness_times.reduce(f64::max).filter(|_| outcome == RunOutcome::Succeeded),
            generation: state.generation,
            fences: state.fences.clone(),
            attestation: head.attestation.clone(),
            isolation: (head.kind == RunKind::Drill).then(|| isolation(&head.drill_reaches)),
            refusals,
            machines,
            cleaned_up: state.cleaned_up.is_some() && leftovers.is_empty(),
            leftovers,
        }
    }
}

/// How a drill was kept from what is live. Which networks its machines had is what the operator wrote for the mode.
fn isolation(reaches: &[String]) -> String {
    if reaches.is_empty() {
        return "linked: the target's component had the settings, grants and program templates of mode drill, of which none is one \
                of mode live; what the keys with which it signed may do is for their policies to say"
            .to_owned();
    }
    format!("none: {}", reaches.join("; "))
}

/// What an unplanned failover lost, as a sentence and in seconds. A source that lived on until it was turned off went on
/// acknowledging work until then.
fn loss(state: &RunState) -> (String, f64) {
    let head = &state.head;
    let proof_of =
        |machine: &MachineId| state.fences.iter().find(|fence| fence.machine == *machine && fence.proof.is_some());
    let proofs: Option<Vec<_>> = state.machines.keys().map(|machine| Some(proof_of(machine)?.at)).collect();
    let (until, what) = match proofs.and_then(|proofs| proofs.into_iter().max()) {
        Some(proven) => (proven.max(head.began_at), "until its machines were proven to be off"),
        None => {
            (head.began_at, "until the failover began; more, if a machine that nobody has proven to be off went on")
        }
    };
    let seconds = |captured_at| until.since(captured_at).as_secs_f64();
    let mut sentence = format!(
        "what the group did after {} (point {}): {:.1} s {what}",
        head.captured_at,
        head.point,
        seconds(head.captured_at)
    );
    for MachineBehind { machine, captured_at } in &head.behind {
        let lost = seconds(*captured_at);
        sentence += &format!("; what machine {machine}, which was suspended, did after {captured_at}: {lost:.1} s");
    }
    let oldest = head.behind.iter().map(|behind| behind.captured_at).fold(head.captured_at, Timestamp::min);
    (sentence, seconds(oldest))
}

fn machine_report(state: &RunState, machine: &MachineId, interrupted: Option<&str>) -> MachineReport {
    let progress = &state.machines[machine];
    let unfinished = || progress.up.is_none().then(|| interrupted.unwrap_or("it was not started").to_owned());
    MachineReport {
        machine: machine.clone(),
        recovered_id: progress.id.clone(),
        readiness: progress.up.as_ref().map(|(readiness, _)| readiness.clone()),
        written_bytes: progress.disks.values().filter_map(|disk| disk.restored).map(|(bytes, _)| bytes).sum(),
        seconds_to_readiness: progress.up.as_ref().map(|(_, at)| at.since(state.head.began_at).as_secs_f64()),
        error: progress.error.clone().or_else(unfinished),
        left_running: state.head.kind == RunKind::Unplanned
            && progress.start_intended_at.is_some()
            && progress.up.is_none(),
    }
}
