//! The names of events. Programs depend on them: one that was published is never given another meaning.

/// The daemon has begun.
pub const DAEMON_STARTED: &str = "daemon-started";
/// The daemon was told to stop, and begins no cycle any more.
pub const DAEMON_STOPPING: &str = "daemon-stopping";
/// The daemon has ended its cycles.
pub const DAEMON_STOPPED: &str = "daemon-stopped";
/// What the daemon remembers of its doings was damaged, and begins anew.
pub const DIARY_SET_ASIDE: &str = "diary-set-aside";
/// What the daemon remembers of its doings cannot be kept. Everything else goes on.
pub const DIARY_UNUSABLE: &str = "diary-unusable";
/// Somebody outside could not be told of an event. Nobody is alerted of this.
pub const ALERT_FAILED: &str = "alert-failed";
/// The collector of traces does not take them. Nobody is alerted of this.
pub const TELEMETRY_FAILED: &str = "telemetry-failed";
/// The collector of traces takes them again.
pub const TELEMETRY_RECOVERED: &str = "telemetry-recovered";
/// The vault is open.
pub const VAULT_OPENED: &str = "vault-opened";
/// The vault cannot be opened. It is tried again.
pub const VAULT_UNREACHABLE: &str = "vault-unreachable";
/// The configuration's file was changed, and is taken.
pub const CONFIGURATION_CHANGED: &str = "configuration-changed";
/// The configuration's file was changed, and is not taken: the daemon goes on with what it has.
pub const CONFIGURATION_REFUSED: &str = "configuration-refused";
/// A group cannot be replicated, because its site's adapter or settings cannot be used. It is tried again.
pub const GROUP_UNUSABLE: &str = "group-unusable";
/// A group that could not be replicated can be.
pub const GROUP_USABLE: &str = "group-usable";
/// A group's newest point is older than its objective, or it has none, or what was proven of it last is that it is damaged.
pub const OBJECTIVE_MISSED: &str = "objective-missed";
/// A group's newest point is within its objective again.
pub const OBJECTIVE_MET: &str = "objective-met";
/// A cycle failed: the first in a row, or one that fails otherwise than the one before it.
pub const CYCLE_FAILED: &str = "cycle-failed";
/// A cycle became a point after others had failed.
pub const CYCLE_RECOVERED: &str = "cycle-recovered";
/// The vault cannot be reached, and points of a group wait at this host.
pub const POINTS_WAITING: &str = "points-waiting";
/// No point of a group waits any more.
pub const POINTS_CAUGHT_UP: &str = "points-caught-up";
/// Points that waited will not come into the vault.
pub const POINTS_GIVEN_UP: &str = "points-given-up";
/// A machine cannot be captured, and its group goes on without it: points have of it what was captured last.
pub const MACHINE_SUSPENDED: &str = "machine-suspended";
/// A machine that was suspended is part of its group's points again.
pub const MACHINE_RETURNED: &str = "machine-returned";
/// A run, of a drill or a failover, began: it has not ended when it is seen first.
pub const RUN_BEGAN: &str = "run-began";
/// A run has ended.
pub const RUN_ENDED: &str = "run-ended";
/// A point that somebody asked for is durable.
pub const POINT_CREATED: &str = "point-created";
/// A cycle says something that somebody should know, though it goes on.
pub const CYCLE_WARNING: &str = "cycle-warning";
/// A platform's change tracking left out what had changed. The disk was compared, and the point is right.
pub const TRACKING_WRONG: &str = "tracking-wrong";
/// An application-consistent point that was due failed, and an ordinary one takes its place.
pub const APPLICATION_FAILED: &str = "application-failed";
