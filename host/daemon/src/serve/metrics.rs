//! What the daemon tells Prometheus, worked out when it asks.

use std::sync::atomic::AtomicU64;

use farshore_replication::{Activity, GroupState, GroupStatus, Totals};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

type Labels = [(&'static str, String); 2];
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;

/// All of it, in the text format of OpenMetrics 1.0.
pub fn render(
    groups: &[(GroupStatus, Totals)],
    [dropped_records, dropped_spans]: [u64; 2],
    is_ready: bool,
) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("farshore");
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    registry.register("build", "The program that answers", Info::new(version));
    let ready: Gauge = Gauge::default();
    ready.set(is_ready.into());
    registry.register("ready", "1 while the vault is open and every group can be replicated", ready);
    let dropped: Counter = Counter::default();
    dropped.inc_by(dropped_records);
    registry.register(
        "dropped_records",
        "Cycles and events that were not kept, because the disk was too slow or full",
        dropped,
    );
    let spans: Counter = Counter::default();
    spans.inc_by(dropped_spans);
    registry.register("dropped_spans", "Spans of traces that the collector did not take", spans);
    let running: Gauge = Gauge::default();
    registry.register("cycles_running", "Cycles that run now", running.clone());

    let seconds = |registry: &mut Registry, name: &str, help: &str| {
        let gauges = Gauges::default();
        registry.register_with_unit(name, help, Unit::Seconds, gauges.clone());
        gauges
    };
    let objective = seconds(&mut registry, "objective", "How old the group's newest point may become");
    let age = seconds(&mut registry, "point_age", "How old the group's newest point is");
    let proven = seconds(&mut registry, "proven_age", "How old the group's newest proven point is");
    let lag = seconds(&mut registry, "point_lag", "From the newest point's instant until it was durable");
    let held = seconds(&mut registry, "guest_held", "The longest hold of a guest by the newest capture");
    let ok = Gauges::default();
    registry.register(
        "objective_met",
        "1 while the group's newest point is within its objective, without the time of blackouts",
        ok.clone(),
    );
    let number = Gauges::default();
    registry.register("point", "The number of the group's newest point", number.clone());
    let failing = Gauges::default();
    registry.register("failures", "Cycles that failed since the last good one", failing.clone());
    let blackout = Gauges::default();
    registry.register("blackout", "1 while the group's blackout lets no cycle begin", blackout.clone());
    let waiting = Gauges::default();
    registry.register("points_waiting", "Points that wait at this host for the vault", waiting.clone());
    let waiting_bytes = Gauges::default();
    let help = "Of points that wait at this host for the vault";
    registry.register_with_unit("points_waiting", help, Unit::Bytes, waiting_bytes.clone());
    let suspended = Gauges::default();
    let help = "Machines of the group that cannot be captured, and without which it goes on";
    registry.register("suspended_machines", help, suspended.clone());
    let counters = |registry: &mut Registry, name: &str, help: &str| {
        let counters = Counters::default();
        registry.register(name, help, counters.clone());
        counters
    };
    let committed = counters(&mut registry, "cycles_committed", "Cycles that became points");
    let failed = counters(&mut registry, "cycles_failed", "Cycles that failed");
    let read = Counters::default();
    registry.register_with_unit("read", "Read from the source", Unit::Bytes, read.clone());
    let stored = Counters::default();
    registry.register_with_unit("stored", "Stored for points", Unit::Bytes, stored.clone());

    for (status, totals) in groups {
        let labels = [("group", status.group.to_string()), ("site", status.site.to_string())];
        let set = |gauges: &Gauges, value: f64| {
            gauges.get_or_create(&labels).set(value);
        };
        running.inc_by(matches!(status.activity, Activity::Replicating { .. }).into());
        set(&objective, from_milliseconds(status.objective_milliseconds));
        set(&ok, if matches!(status.state, GroupState::Ok | GroupState::Paused) { 1.0 } else { 0.0 });
        set(&failing, status.failing.as_ref().map_or(0.0, |failing| f64::from(failing.failures)));
        set(&blackout, if status.blackout_until.is_some() { 1.0 } else { 0.0 });
        let spooled = status.spooled.as_ref().map_or((0, 0), |spooled| (spooled.points as u64, spooled.bytes));
        set(&waiting, as_float(spooled.0));
        set(&waiting_bytes, as_float(spooled.1));
        set(&suspended, as_float(status.suspended.len() as u64));
        // What is not known has no value, rather than one that looks good.
        if let Some(milliseconds) = status.age_milliseconds {
            set(&age, from_milliseconds(milliseconds));
        }
        if let Some(milliseconds) = status.proven_age_milliseconds {
            set(&proven, from_milliseconds(milliseconds));
        }
        if let Some(newest) = &status.newest {
            set(&number, as_float(newest.point.get()));
        }
        if totals.committed > 0 {
            set(&lag, from_milliseconds(totals.lag_milliseconds));
            set(&held, as_float(totals.held_microseconds) / 1e6);
        }
        for (counters, value) in [
            (&committed, totals.committed),
            (&failed, totals.failed),
            (&read, totals.read_bytes),
            (&stored, totals.stored_bytes),
        ] {
            counters.get_or_create(&labels).inc_by(value);
        }
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn from_milliseconds(milliseconds: u64) -> f64 {
    as_float(milliseconds) / 1e3
}

/// Prometheus has floats only.
#[expect(clippy::cast_precision_loss, reason = "a metric beyond 2^53 is still as good")]
fn as_float(count: u64) -> f64 {
    count as f64
}
