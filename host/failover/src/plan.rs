//! What a drill or a failover is going to do, before it does anything.
//!
//! Planning has no effect: it chooses the point, asks the target whether it can run the machines, and, for an unplanned
//! failover, asks the source whether it answers. The plan is printed and, where something dangerous is planned, confirmed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use farshore_core::{Clock, GroupName, Machine, MachineId, PowerState, Sequence, Timestamp};
use farshore_platform::{Finding, Source, Target};
use farshore_vault::{Lineage, MachineBehind, Point, Vault};
use serde::Serialize;

use crate::{
    FailoverError, FenceReport, RecoveredCopy, RunKind,
    earlier::{Earlier, Planned},
    journal::runs_of,
};

/// A source that has not answered for this long does not answer.
const SOURCE_ANSWER_MAX: Duration = Duration::from_secs(15);

/// What is asked for.
pub struct PlanRequest<'a> {
    /// The vault.
    pub vault: &'a Vault,
    /// What the run is for.
    pub kind: RunKind,
    /// The group.
    pub group: &'a GroupName,
    /// The point; the newest if none is named.
    pub point: Option<Sequence>,
    /// The machines; all of the point if none is named.
    pub machines: &'a [MachineId],
    /// Where the machines were protected, if that site is configured here. Only asked in an unplanned failover.
    pub source: Option<Arc<dyn Source>>,
    /// Where they shall run.
    pub target: &'a dyn Target,
    /// Where time comes from.
    pub clock: &'a dyn Clock,
    /// What earlier failovers started of these machines may be removed.
    pub discard_recovered: bool,
}

/// What the source says of a machine that is going to be failed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceAnswer {
    /// The machine.
    pub machine: MachineId,
    /// Whether the platform that runs it answers: then it can be turned off, with proof.
    pub answers: bool,
    /// What it said.
    pub evidence: String,
}

/// What is going to be done.
#[derive(Debug, Clone, Serialize)]
pub struct FailoverPlan {
    /// What it is for.
    pub kind: RunKind,
    /// The group.
    pub group: GroupName,
    /// The point.
    pub point: Sequence,
    /// The point's instant.
    pub captured_at: Timestamp,
    /// Machines of which the point has what was captured earlier.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<MachineBehind>,
    /// How old the machine is now that is furthest behind. In an unplanned failover, what the group did since is lost.
    pub age_seconds: f64,
    /// The machines.
    pub machines: Vec<Machine>,
    /// Bytes of their disks.
    pub disk_bytes: u64,
    /// What the target says that does not stand in the way.
    pub remarks: Vec<String>,
    /// What the source says; empty for a drill.
    pub source_answers: Vec<SourceAnswer>,
    /// Machines of the point that are not recovered, and that nobody may protect any more at the source; empty for a drill.
    pub left_unprotected: Vec<MachineId>,
    /// What earlier failovers started here, and this one removes before it starts the machines again.
    pub discards: Vec<RecoveredCopy>,
    /// No point was asked for, so it is the newest.
    #[serde(skip)]
    pub(crate) wants_newest: bool,
    #[serde(skip)]
    pub(crate) may_discard: bool,
    /// What earlier failovers proved of the source.
    #[serde(skip)]
    pub(crate) proven: BTreeMap<MachineId, FenceReport>,
    /// The lineage's own record of the point.
    #[serde(skip)]
    pub(crate) detail: Point,
    #[serde(skip)]
    pub(crate) lineage: Lineage,
}

impl FailoverPlan {
    /// The same plan from a later point of the same machines.
    ///
    /// # Errors
    /// [`FailoverError::MachineNotInPoint`].
    pub(crate) fn moved_to(&self, detail: Point, clock: &dyn Clock) -> Result<Self, FailoverError> {
        let wanted: Vec<_> = self.machines.iter().map(|machine| machine.id.clone()).collect();
        let machines = choose_machines(&self.group, &detail, &wanted)?;
        let behind = machines_behind(&detail, &machines);
        Ok(Self {
            point: detail.sequence,
            captured_at: detail.captured_at,
            age_seconds: age_seconds(&detail, &behind, clock),
            behind,
            disk_bytes: disk_bytes(&machines),
            machines,
            detail,
            ..self.clone()
        })
    }

    /// Why somebody has to attest that the source is off; none if its platform answers for every machine.
    pub fn attestation_needed(&self) -> Option<String> {
        let silent: Vec<_> = self
            .source_answers
            .iter()
            .filter(|answer| !answer.answers)
            .map(|answer| format!("{}: {}", answer.machine, answer.evidence))
            .collect();
        (!silent.is_empty()).then(|| silent.join("; "))
    }
}

/// Plans a run.
///
/// # Errors
/// [`FailoverError::NothingToRecover`], [`FailoverError::MachineNotInPoint`], [`FailoverError::Prerequisite`], and what
/// the vault and the target fail with. A source that does not answer is part of the plan, not an error.
pub async fn plan(request: PlanRequest<'_>) -> Result<FailoverPlan, FailoverError> {
    let nothing = || FailoverError::NothingToRecover { group: request.group.clone() };
    let lineage = request.vault.lineage(request.group).await.map_err(FailoverError::vault("opening the lineage"))?;
    let lineage = lineage.ok_or_else(nothing)?;
    let point = match request.point {
        Some(sequence) => sequence,
        None => {
            let head = lineage.head().await.map_err(FailoverError::vault("finding the newest point"))?;
            head.newest_point.ok_or_else(nothing)?
        }
    };
    let detail = lineage.point(point).await.map_err(FailoverError::vault(format!("reading point {point}")))?;
    let machines = choose_machines(request.group, &detail, request.machines)?;
    let mut remarks = Vec::new();
    for machine in &machines {
        remarks.extend(check_machine(request.target, machine).await?);
    }
    let (source_answers, discards, proven, left_unprotected) = match request.kind {
        RunKind::Drill => Default::default(),
        RunKind::Unplanned => {
            let (answers, discards, proven) = look_around(&request, &lineage, point, &machines).await?;
            let ids = detail.machines.iter().map(|held| held.machine.id.clone());
            (answers, discards, proven, ids.filter(|id| !machines.iter().any(|machine| machine.id == *id)).collect())
        }
    };
    let behind = machines_behind(&detail, &machines);
    Ok(FailoverPlan {
        kind: request.kind,
        group: request.group.clone(),
        point,
        captured_at: detail.captured_at,
        age_seconds: age_seconds(&detail, &behind, request.clock),
        behind,
        disk_bytes: disk_bytes(&machines),
        machines,
        remarks,
        source_answers,
        left_unprotected,
        discards,
        wants_newest: request.point.is_none(),
        may_discard: request.discard_recovered,
        proven,
        detail,
        lineage,
    })
}

/// Those of these machines of which the point has what was captured earlier.
fn machines_behind(point: &Point, machines: &[Machine]) -> Vec<MachineBehind> {
    point.behind().filter(|behind| machines.iter().any(|machine| machine.id == behind.machine)).collect()
}

fn age_seconds(point: &Point, behind: &[MachineBehind], clock: &dyn Clock) -> f64 {
    let oldest = behind.iter().map(|behind| behind.captured_at).fold(point.captured_at, Timestamp::min);
    clock.now().since(oldest).as_secs_f64()
}

fn disk_bytes(machines: &[Machine]) -> u64 {
    machines.iter().flat_map(|machine| &machine.disks).map(|disk| disk.size_bytes).sum()
}

/// The chosen machines, each with the disks that the point holds.
fn choose_machines(group: &GroupName, point: &Point, wanted: &[MachineId]) -> Result<Vec<Machine>, FailoverError> {
    for machine in wanted {
        if !point.machines.iter().any(|held| held.machine.id == *machine) {
            let (group, point, machine) = (group.clone(), point.sequence, machine.clone());
            return Err(FailoverError::MachineNotInPoint { group, point, machine });
        }
    }
    let chosen = point.machines.iter().filter(|held| wanted.is_empty() || wanted.contains(&held.machine.id));
    Ok(chosen
        .map(|held| {
            let mut machine = held.machine.clone();
            machine.disks.retain(|disk| held.disks.iter().any(|kept| kept.disk == disk.id));
            for disk in &mut machine.disks {
                if let Some(kept) = held.disks.iter().find(|kept| kept.disk == disk.id) {
                    disk.size_bytes = kept.size_bytes;
                }
            }
            machine
        })
        .collect())
}

/// What the source says, what earlier failovers started here, and what they proved of the source.
type Surroundings = (Vec<SourceAnswer>, Vec<RecoveredCopy>, BTreeMap<MachineId, FenceReport>);

/// What the source says, and what earlier failovers left: a machine that one has started is refused, unless it may be
/// discarded; one that was started at another site is a source that nobody asks.
async fn look_around(
    request: &PlanRequest<'_>,
    lineage: &Lineage,
    point: Sequence,
    machines: &[Machine],
) -> Result<Surroundings, FailoverError> {
    let head = lineage.head().await.map_err(FailoverError::vault("finding the active side"))?;
    let planned = Planned {
        target: request.target.site(),
        point,
        generation: head.generation,
        machines: machines.iter().map(|machine| &machine.id).collect(),
        discards: request.discard_recovered,
    };
    let earlier = Earlier::of(&runs_of(request.vault, lineage.id()).await?, &planned, &head.active_site);
    let mut answers = ask_source(request.source.as_deref(), machines, request.clock).await;
    for answer in &mut answers {
        if let (false, Some(fence)) = (answer.answers, earlier.proven.get(&answer.machine)) {
            answer.answers = true;
            let proof = fence.proof.as_deref().unwrap_or_default();
            answer.evidence = format!("it was proven to be off at {}: {proof}", fence.at);
        }
    }
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        earlier.copies.into_iter().partition(|copy| copy.site == *request.target.site());
    answers.extend(elsewhere.into_iter().map(|copy| SourceAnswer {
        evidence: format!("failover {} has started it at site {}, which is not asked", copy.run, copy.site),
        machine: copy.machine,
        answers: false,
    }));
    if !request.discard_recovered {
        refuse_second_copies(request.group, &here)?;
    }
    Ok((answers, here, earlier.proven))
}

/// # Errors
/// [`FailoverError::AlreadyRecovered`] if there are any.
pub(crate) fn refuse_second_copies(group: &GroupName, copies: &[RecoveredCopy]) -> Result<(), FailoverError> {
    let Some(first) = copies.first() else { return Ok(()) };
    let names: Vec<_> = copies.iter().map(|copy| copy.machine.to_string()).collect();
    let machines = format!("machine{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "));
    let (group, site, run) = (group.clone(), first.site.clone(), first.run);
    Err(FailoverError::AlreadyRecovered { group, machines, count: names.len(), site, run })
}

async fn check_machine(target: &dyn Target, machine: &Machine) -> Result<Vec<String>, FailoverError> {
    let doing = format!("asking site {} whether it can run machine {}", target.site(), machine.id);
    let findings = target.check_machine(machine).await.map_err(FailoverError::site(doing))?;
    let sentence = |finding: &Finding| finding.problem.clone();
    let blocking: Vec<_> = findings.iter().filter(|finding| finding.blocking).map(sentence).collect();
    if blocking.is_empty() {
        return Ok(findings.iter().map(|finding| format!("{}: {}", machine.id, finding.problem)).collect());
    }
    let (site, machine) = (target.site().clone(), machine.id.clone());
    Err(FailoverError::Prerequisite { site, machine, problems: blocking.join("; ") })
}

async fn ask_source(source: Option<&dyn Source>, machines: &[Machine], clock: &dyn Clock) -> Vec<SourceAnswer> {
    let answer =
        |machine: &Machine, answers, evidence: String| SourceAnswer { machine: machine.id.clone(), answers, evidence };
    let silent = |evidence: &str| machines.iter().map(|machine| answer(machine, false, evidence.to_owned())).collect();
    let Some(source) = source else { return silent("its site is not in this configuration") };
    let known = tokio::select! {
        known = source.machines() => known,
        () = clock.sleep(SOURCE_ANSWER_MAX) => return silent("its site did not answer in time"),
    };
    let known = match known {
        Ok(known) => known,
        Err(error) => return silent(&error.to_string()),
    };
    machines
        .iter()
        .map(|machine| match known.iter().find(|known| known.id == machine.id).map(|known| known.power) {
            None => answer(machine, false, "its site does not have it".to_owned()),
            Some(PowerState::Unknown) => answer(machine, false, "its platform does not answer".to_owned()),
            Some(PowerState::Off) => answer(machine, true, "its platform says that it is off".to_owned()),
            Some(PowerState::Running | PowerState::Paused) => {
                answer(machine, true, "its platform answers, and can turn it off".to_owned())
            }
        })
        .collect()
}
