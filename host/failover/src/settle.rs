//! Waiting for a platform: until long work is done, until what it does not answer is answered, until a machine is ready.

use std::time::Duration;

use farshore_core::Machine;
use farshore_platform::{AdapterState, Patience, Pending, Readiness, SiteError, Step, StepStatus};
use tokio_util::sync::CancellationToken;

use crate::{Execution, FailoverError, RunEntry, RunEvent, RunJournal};

/// Long work of which the platform says the same for so long is given up.
const PLATFORM_STILL_MAX: Duration = Duration::from_secs(3_600);
/// How often a machine is asked for its readiness.
const READINESS_PAUSE: Duration = Duration::from_millis(500);
/// A platform that does not answer is asked again for so long, and so often.
const UNANSWERED_MAX: Duration = Duration::from_secs(300);
const UNANSWERED_PAUSE: Duration = Duration::from_secs(2);

impl Execution {
    /// What a platform answers to a question that may be repeated. While it does not answer, or is busy, it is asked again:
    /// hours of restoring are not given up for an answer that was lost.
    pub(crate) async fn answered<T, F>(&self, stop: &CancellationToken, ask: impl Fn() -> F) -> Result<T, SiteError>
    where
        F: Future<Output = Result<T, SiteError>>,
    {
        let deadline = self.clock.monotonic() + UNANSWERED_MAX;
        loop {
            let answer = ask().await;
            let is_unanswered = matches!(answer, Err(SiteError::Unreachable { .. } | SiteError::Conflict { .. }));
            if !is_unanswered || self.clock.monotonic() >= deadline || stop.is_cancelled() {
                return answer;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return answer,
                () = self.clock.sleep(UNANSWERED_PAUSE) => {}
            }
        }
    }

    /// Goes on with a disk's work until it is ready, recording each state.
    pub(crate) async fn settle_disk(
        &self,
        journal: &mut RunJournal,
        id: &str,
        mut step: Result<Step<String>, SiteError>,
        doing: &str,
        stop: &CancellationToken,
    ) -> Result<AdapterState, FailoverError> {
        let mut patience = Patience::new(PLATFORM_STILL_MAX, self.clock.monotonic());
        loop {
            let Step { state, status } = step.map_err(FailoverError::site(doing))?;
            journal.record(RunEntry::DiskState { id: id.to_owned(), state: state.clone() }).await?;
            match status {
                StepStatus::Ready(_) => return Ok(state),
                StepStatus::Pending(pending) => {
                    self.pause(&pending, &mut patience, doing, stop).await?;
                    step = self.answered(stop, || self.target.continue_disk(&state)).await;
                }
            }
        }
    }

    /// Goes on with a machine's work until it is ready, recording each state.
    pub(crate) async fn settle_machine(
        &self,
        journal: &mut RunJournal,
        machine: &Machine,
        mut step: Result<Step<String>, SiteError>,
        doing: &str,
        stop: &CancellationToken,
    ) -> Result<(AdapterState, String), FailoverError> {
        let mut patience = Patience::new(PLATFORM_STILL_MAX, self.clock.monotonic());
        loop {
            let Step { state, status } = step.map_err(FailoverError::site(doing))?;
            journal.record(RunEntry::MachineState { machine: machine.id.clone(), state: state.clone() }).await?;
            match status {
                StepStatus::Ready(note) => return Ok((state, note)),
                StepStatus::Pending(pending) => {
                    self.pause(&pending, &mut patience, doing, stop).await?;
                    step = self.answered(stop, || self.target.continue_machine(&state)).await;
                }
            }
        }
    }

    /// Waits until the platform is to be asked again, unless it makes no progress.
    async fn pause(
        &self,
        pending: &Pending,
        patience: &mut Patience,
        doing: &str,
        stop: &CancellationToken,
    ) -> Result<(), FailoverError> {
        if patience.hears(pending, self.clock.monotonic()) && !pending.doing.is_empty() {
            self.observer.event(RunEvent::Step(pending.doing.clone()));
        }
        if patience.is_over(self.clock.monotonic()) {
            let (doing, said) = (doing.to_owned(), pending.doing.clone());
            return Err(FailoverError::Stands { doing, said, limit_seconds: PLATFORM_STILL_MAX.as_secs() });
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(FailoverError::Stopped),
            () = self.clock.sleep(pending.poll_after) => Ok(()),
        }
    }

    pub(crate) async fn await_readiness(
        &self,
        machine: &Machine,
        state: &AdapterState,
        stop: &CancellationToken,
    ) -> Result<Readiness, FailoverError> {
        let doing = format!("waiting until machine {} is ready", machine.id);
        let deadline = self.clock.monotonic() + self.readiness_limit;
        let mut last = None;
        loop {
            if stop.is_cancelled() {
                return Err(FailoverError::Stopped);
            }
            let readiness = match self.target.readiness(state).await {
                // It may be busy for a moment: whoever asks again does no harm, and whoever gives up starts it twice.
                Err(SiteError::Unreachable { .. } | SiteError::Conflict { .. })
                    if self.clock.monotonic() < deadline =>
                {
                    self.clock.sleep(READINESS_PAUSE).await;
                    continue;
                }
                answer => answer.map_err(FailoverError::site(doing.clone()))?,
            };
            if last.as_ref() != Some(&readiness) {
                let event = RunEvent::Readiness { machine: machine.id.clone(), readiness: readiness.clone() };
                self.observer.event(event);
            }
            if readiness.level >= self.readiness {
                return Ok(readiness);
            }
            if self.clock.monotonic() >= deadline {
                let doing = format!("{doing} ({})", readiness.evidence);
                return Err(FailoverError::TimedOut { doing, limit_seconds: self.readiness_limit.as_secs() });
            }
            last = Some(readiness);
            self.clock.sleep(READINESS_PAUSE).await;
        }
    }
}
