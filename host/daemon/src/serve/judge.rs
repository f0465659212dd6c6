//! Who looks once a second who has passed their objective, and who is back: in a task of its own, so that whatever else waits, this goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use farshore_core::Clock;
use farshore_replication::{Board, GroupState, Judged};
use farshore_state::Severity;
use serde_json::json;

use super::{diary::Diary, events};
use crate::output::{human, milliseconds};

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A judge that has not looked for so long hangs.
const STILL_MAX: Duration = Duration::from_secs(30);

/// The judge.
pub struct Judge {
    board: Arc<Board>,
    diary: Diary,
    clock: Arc<dyn Clock>,
    looked_milliseconds: AtomicU64,
}

impl Judge {
    /// Judges by this board.
    pub fn new(board: &Arc<Board>, diary: &Diary, clock: &Arc<dyn Clock>) -> Arc<Self> {
        let (board, diary, clock) = (Arc::clone(board), diary.clone(), Arc::clone(clock));
        Arc::new(Self { board, diary, looked_milliseconds: AtomicU64::new(milliseconds(clock.monotonic())), clock })
    }

    /// Whether it looks.
    pub fn is_awake(&self) -> bool {
        let looked = Duration::from_millis(self.looked_milliseconds.load(Ordering::Relaxed));
        self.clock.monotonic().saturating_sub(looked) < STILL_MAX
    }

    /// Looks until it is dropped.
    pub async fn look(&self) {
        loop {
            self.board.judge().into_iter().for_each(|judged| self.tell(judged));
            self.looked_milliseconds.store(milliseconds(self.clock.monotonic()), Ordering::Relaxed);
            self.clock.sleep(LOOK_EVERY).await;
        }
    }

    fn tell(&self, Judged { group, is_late, status, late_for }: Judged) {
        let objective = human::duration(Duration::from_millis(status.objective_milliseconds));
        let age = Duration::from_millis(status.age_milliseconds.unwrap_or_default());
        let details = json!({
            "state": status.state,
            "age_milliseconds": status.age_milliseconds,
            "objective_milliseconds": status.objective_milliseconds,
            "point": status.newest.as_ref().map(|newest| newest.point),
            "late_milliseconds": milliseconds(late_for),
        });
        if !is_late {
            let text = format!("the newest point is within {objective} again, after {}", human::duration(late_for));
            return self.diary.tell_end(Severity::Error, events::OBJECTIVE_MET, Some(&group), text, details);
        }
        let what = match status.state {
            GroupState::Ok | GroupState::Late | GroupState::Paused => {
                format!("the newest point is {} old", human::duration(age))
            }
            GroupState::Hurt => "the newest point of which something was proven is damaged".to_owned(),
            GroupState::Unprotected => "there is no recovery point".to_owned(),
            GroupState::Unknown => "the vault has not said how old the newest point is".to_owned(),
        };
        let failing = status.failing.as_ref();
        let why = failing.map(|failing| format!("; its cycles fail: [{}] {}", failing.code, failing.message));
        let text = format!("{what}, and the objective is {objective}{}", why.unwrap_or_default());
        self.diary.tell(events::OBJECTIVE_MISSED, Severity::Error, Some(&group), text, details);
    }
}
