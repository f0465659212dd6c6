//! Vault to platform: restores, drills and unplanned failovers, each a journalled run that ends with a report.
//!
//! It must not know any platform by name, must not let a drill reach the source, and must not start a second active side
//! before the vault's generation has fenced the first.

mod codes;
mod disks;
mod earlier;
mod error;
mod execute;
mod journal;
mod plan;
mod report;
mod restore;
mod run;
mod settle;

pub use codes::CODES;
pub use error::FailoverError;
pub use execute::{Execution, RunEvent, RunObserver};
pub use journal::{RunJournal, RunSummary, list_runs, load_run};
pub use plan::{FailoverPlan, PlanRequest, SourceAnswer, plan};
pub use report::{FenceReport, MachineReport, RunOutcome, RunReport};
pub use restore::{RestoreLimits, RestoreReport, restore_disk, restore_to_file};
pub use run::{RecoveredCopy, RunEntry, RunHead, RunKind, RunState};
