//! What Farshore wants to be measured against the others: the ratios, whether each target is met, and where a peer is better.
//!
//! A ratio is taken within each round, where both were measured minutes apart on the same disk, and the median of the
//! rounds' ratios counts. The best peer is the one beside which Farshore looks worst.

use std::fmt::Write as _;

use crate::{
    round::{Deed, Sample, Samples},
    spread::Spread,
    tools::{Role, Step, Tool},
};

/// The first copy's time by that of compression alone.
const FIRST_BY_LIMIT_MAX: f64 = 1.25;
/// The first copy's time by the best peer's.
const FIRST_BY_PEER_MAX: f64 = 0.6;
/// The delta's time by the best peer's.
const DELTA_BY_PEER_MAX: f64 = 1.0 / 20.0;
/// The restore's time by the best peer's.
const RESTORE_BY_PEER_MAX: f64 = 0.5;
/// What the first copy stores by what the most frugal peer stores.
const STORED_BY_PEER_MAX: f64 = 1.05;
/// Resident memory of a copy, in MiB, which it stays under.
const COPY_PEAK_MEBIBYTES: f64 = 512.0;

/// What is looked through for something that a peer does better.
const DEEDS: [(Deed, &str); 4] = [
    (Deed::Copy(Step::First), "the first copy"),
    (Deed::Copy(Step::Delta), "the delta"),
    (Deed::Copy(Step::Idle), "an idle copy"),
    (Deed::Restore, "the restore"),
];

type Figure = fn(&Sample) -> f64;

fn seconds(sample: &Sample) -> f64 {
    sample.usage.wall().as_secs_f64()
}

fn stored(sample: &Sample) -> f64 {
    sample.stored_bytes as f64
}

fn peak_mebibytes(sample: &Sample) -> f64 {
    sample.usage.peak_bytes as f64 / f64::from(1 << 20)
}

/// A target, and what was measured.
#[derive(Debug, Clone, PartialEq)]
struct Verdict {
    what: String,
    measured: String,
    target: String,
    met: bool,
}

/// The table of the targets, and what is worse than a peer's.
pub fn text(rounds: &[Samples]) -> String {
    let mut text = String::from("| farshore's | measured | target | |\n| --- | ---: | ---: | --- |\n");
    for Verdict { what, measured, target, met } in verdicts(rounds) {
        let met = if met { "met" } else { "**missed**" };
        // Writing to a String does not fail.
        let _ = writeln!(text, "| {what} | {measured} | {target} | {met} |");
    }
    let named = |deeds: &[(Deed, &str)], figure| {
        let worse = worse(rounds, deeds, figure);
        if worse.is_empty() { "nothing".to_owned() } else { worse.join("; ") }
    };
    text += &format!("\n- **Slower than a peer:** {}.\n", named(&DEEDS, seconds));
    // An idle copy stores a few hundred bytes, whose ratio says nothing.
    text += &format!("- **Stores more than a peer:** {}.\n", named(&DEEDS[..2], stored));
    text += &format!("- **Needs more memory than a peer:** {}.\n", named(&DEEDS, peak_mebibytes));
    text
}

fn verdicts(rounds: &[Samples]) -> Vec<Verdict> {
    let (first, delta) = (Deed::Copy(Step::First), Deed::Copy(Step::Delta));
    let limit = ratio(rounds, first, Tool::Zstd, seconds).map(|ratio| (Tool::Zstd, ratio));
    let times = |deed, max| (best_peer(rounds, deed, seconds), max);
    let rows = [
        ("time of the first copy by that of `zstd -1 -T2`", (limit, FIRST_BY_LIMIT_MAX)),
        ("time of the first copy by the best peer's", times(first, FIRST_BY_PEER_MAX)),
        ("time of the delta by the best peer's", times(delta, DELTA_BY_PEER_MAX)),
        ("time of the restore by the best peer's", times(Deed::Restore, RESTORE_BY_PEER_MAX)),
        ("bytes that the first copy stores by the best peer's", (best_peer(rounds, first, stored), STORED_BY_PEER_MAX)),
    ];
    let mut verdicts: Vec<Verdict> = rows
        .into_iter()
        .filter_map(|(what, (measured, max))| {
            let (tool, ratio) = measured?;
            let what = if tool.role() == Role::Peer { format!("{what} ({tool})") } else { what.to_owned() };
            let target = format!("at most {max:.2}");
            Some(Verdict { what, measured: ratio.shown(3), target, met: ratio.median <= max })
        })
        .collect();
    let copies = [Step::First, Step::Delta, Step::Idle].map(|step| (Deed::Copy(step), Tool::Farshore));
    let peaks = copies.iter().flat_map(|key| rounds.iter().filter_map(|round| round.get(key))).map(peak_mebibytes);
    if let Some(Spread { max, .. }) = Spread::of(peaks) {
        verdicts.push(Verdict {
            what: "most resident memory of any copy, MiB".to_owned(),
            measured: format!("{max:.0}"),
            target: format!("under {COPY_PEAK_MEBIBYTES:.0}"),
            met: max < COPY_PEAK_MEBIBYTES,
        });
    }
    verdicts
}

/// Farshore's figure by another tool's in the same round. None if they never did the same.
fn ratio(rounds: &[Samples], deed: Deed, other: Tool, figure: Figure) -> Option<Spread> {
    let pairs = rounds.iter().filter_map(|round| round.get(&(deed, Tool::Farshore)).zip(round.get(&(deed, other))));
    Spread::of(pairs.map(|(ours, theirs)| figure(ours) / figure(theirs).max(1e-3)))
}

fn peers() -> impl Iterator<Item = Tool> {
    Tool::ALL.into_iter().filter(|tool| tool.role() == Role::Peer)
}

/// The peer beside which Farshore looks worst.
fn best_peer(rounds: &[Samples], deed: Deed, figure: Figure) -> Option<(Tool, Spread)> {
    let ratios = peers().filter_map(|tool| Some((tool, ratio(rounds, deed, tool, figure)?)));
    ratios.max_by(|(_, left), (_, right)| left.median.total_cmp(&right.median))
}

/// Where Farshore's figure is larger than a peer's, in words.
fn worse(rounds: &[Samples], deeds: &[(Deed, &str)], figure: Figure) -> Vec<String> {
    let named = |(deed, name): &(Deed, &str)| {
        let larger = peers().filter_map(|tool| {
            let median = ratio(rounds, *deed, tool, figure)?.median;
            (median > 1.0).then(|| format!("{median:.2} times {tool}'s"))
        });
        let larger: Vec<String> = larger.collect();
        (!larger.is_empty()).then(|| format!("{name} ({})", larger.join(", ")))
    };
    deeds.iter().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::Usage;

    fn sample(milliseconds: u64, stored_bytes: u64) -> Sample {
        let running = Duration::from_millis(milliseconds);
        let usage = Usage { running, peak_bytes: milliseconds << 20, ..Usage::default() };
        Sample { usage, stored_bytes, ..Sample::default() }
    }

    fn round(deed: Deed, samples: &[(Tool, u64, u64)]) -> Samples {
        samples.iter().map(|&(tool, milliseconds, stored)| ((deed, tool), sample(milliseconds, stored))).collect()
    }

    #[test]
    fn ratios_are_of_the_same_round_and_the_best_peer_is_the_one_that_makes_it_hardest() {
        let first = Deed::Copy(Step::First);
        let pace = |factor: u64, restic: u64| {
            let tools = [
                (Tool::Farshore, 400 * factor, 100),
                (Tool::Zstd, 320 * factor, 90),
                (Tool::Borg, 800 * factor, 110),
                (Tool::Restic, restic * factor, 96),
            ];
            round(first, &tools)
        };
        // The machine was ten times slower in one round, which changes no ratio.
        let rounds = [pace(1, 600), pace(10, 500), pace(1, 700)];
        let found = verdicts(&rounds);
        let shown: Vec<(&str, &str, bool)> =
            found.iter().map(|verdict| (verdict.what.as_str(), verdict.measured.as_str(), verdict.met)).collect();
        assert_eq!(
            shown,
            [
                ("time of the first copy by that of `zstd -1 -T2`", "1.250 (1.250 to 1.250)", true),
                ("time of the first copy by the best peer's (restic)", "0.667 (0.571 to 0.800)", false),
                ("bytes that the first copy stores by the best peer's (restic)", "1.042 (1.042 to 1.042)", true),
                ("most resident memory of any copy, MiB", "4000", false),
            ]
        );
        let text = text(&rounds);
        assert!(text.contains("\n- **Slower than a peer:** nothing.\n"), "{text}");
        assert!(text.contains("more than a peer:** the first copy (1.04 times restic's).\n"), "{text}");
        assert!(text.lines().take(6).all(|line| line.matches('|').count() == 5), "{text}");
    }

    #[test]
    fn what_is_slower_than_a_peer_is_named_and_a_limit_is_no_peer() {
        let idle =
            round(Deed::Copy(Step::Idle), &[(Tool::Farshore, 30, 0), (Tool::Borg, 20, 0), (Tool::Restic, 40, 0)]);
        let restore = round(Deed::Restore, &[(Tool::Farshore, 30, 0), (Tool::Zstd, 20, 0), (Tool::Dd, 1, 0)]);
        let both: Samples = idle.into_iter().chain(restore).collect();
        assert_eq!(worse(&[both], &DEEDS, seconds), ["an idle copy (1.50 times borg's)"]);
    }
}
