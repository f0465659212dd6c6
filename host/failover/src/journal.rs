//! A run's journal in the vault, and the runs that are there.

use std::sync::Arc;

use farshore_core::{LineageId, RunId};
use farshore_vault::Vault;

use crate::{FailoverError, RunEntry, RunHead, RunState};

/// How many of the newest runs are looked through for those of a lineage.
const SEARCH_RUNS_MAX: usize = 1_000;

/// The number of a run's first entry in the vault.
const FIRST_NUMBER: u64 = 1;

/// The journal of a run that this process executes.
pub struct RunJournal {
    vault: Arc<Vault>,
    next_number: u64,
    state: RunState,
}

impl RunJournal {
    /// Begins a run.
    ///
    /// # Errors
    /// [`FailoverError::Vault`].
    pub async fn begin(vault: Arc<Vault>, head: RunHead) -> Result<Self, FailoverError> {
        let entry = encode(&RunEntry::Begun(head.clone()));
        vault.create_run(head.run, &entry).await.map_err(FailoverError::vault("beginning the run's journal"))?;
        Ok(Self { vault, next_number: FIRST_NUMBER + 1, state: RunState::new(head) })
    }

    /// Takes a run up again.
    ///
    /// # Errors
    /// Those of [`load_run`].
    pub async fn resume(vault: Arc<Vault>, run: RunId) -> Result<Self, FailoverError> {
        let (state, next_number) = load(&vault, run).await?;
        Ok(Self { vault, next_number, state })
    }

    /// What the journal means so far.
    pub const fn state(&self) -> &RunState {
        &self.state
    }

    /// Records an entry. Durable when it returns.
    ///
    /// # Errors
    /// [`FailoverError::Vault`]; also when another process wrote an entry of this run meanwhile: it is that one's now.
    pub async fn record(&mut self, entry: RunEntry) -> Result<(), FailoverError> {
        self.vault
            .append_run(self.state.head.run, self.next_number, &encode(&entry))
            .await
            .map_err(FailoverError::vault("recording a step of the run"))?;
        let number = self.next_number;
        self.next_number += 1;
        let run = self.state.head.run;
        self.state.apply(entry).map_err(|what| FailoverError::Journal { run, number, what })
    }
}

fn encode(entry: &RunEntry) -> Vec<u8> {
    serde_json::to_vec(entry).expect("an entry has only text keys, and writing to memory does not fail")
}

async fn load(vault: &Vault, run: RunId) -> Result<(RunState, u64), FailoverError> {
    let entries = vault.run_entries(run).await.map_err(FailoverError::vault(format!("reading run {run}")))?;
    let mut state: Option<RunState> = None;
    let mut number = FIRST_NUMBER;
    for bytes in &entries {
        let wrong = |what: String| FailoverError::Journal { run, number, what };
        let entry: RunEntry = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        match (&mut state, entry) {
            (None, RunEntry::Begun(head)) => state = Some(RunState::new(head)),
            (None, _) => return Err(wrong("it is the first entry, and not a beginning".to_owned())),
            (Some(state), entry) => state.apply(entry).map_err(wrong)?,
        }
        number += 1;
    }
    let state = state.ok_or(FailoverError::Journal { run, number, what: "there is none".to_owned() })?;
    Ok((state, number))
}

/// What a run's journal means.
///
/// # Errors
/// [`FailoverError::Vault`] or [`FailoverError::Journal`].
pub async fn load_run(vault: &Vault, run: RunId) -> Result<RunState, FailoverError> {
    Ok(load(vault, run).await?.0)
}

/// A run in a list.
#[derive(Debug)]
pub struct RunSummary {
    /// The run.
    pub run: RunId,
    /// What its journal means, or why it cannot be read.
    pub state: Result<RunState, FailoverError>,
}

/// The newest runs of the vault, newest first. A run that cannot be read is listed with the reason.
///
/// # Errors
/// [`FailoverError::Vault`] when the list itself cannot be had.
pub async fn list_runs(vault: &Vault, count_max: usize) -> Result<Vec<RunSummary>, FailoverError> {
    let runs = vault.runs(count_max).await.map_err(FailoverError::vault("listing runs"))?;
    let mut summaries = Vec::with_capacity(runs.len());
    for run in runs {
        summaries.push(RunSummary { run, state: load_run(vault, run).await });
    }
    Ok(summaries)
}

/// The runs of a lineage, oldest first.
///
/// # Errors
/// [`FailoverError::Vault`]. A run that cannot be read is passed over: it cannot be taken up.
pub(crate) async fn runs_of(vault: &Vault, lineage: LineageId) -> Result<Vec<RunState>, FailoverError> {
    let mut runs: Vec<_> = list_runs(vault, SEARCH_RUNS_MAX)
        .await?
        .into_iter()
        .filter_map(|summary| summary.state.ok())
        .filter(|state| state.head.lineage == lineage)
        .collect();
    runs.reverse();
    Ok(runs)
}
