//! Platform to vault: one cycle of capture, read, store, commit, release, and the loop that repeats it to an objective.
//!
//! It must not know any platform by name, and it must not release anything at the source before the recovery point that
//! needs it is durable.

mod before;
mod board;
mod capture;
mod codes;
mod copy;
mod cycle;
mod doubt;
mod error;
mod journal;
mod leftovers;
mod link;
mod outage;
mod plan;
mod replay;
pub mod schedule;
mod suspension;
mod watch;

pub use board::{
    Activity, Board, Failing, GroupState, GroupStatus, Judged, Newest, PointStatus, ProvenStatus, SpooledStatus,
    SuspendedStatus, Totals,
};
pub use codes::CODES;
pub use copy::{CopyLimits, CopyPlan, DiskCopy};
pub use cycle::{CycleEvent, CycleObserver, CycleReport, PhaseTimes, Protection, Replicator, Wishes};
pub use doubt::Doubt;
pub use error::ReplicationError;
pub use journal::{CaptureJournal, JournalEntry};
pub use link::Link;
pub use outage::{CatchUp, Outage, OutageMemory};
pub use schedule::{Objective, Priority, Schedule, Turns};
pub use suspension::{FailingMachine, Suspensions};
pub use watch::{ApplicationPoints, Asked, CycleResult, Order, Orders, Stop, WatchObserver, Watched, orders, watch};
