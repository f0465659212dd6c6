//! What giving turns costs: many groups on one schedule, in simulated time, to which the real time of each decision is added.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use farshore_core::{Entropy as _, SeededEntropy, SiteName};
use farshore_replication::{
    Objective, Priority, Schedule, Turns,
    schedule::{CycleEnd, Member},
};

/// What is simulated.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Groups, of a machine each.
    pub groups: usize,
    /// Their sites.
    pub sites: usize,
    /// Their objective.
    pub rpo: Duration,
    /// How long a cycle takes on average; each takes between a half and one and a half of it.
    pub length: Duration,
    /// Cycles at once.
    pub concurrent_cycles: usize,
    /// For how long, after the first minute, of which nothing is counted.
    pub span: Duration,
    /// Decides how long each cycle takes.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Cycles that began.
    pub cycles: usize,
    /// How long cycles had been due when they began, in ascending order.
    pub waits: Vec<Duration>,
    /// How old the newest point had become before each commit, in ascending order.
    pub ages: Vec<Duration>,
    /// The processor's time for all decisions.
    pub deciding: Duration,
}

impl Outcome {
    /// The wait or age that so many of a thousand do not pass.
    pub fn per_mille(sorted: &[Duration], per_mille: usize) -> Duration {
        sorted.get((sorted.len() * per_mille / 1_000).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

/// Runs it. Decisions are made by one who makes no other meanwhile: what a decision takes passes in the simulated time, too.
///
/// # Errors
/// There are no sites.
#[expect(clippy::disallowed_methods, reason = "it measures how long decisions take")]
pub fn measure(plan: Plan) -> Result<Outcome> {
    let entropy = SeededEntropy::new(plan.seed);
    let draw = || {
        let mut bytes = [0; 4];
        entropy.fill(&mut bytes);
        plan.length / 2 + plan.length.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
    };
    let sites: Result<Vec<SiteName>, _> = (0..plan.sites).map(|site| SiteName::new(format!("site-{site}"))).collect();
    let sites = sites.context("a site has no name")?;
    let mut schedule = Schedule::new(plan.concurrent_cycles);
    // All are due at once, as after a start: what comes of that is the first minute's.
    let objective = Objective { rpo: plan.rpo };
    let mut newest: Vec<Option<Duration>> = vec![None; plan.groups];
    let mut members: Vec<Member> = Vec::with_capacity(plan.groups);
    for group in 0..plan.groups {
        let site = sites.get(group % plan.sites.max(1)).context("there are no sites")?.clone();
        let turns = Turns { site, objective, priority: Priority::Normal, newest_age: Some(Duration::ZERO) };
        members.push(schedule.add(&turns, Duration::ZERO));
    }
    let index = |member: Member| members.binary_search(&member).unwrap_or_default();
    let counted_from = Duration::from_secs(60);
    let end = counted_from + plan.span;
    let mut running: BinaryHeap<Reverse<(Duration, usize, Duration)>> = BinaryHeap::new();
    let mut outcome = Outcome { cycles: 0, waits: Vec::new(), ages: Vec::new(), deciding: Duration::ZERO };
    let mut now = Duration::ZERO;
    while now < end {
        let (started, before) = (Instant::now(), now);
        let clock = |started: Instant| before + started.elapsed();
        while running.peek().is_some_and(|Reverse((ends, ..))| *ends <= now) {
            let Some(Reverse((_, group, since))) = running.pop() else { break };
            schedule.end(members[group], CycleEnd::Committed, clock(started));
            if let (Some(newest), true) = (newest[group], now >= counted_from) {
                outcome.ages.push(now.saturating_sub(newest));
            }
            newest[group] = Some(since);
        }
        while let Some(begun) = schedule.begin(clock(started)) {
            let begins = clock(started);
            if begins >= counted_from {
                outcome.cycles += 1;
                outcome.waits.push(begun.waited);
            }
            running.push(Reverse((begins + draw(), index(begun.member), begins)));
        }
        let took = started.elapsed();
        outcome.deciding += took;
        now += took;
        let next = [running.peek().map(|Reverse((ends, ..))| *ends), schedule.wakes_at()];
        now = now.max(next.into_iter().flatten().min().unwrap_or(end));
    }
    outcome.waits.sort_unstable();
    outcome.ages.sort_unstable();
    Ok(outcome)
}
