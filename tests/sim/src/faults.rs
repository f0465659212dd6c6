//! What goes wrong in a world, by name: which faults there are, and how often each kind of operation meets one.

use std::time::Duration;

use crate::dice::Dice;

/// The longest that a process stalls: thirty days.
pub const STALL_MAX: Duration = Duration::from_secs(30 * 86_400);

/// The longest that a request is under way whose sender was told that it failed.
pub const LATE_EFFECT_MAX: Duration = Duration::from_secs(3600);

/// What goes wrong with a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutFault {
    /// 429, 500 or 503: it has no effect.
    Refused,
    /// It has its effect, and the connection is reset before the reply.
    Reset,
    /// It has its effect, the reply is lost, and the client's own repetition is told that the object exists.
    OwnConflict,
    /// 409: another create of the same object is under way, says the store. It has no effect, and perhaps there is none.
    FalseConflict,
    /// 412 in answer to the client's own repetition.
    OwnPrecondition,
    /// The client gives up; the request arrives later, perhaps after the client's next one.
    Late,
}

/// What goes wrong with a get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GetFault {
    /// It is refused.
    Refused,
    /// The body ends before its end, and the client notices.
    Broken,
    /// The body ends before its end, and the client does not notice.
    Truncated,
}

/// What goes wrong with a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListFault {
    /// It is refused, perhaps after some of it.
    Refused,
    /// Its last part is missing.
    Short,
    /// It is how things were some time ago.
    Stale,
    /// It is empty, although objects are there.
    Empty,
}

/// What goes wrong with a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteFault {
    /// It is refused.
    Refused,
    /// It has its effect, and the reply is lost.
    Reset,
    /// The client gives up; the request arrives later.
    Late,
}

const DELETE_ALL: [DeleteFault; 3] = [DeleteFault::Refused, DeleteFault::Reset, DeleteFault::Late];

/// What goes wrong in one world. Chances are in thousandths of the operations of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultPlan {
    /// What it is called.
    pub name: &'static str,
    /// How often a put meets one of its faults.
    pub put_permille: u32,
    /// Which.
    pub put: Vec<PutFault>,
    /// How often a get meets one of its faults.
    pub get_permille: u32,
    /// Which.
    pub get: Vec<GetFault>,
    /// How often a listing meets one of its faults.
    pub list_permille: u32,
    /// Which.
    pub list: Vec<ListFault>,
    /// How often a delete meets a fault.
    pub delete_permille: u32,
    /// How often a process dies at an operation: before it, after its effect, or after its reply.
    pub crash_permille: u32,
    /// Whether processes also die at any moment.
    pub dies_any_time: bool,
    /// How often a process stands still at an operation, for up to [`STALL_MAX`].
    pub stall_permille: u32,
    /// Whether one host, and no other, stands still again and again for up to [`STALL_MAX`].
    pub has_sleeper: bool,
    /// Whether the disk is full for a while: puts are refused then, and deletes work.
    pub is_full_for_a_while: bool,
    /// Whether a process that starts again repeats the randomness of the one before, as a machine that is rolled back may.
    pub repeats_randomness: bool,
}

/// The names of all plans that a seed may draw.
pub const PLAN_NAMES: [&str; 13] = [
    "calm",
    "flaky",
    "ambiguous",
    "listings",
    "deletes",
    "bodies",
    "crashes",
    "stalls",
    "sleeper",
    "truncated",
    "rollback",
    "full",
    "storm",
];

const PUT_ALL: [PutFault; 6] = [
    PutFault::Refused,
    PutFault::Reset,
    PutFault::OwnConflict,
    PutFault::FalseConflict,
    PutFault::OwnPrecondition,
    PutFault::Late,
];

const LIST_ALL: [ListFault; 4] = [ListFault::Refused, ListFault::Short, ListFault::Stale, ListFault::Empty];

impl FaultPlan {
    /// Nothing goes wrong.
    pub fn calm() -> Self {
        Self {
            name: "calm",
            put_permille: 0,
            put: Vec::new(),
            get_permille: 0,
            get: Vec::new(),
            list_permille: 0,
            list: Vec::new(),
            delete_permille: 0,
            crash_permille: 0,
            dies_any_time: false,
            stall_permille: 0,
            has_sleeper: false,
            is_full_for_a_while: false,
            repeats_randomness: false,
        }
    }

    /// The plan of this name, with this many of a thousand operations hurt.
    ///
    /// # Panics
    /// When there is no such plan.
    pub fn named(name: &str, permille: u32) -> Self {
        let calm = Self::calm();
        let small = permille.div_ceil(10);
        match name {
            "calm" => calm,
            "flaky" => Self {
                name: "flaky",
                put_permille: permille,
                put: vec![PutFault::Refused],
                get_permille: permille,
                get: vec![GetFault::Refused],
                list_permille: permille,
                list: vec![ListFault::Refused],
                delete_permille: permille,
                ..calm
            },
            "ambiguous" => Self {
                name: "ambiguous",
                put_permille: permille,
                put: PUT_ALL.to_vec(),
                delete_permille: permille,
                ..calm
            },
            "deletes" => Self {
                name: "deletes",
                delete_permille: permille,
                list_permille: permille,
                list: LIST_ALL.to_vec(),
                crash_permille: small.div_ceil(2),
                ..calm
            },
            "sleeper" => Self { name: "sleeper", has_sleeper: true, ..calm },
            "listings" => Self { name: "listings", list_permille: permille, list: LIST_ALL.to_vec(), ..calm },
            "bodies" => Self {
                name: "bodies",
                put_permille: small,
                put: vec![PutFault::Reset, PutFault::OwnConflict],
                get_permille: permille,
                get: vec![GetFault::Broken],
                ..calm
            },
            "crashes" => Self { name: "crashes", crash_permille: small.max(5), dies_any_time: true, ..calm },
            "stalls" => Self { name: "stalls", stall_permille: small.max(10), ..calm },
            "truncated" => Self {
                name: "truncated",
                put_permille: small,
                put: vec![PutFault::Reset, PutFault::OwnConflict],
                get_permille: permille,
                get: vec![GetFault::Broken, GetFault::Truncated],
                ..calm
            },
            "rollback" => Self { name: "rollback", repeats_randomness: true, crash_permille: small.max(5), ..calm },
            "full" => Self {
                name: "full",
                is_full_for_a_while: true,
                put_permille: small,
                put: vec![PutFault::Reset],
                ..calm
            },
            "storm" => Self {
                name: "storm",
                put_permille: permille,
                put: PUT_ALL.to_vec(),
                get_permille: permille / 3,
                get: vec![GetFault::Refused, GetFault::Broken],
                list_permille: permille,
                list: LIST_ALL.to_vec(),
                delete_permille: permille,
                crash_permille: small.div_ceil(2),
                dies_any_time: true,
                stall_permille: small.div_ceil(2),
                is_full_for_a_while: true,
                ..calm
            },
            other => panic!("there is no fault plan {other:?}"),
        }
    }

    /// The plan of a seed: which one, and how bad. At most 30 % of the operations of a kind are hurt.
    pub fn drawn(dice: &Dice) -> Self {
        let name: &&str = dice.pick(&PLAN_NAMES);
        Self::named(name, *dice.pick(&[10, 30, 100, 300]))
    }

    /// What goes wrong with the next put.
    pub fn put_fault(&self, dice: &Dice) -> Option<PutFault> {
        dice.permille(self.put_permille).then(|| *dice.pick(&self.put))
    }

    /// What goes wrong with the next get.
    pub fn get_fault(&self, dice: &Dice) -> Option<GetFault> {
        dice.permille(self.get_permille).then(|| *dice.pick(&self.get))
    }

    /// What goes wrong with the next listing.
    pub fn list_fault(&self, dice: &Dice) -> Option<ListFault> {
        dice.permille(self.list_permille).then(|| *dice.pick(&self.list))
    }

    /// What goes wrong with the next delete.
    pub fn delete_fault(&self, dice: &Dice) -> Option<DeleteFault> {
        dice.permille(self.delete_permille).then(|| *dice.pick(&DELETE_ALL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_has_its_name_and_faults_for_what_it_hurts() {
        for name in PLAN_NAMES {
            let plan = FaultPlan::named(name, 300);
            assert_eq!(plan.name, name);
            assert!(plan.put_permille == 0 || !plan.put.is_empty(), "{name}");
            assert!(plan.get_permille == 0 || !plan.get.is_empty(), "{name}");
            assert!(plan.list_permille == 0 || !plan.list.is_empty(), "{name}");
            assert_eq!(plan == FaultPlan::calm(), name == "calm");
        }
    }
}
