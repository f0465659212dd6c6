//! A process of a host, from its start to its death: it counts its operations, stands still, and dies where it is told.
//!
//! Whatever a dead process still has under way waits for ever: its tasks never see a reply, and send no request. What it
//! had sent may arrive at the store all the same, as on a network.

use std::{
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use crate::{history::Task, time::Time};

/// Where within an operation on the store a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before the request is sent.
    Before,
    /// After the effect; the reply is lost.
    AfterEffect,
    /// After the reply was taken.
    AfterReply,
}

impl Place {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Before, Self::AfterEffect, Self::AfterReply];
}

/// At which operation, counted from 0, a process dies, and where within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    /// The operation.
    pub operation: u64,
    /// Where within it.
    pub place: Place,
}

#[derive(Debug, Default)]
struct State {
    is_dead: bool,
    operations: u64,
    stalled_until: Duration,
    task: Task,
}

/// See the module.
#[derive(Debug)]
pub struct Process {
    name: String,
    kill: Option<Kill>,
    state: Mutex<State>,
    death: Notify,
}

impl Process {
    /// A process that has just started.
    pub fn start(name: impl Into<String>, kill: Option<Kill>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), kill, state: Mutex::default(), death: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it is called in the trace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many operations it began.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// What it is about.
    pub fn task(&self) -> Task {
        self.lock().task
    }

    /// Says what it is about from now on.
    pub fn set_task(&self, task: Task) {
        self.lock().task = task;
    }

    /// Whether it was killed.
    pub fn is_dead(&self) -> bool {
        self.lock().is_dead
    }

    /// Ends it: none of its tasks gets anywhere from now on.
    pub fn kill(&self) {
        self.lock().is_dead = true;
        self.death.notify_one();
    }

    /// Returns when it was killed.
    pub async fn death(&self) {
        self.death.notified().await;
    }

    /// Stands still until this moment.
    pub fn stall(&self, until: Duration) {
        let mut state = self.lock();
        state.stalled_until = state.stalled_until.max(until);
    }

    /// Returns once it may go on; never, if it is dead.
    pub async fn go_on(&self, time: &Time) {
        loop {
            let (is_dead, until) = {
                let state = self.lock();
                (state.is_dead, state.stalled_until)
            };
            if is_dead {
                pending::<()>().await;
            }
            let now = time.now();
            if now >= until {
                return;
            }
            time.sleep(until - now).await;
        }
    }

    /// Counts an operation that begins; where within it the process dies, if it was told so.
    pub fn begin_operation(&self) -> Option<Place> {
        let mut state = self.lock();
        let number = state.operations;
        state.operations += 1;
        self.kill.filter(|kill| kill.operation == number).map(|kill| kill.place)
    }
}
