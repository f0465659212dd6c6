//! Snapshots: looking for them, and removing them for good.

use crate::{
    answers::{Snapshot, Snapshots},
    api::{Api, ApiResult, Call, PAGE_RESULTS, Watch, wait},
    error::{ApiError, Result},
    ports::Level,
    tags::{KIND, OWNER},
};

/// What was made a moment ago is not there for a while for those who look: so often is asked again whether a thing is gone
/// that should be removed.
const GONE_QUESTIONS: u32 = 5;
const GONE_PAUSE_MILLISECONDS: u32 = 400;

/// How long a call may remove things, since it began.
#[derive(Clone, Copy)]
pub struct Time<'h> {
    /// Since when.
    pub watch: Watch<'h>,
    /// How long.
    pub milliseconds: u64,
}

impl Time<'_> {
    /// Whether there is none left.
    pub fn is_over(&self) -> bool {
        self.watch.has_passed(self.milliseconds)
    }
}

/// What is said of those for which there was no time.
fn later(count: usize) -> String {
    format!("there was no time for {count} of them")
}

/// The snapshots of an owner that are of these kinds, and that have these tags.
///
/// # Errors
/// As of the API.
pub fn list(api: &Api<'_>, owner: &str, kinds: &[&str], more: &[(&str, &str)]) -> ApiResult<Vec<Snapshot>> {
    let call = Call::new("DescribeSnapshots")
        .list("Owner", ["self"])
        .with("MaxResults", PAGE_RESULTS)
        .filter(&format!("tag:{OWNER}"), [owner])
        .filter(&format!("tag:{KIND}"), kinds.iter().copied());
    let call = more.iter().fold(call, |call, (key, value)| call.filter(&format!("tag:{key}"), [*value]));
    api.all::<Snapshots>(&call)
}

/// A snapshot, if it can be seen.
///
/// # Errors
/// As of the API.
pub fn look(api: &Api<'_>, id: &str) -> ApiResult<Option<Snapshot>> {
    // By a filter, because a page of things by their ids is refused as a whole if one is not there.
    let call = Call::new("DescribeSnapshots").filter("snapshot-id", [id]);
    Ok(api.all::<Snapshots>(&call)?.into_iter().next())
}

/// Removes a snapshot that may have been made a moment ago, or be gone. `is_old`: it has been seen, so that one *not found* is
/// enough.
///
/// # Errors
/// It cannot be removed.
pub fn delete(api: &Api<'_>, id: &str, is_old: bool) -> Result<()> {
    let call = Call::new("DeleteSnapshot").with("SnapshotId", id);
    for question in 1..=GONE_QUESTIONS {
        match api.ec2_done(&call) {
            Ok(()) => return Ok(()),
            Err(error) if !is_gone(api, id, &error) => {
                return Err(error.while_doing(format!("removing the snapshot {id}")));
            }
            Err(_) if is_old || question == GONE_QUESTIONS => return Ok(()),
            Err(_) => wait(api.host, GONE_PAUSE_MILLISECONDS)?,
        }
    }
    Ok(())
}

/// Whether a snapshot could not be removed because it is not there. What is not there has no tags, so that a policy that asks for
/// them does not allow that it is removed.
fn is_gone(api: &Api<'_>, id: &str, error: &ApiError) -> bool {
    error.is_not_found() || (error.is_denied() && matches!(look(api, id), Ok(None)))
}

/// Removes snapshots that were made a moment ago, or are gone, all of them in one time. Says of each that stays why.
pub fn delete_unseen(api: &Api<'_>, ids: Vec<&str>, time: Time<'_>) -> Vec<String> {
    let (mut ids, mut left) = (ids, Vec::new());
    for question in 1..=GONE_QUESTIONS {
        let mut late: usize = 0;
        ids.retain(|id| {
            if time.is_over() {
                late = late.saturating_add(1);
                return false;
            }
            match api.ec2_done(&Call::new("DeleteSnapshot").with("SnapshotId", id)) {
                Ok(()) => false,
                Err(error) if is_gone(api, id, &error) => true,
                Err(error) => {
                    let error = error.while_doing(format!("removing the snapshot {id}"));
                    left.push(crate::error::platform_sentence(&error).to_owned());
                    false
                }
            }
        });
        if late > 0 {
            left.push(later(late));
        }
        if ids.is_empty() || question == GONE_QUESTIONS || wait(api.host, GONE_PAUSE_MILLISECONDS).is_err() {
            break;
        }
    }
    left
}

/// Removes as many of these as it can, and says of each that stays why.
pub fn delete_all<'s>(api: &Api<'_>, ids: impl IntoIterator<Item = &'s str>, time: Time<'_>) -> Vec<String> {
    let mut left = Vec::new();
    let mut ids = ids.into_iter();
    while let Some(id) = ids.next() {
        if time.is_over() {
            left.push(later(ids.count().saturating_add(1)));
            break;
        }
        if let Err(error) = delete(api, id, true) {
            let text = crate::error::platform_sentence(&error).to_owned();
            api.host.log(Level::Warn, &text);
            left.push(text);
        }
    }
    left
}
