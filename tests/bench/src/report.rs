//! The page: what was measured, where, how, and what it does not say.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    round::{Deed, Own, Sample, Samples},
    setting::Setting,
    spread::Spread,
    targets,
    tools::{Step, Tool},
};

/// What stands after this line in the page is somebody's, and stays.
const BY_HAND: &str = "<!-- What follows is written by hand; the bench keeps it. -->";

const DEEDS: [(Deed, &str); 4] = [
    (Deed::Copy(Step::First), "First copy"),
    (Deed::Copy(Step::Delta), "Delta after 1 % of the disk was written"),
    (Deed::Copy(Step::Idle), "Idle: nothing was written"),
    (Deed::Restore, "Restore of the newest copy to a file"),
];

const METHOD: &str = "\
- **One disk, every round the same:** a raw image made from a seed, in regions of 64 KiB to 2 MiB. A third is empty (most of
  it holes, some written zeros), a third is text like log lines, a third is noise that nothing compresses. One region of
  text or noise in eight repeats an earlier one: half of these at a multiple of 64 KiB, half shifted by a multiple of 4 KiB.
- **The machine:** a QEMU process has the image as its disk. Its processor does not run, so the disk changes only where the
  bench writes. farshore reads it over NBD out of QEMU, as of one instant, while the machine could go on; what QEMU's own
  process spends on that is in farshore's seconds and not in its CPU seconds or memory. The others read the file, which
  they could not do with a machine that runs.
- **The change:** one chunk of 64 KiB in a hundred, in scattered runs of 1 to 8, half text, half noise, written through the
  machine's device and flushed. farshore learns from QEMU's dirty bitmap where; a delta that it found otherwise fails the
  bench. The peers read the whole file again when its time stamp changed, and not at all when it did not.
- **Alike for all:** repositories on the same file system, encrypted but for zstd's; before each measurement `sync`, and what
  the tool will read is read once, so that it comes from memory (warm cache); after each, what the tool wrote is brought to
  the disk with `fsync`, and that time (*flush*) is part of its seconds. Most tools do most of that themselves for their
  repositories, and only farshore and dd for a restored file. The tools take turns within each step, and another one begins
  in each round.
- **Keys:** each command opens its repository anew, as one that a timer starts does. farshore copies as the host that made the
  vault (it has joined as `replicator` and `controller`), and restores as a second host that has joined as `recoverer` and
  `controller`, each with its own credential, as operators run it: their configurations name neither kit nor passphrase, so
  none of farshore's figures has Argon2id in it. A restore with the kit and the passphrase takes a second and 256 MiB for it.
  The peers open with a passphrase, which is their only way, and derive its key as they do by default.
- **Outside the figures:** making repositories; letting the second host in; compiling farshore's adapter component, which is
  done once and cached.
- **Compression:** the fastest zstd wherever it can be chosen: borg `zstd,1`, rustic `--set-compression 1`, kopia
  `zstd-fastest`; restic `auto`, its default, which is its own fastest zstd. zstd runs at `-1 -T2`.
- **Other settings:** restic's and rustic's defaults; borg `repokey-blake2` and a tiny newer file beside the disk, without which
  it would read the disk in an idle copy too; kopia's defaults without its maintenance; holes are restored as holes wherever
  that can be asked for (borg, rustic, kopia, dd). zstd has no delta, so its second row is a whole copy again. dd reads
  blocks of 1 MiB in the first copy; as a restore it copies the disk in blocks of 64 KiB to a file, with `fsync`. farshore
  has its defaults, and is started anew for each cycle, as the others are.
- **Where the tools come from:** restic, borg, zstd and dd are Debian's packages; rustic and kopia are built from their sources
  at fixed versions, rustic as optimised as farshore's profile `release` and without its optional parts, kopia without
  its web pages. One that could not be had is named above with the reason, and the best peer is then the best of the others.
- **Checked:** every restored file was compared with the disk, byte by byte; a difference fails the bench.
- **Figures:** median of the rounds (smallest to largest). MB/s is the disk's whole size by the seconds. *Stored* is by how
  much the repository grew, *files* by how many. *Peak* is resident memory of the tool's process.
- **Ratios:** of figures of the same round, and then their median. The best peer is the one that makes the ratio largest.
";

/// A page of these rounds.
pub fn page(setting: &Setting, disk_bytes: u64, rounds: &[Samples]) -> String {
    let mut text = String::from("# Farshore beside other tools\n\n`cargo xtask bench` writes this page.\n\n");
    let (count, mebibytes) = (rounds.len(), disk_bytes >> 20);
    let plural = if count == 1 { "" } else { "s" };
    // Writing to a String does not fail, here and below.
    let _ = writeln!(text, "- date: {}\n- machine: {}", setting.date, setting.machine);
    let _ = writeln!(text, "- one disk of {mebibytes} MiB, {count} round{plural}");
    for version in &setting.versions {
        let _ = writeln!(text, "- {version}");
    }
    for absent in &setting.absent {
        let _ = writeln!(text, "- not measured: {absent}");
    }
    let _ = writeln!(text, "- command: `{}`", setting.command);
    text += "\n## Targets\n\n";
    text += &targets::text(rounds);
    for (deed, title) in DEEDS {
        let _ = writeln!(text, "\n## {title}\n");
        text += &table(deed, disk_bytes, rounds);
    }
    text += "\n## Where farshore's seconds go\n\nMedians, in seconds. *Around* is what is not part of the cycle or of the \
             restore: the program's start, opening the vault with the host's credential, loading the adapter, the final flush. \
             *Adapter* is what of the cycle was spent in calls of the sandboxed component, with the time that QEMU took to \
             answer it.\n\n";
    text += &phases(rounds);
    text += "\n## How it was measured\n\n";
    text += METHOD;
    text
}

fn table(deed: Deed, disk_bytes: u64, rounds: &[Samples]) -> String {
    let copies = deed != Deed::Restore;
    let mut text = String::from("| tool | seconds | of which flush | MB/s | CPU seconds |");
    text += if copies { " stored MB | files | peak MiB |\n" } else { " peak MiB |\n" };
    text += "| --- | ---: | ---: | ---: | ---: |";
    text += if copies { " ---: | ---: | ---: |\n" } else { " ---: |\n" };
    for tool in Tool::ALL {
        let samples: Vec<&Sample> = rounds.iter().filter_map(|round| round.get(&(deed, tool))).collect();
        let spread = |value: fn(&Sample) -> f64| Spread::of(samples.iter().map(|sample| value(sample)));
        let Some(wall) = spread(|sample| sample.usage.wall().as_secs_f64()) else { continue };
        let median = |value: fn(&Sample) -> f64| spread(value).map_or(0.0, |spread| spread.median);
        // An idle copy moves nothing: a rate of it would only be large.
        let rate = match deed {
            Deed::Copy(Step::Idle) => String::new(),
            _ => format!("{:.0}", disk_bytes as f64 / 1e6 / wall.median.max(1e-3)),
        };
        let flush = median(|sample| sample.usage.flushing.as_secs_f64());
        let processor = median(|sample| sample.usage.processor.as_secs_f64());
        let _ = write!(text, "| {} | {} | {flush:.2} | {rate} | {processor:.2} |", tool.row(deed), wall.shown(2));
        if copies {
            let stored = median(|sample| sample.stored_bytes as f64 / 1e6);
            let files = median(|sample| sample.files as f64);
            let _ = write!(text, " {stored:.2} | {files:.0} |");
        }
        let _ = writeln!(text, " {:.0} |", median(|sample| sample.usage.peak_bytes as f64 / f64::from(1 << 20)));
    }
    text
}

fn phases(rounds: &[Samples]) -> String {
    let mut text = String::from(
        "| | all | around | capture | copy | commit | release | adapter | adapter's share of the cycle | moved MB |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for (deed, title) in DEEDS {
        let name = title.split([' ', ':']).next().unwrap_or_default().to_lowercase();
        let samples: Vec<&Sample> = rounds.iter().filter_map(|round| round.get(&(deed, Tool::Farshore))).collect();
        let median = |value: &dyn Fn(&Sample, &Own) -> f64| {
            let own = |sample: &Sample| sample.own.as_ref().map_or(0.0, |own| value(sample, own));
            Spread::of(samples.iter().map(|sample| own(sample))).map_or(0.0, |spread| spread.median)
        };
        let inside = |own: &Own| own.phases.iter().sum::<Duration>();
        let all = median(&|sample, _| sample.usage.wall().as_secs_f64());
        let around = median(&|sample, own| sample.usage.wall().saturating_sub(inside(own)).as_secs_f64());
        let _ = write!(text, "| {name} | {all:.2} | {around:.2} |");
        if deed == Deed::Restore {
            let copy = median(&|_, own| inside(own).as_secs_f64());
            let _ = write!(text, " | {copy:.2} | | | | |");
        } else {
            for phase in 0..4 {
                let seconds = median(&|_, own| own.phases.get(phase).copied().unwrap_or_default().as_secs_f64());
                let _ = write!(text, " {seconds:.3} |");
            }
            let adapter = median(&|_, own| own.adapter.as_secs_f64());
            let share = median(&|_, own| own.adapter.as_secs_f64() / inside(own).as_secs_f64().max(1e-3) * 100.0);
            let _ = write!(text, " {adapter:.3} | {share:.1} % |");
        }
        let _ = writeln!(text, " {:.1} |", median(&|_, own| own.moved_bytes as f64 / 1e6));
    }
    text
}

/// Writes the page, and keeps what somebody wrote below the line that says so.
pub fn write(path: &Path, page: &str) -> Result<()> {
    let before = fs::read_to_string(path).unwrap_or_default();
    fs::write(path, joined(page, &before)).with_context(|| format!("writing {}", path.display()))
}

fn joined(page: &str, before: &str) -> String {
    let by_hand = before.split_once(BY_HAND).map_or("\n", |(_, by_hand)| by_hand);
    format!("{page}\n{BY_HAND}{by_hand}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Usage;

    fn sample(seconds: u64) -> Sample {
        let usage = Usage { running: Duration::from_secs(seconds), peak_bytes: 5 << 20, ..Usage::default() };
        let phases = [10, 80, 5, 5].map(|milliseconds| Duration::from_millis(milliseconds * seconds));
        let own = Own { phases, adapter: Duration::from_millis(20 * seconds), ..Own::default() };
        Sample { usage, stored_bytes: 2_000_000 * seconds, files: seconds, own: Some(own) }
    }

    #[test]
    fn a_table_shows_medians_and_what_is_there() {
        let deed = Deed::Copy(Step::First);
        let round = |seconds| Samples::from([((deed, Tool::Farshore), sample(seconds))]);
        let rounds = [round(4), round(1), round(2)];
        let text = table(deed, 1_000_000_000, &rounds);
        let rows: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(rows, ["| farshore | 2.00 (1.00 to 4.00) | 0.00 | 500 | 0.00 | 4.00 | 2 | 5 |"]);
        let columns = |line: &str| line.matches('|').count();
        assert!(text.lines().all(|line| columns(line) == columns(rows[0])), "{text}");
        let text = phases(&rounds);
        assert!(
            text.contains("| first | 2.00 | 1.80 | 0.020 | 0.160 | 0.010 | 0.010 | 0.040 | 20.0 % | 0.0 |"),
            "{text}"
        );
        let mut lines = text.lines();
        let first = lines.next().expect("a heading");
        assert!(lines.all(|line| columns(line) == columns(first)), "{text}");
    }

    #[test]
    fn what_was_written_by_hand_stays() {
        let first = joined("page one\n", "");
        assert_eq!(first, format!("page one\n\n{BY_HAND}\n"));
        let edited = format!("{first}\nWhat bounds it.\n");
        assert_eq!(joined("page two\n", &edited), format!("page two\n\n{BY_HAND}\n\nWhat bounds it.\n"));
    }
}
