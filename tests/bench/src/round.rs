//! One round: a fresh disk, a machine that has it, an empty repository for each tool; then every step by every tool in turn.
//!
//! The machine is a QEMU process whose processor does not run, so that between two copies the disk changes only where the
//! bench writes. Everything of a round is in one folder, which goes with the machine at the round's end, also when it
//! fails.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use farshore_e2e::{DiskFormat, Guest, GuestDisk, Stop, World};
use serde::Deserialize;

use crate::{
    change, image,
    measure::{self, Usage},
    tools::{Programs, Step, Tool},
    workshop::{self, GROUP, Places, Workshop},
};

/// What is measured of a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// A copy.
    Copy(Step),
    /// Bringing back the newest.
    Restore,
}

/// What a tool took for something.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Time and memory.
    pub usage: Usage,
    /// Bytes by which its repository grew.
    pub stored_bytes: u64,
    /// Files that its repository has more.
    pub files: u64,
    /// What Farshore says of itself.
    pub own: Option<Own>,
}

/// What Farshore says of a cycle or a restore.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// Beginning the capture, reading and storing, making the point durable, releasing.
    pub phases: [Duration; 4],
    /// What of these was spent in calls of the adapter component.
    pub adapter: Duration,
    /// Bytes read from the machine, or written to the file.
    pub moved_bytes: u64,
}

/// What was measured in a round.
pub type Samples = BTreeMap<(Deed, Tool), Sample>;

/// What a round is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Decides the disk and what changes on it.
    pub seed: u64,
    /// The disk's size.
    pub disk_bytes: u64,
    /// The number of the round, from 0: which tool comes first.
    pub round: usize,
    /// The programs of the tools.
    pub programs: Programs,
}

struct Round<'a> {
    world: World,
    workshop: Workshop,
    image: PathBuf,
    order: Vec<Tool>,
    stop: &'a Stop,
    samples: Samples,
}

/// Runs a round.
pub fn run(settings: &Settings, stop: &Stop) -> Result<Samples> {
    let mut round = Round::begin(settings, stop)?;
    for tool in round.order.clone() {
        for mut command in round.workshop.create(tool) {
            measure::run(&mut command, round.world.folder(), stop)?;
        }
    }
    round.copies(Step::First)?;
    let runs = change::plan(settings.seed, settings.disk_bytes);
    change::apply(round.world.guest(GROUP), &round.image, round.world.folder(), settings.seed, &runs)?;
    round.copies(Step::Delta)?;
    round.copies(Step::Idle)?;
    for tool in round.order.clone() {
        round.restore(tool)?;
    }
    Ok(round.samples)
}

impl<'a> Round<'a> {
    fn begin(settings: &Settings, stop: &'a Stop) -> Result<Self> {
        let mut world = World::new()?;
        let folder = world.folder().join("tools");
        let image = workshop::image_below(&folder);
        let image_folder = image.parent().context("the disk lies in no folder")?;
        fs::create_dir_all(image_folder).with_context(|| format!("making {}", image_folder.display()))?;
        image::write(&image, settings.seed, settings.disk_bytes)?;
        let disk = GuestDisk { path: image.clone(), format: DiskFormat::Raw };
        let mut options = world.guest_options(GROUP, vec![disk]);
        options.arguments.push("-S".to_owned());
        options.stop = stop.clone();
        world.add_guest(Guest::start(options)?);
        world.protect(GROUP, &[GROUP])?;
        let places = Places {
            farshore: world.farshore()?,
            configuration: world.site.configuration()?,
            vault: world.site.vault_folder(),
            programs: settings.programs.clone(),
            folder,
        };
        let workshop = Workshop::new(places)?;
        let mut order = workshop.tools();
        let first = settings.round % order.len();
        order.rotate_left(first);
        Ok(Self { world, workshop, image, order, stop, samples: Samples::new() })
    }

    fn copies(&mut self, step: Step) -> Result<()> {
        self.workshop.touch()?;
        for tool in self.order.clone() {
            let Some(mut command) = self.workshop.copy(tool, step) else { continue };
            let repository = self.workshop.repository(tool);
            let before = measure::census(&repository)?;
            let image = self.image.clone();
            let (usage, output) = self.measured(&mut command, &image, &repository)?;
            let after = measure::census(&repository)?;
            let own = if tool == Tool::Farshore { Some(cycle(&output, step)?) } else { None };
            let sample = Sample {
                usage,
                stored_bytes: after.bytes.saturating_sub(before.bytes),
                files: after.files.saturating_sub(before.files),
                own,
            };
            self.keep(Deed::Copy(step), tool, sample);
        }
        Ok(())
    }

    fn restore(&mut self, tool: Tool) -> Result<()> {
        let folder = self.world.folder().join("restored");
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        let (mut command, file) = self.workshop.restore(tool, &folder)?;
        let (usage, output) = self.measured(&mut command, &self.workshop.restored_from(tool), &folder)?;
        measure::compare(&file, &self.image).with_context(|| format!("{tool} restored a wrong disk"))?;
        let own = if tool == Tool::Farshore { Some(restored(&output)?) } else { None };
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        self.keep(Deed::Restore, tool, Sample { usage, own, ..Sample::default() });
        Ok(())
    }

    /// Runs a command that reads below one path and writes below another.
    fn measured(&self, command: &mut Command, reads: &Path, writes: &Path) -> Result<(Usage, String)> {
        measure::prepare(reads)?;
        let (mut usage, output) = measure::run(command, self.world.folder(), self.stop)?;
        usage.flushing = measure::flush(writes)?;
        Ok((usage, output))
    }

    fn keep(&mut self, deed: Deed, tool: Tool, sample: Sample) {
        eprintln!("  {deed:?} {tool}: {:.2} s", sample.usage.wall().as_secs_f64());
        self.samples.insert((deed, tool), sample);
    }
}

#[derive(Deserialize)]
struct CycleReport {
    point: Point,
    read_bytes: u64,
    times: Times,
}

#[derive(Deserialize)]
struct Point {
    machines: Vec<PointMachine>,
}

#[derive(Deserialize)]
struct PointMachine {
    disks: Vec<PointDisk>,
}

#[derive(Deserialize)]
struct PointDisk {
    basis: String,
}

#[derive(Deserialize)]
struct Times {
    capture_milliseconds: u64,
    copy_milliseconds: u64,
    commit_milliseconds: u64,
    release_milliseconds: u64,
    adapter_microseconds: u64,
}

/// What `replicate --once --json` says. A delta that was not found by tracking would be a measurement of something else.
fn cycle(output: &str, step: Step) -> Result<Own> {
    let reports: Vec<CycleReport> = serde_json::from_str(output).context("reading the report of the cycle")?;
    let [CycleReport { point, read_bytes, times }] = &reports[..] else {
        bail!("the cycle reported {} groups instead of one", reports.len());
    };
    let basis = point.machines.iter().flat_map(|machine| &machine.disks).map(|disk| disk.basis.as_str()).next();
    let expected = if step == Step::First { "full" } else { "tracked" };
    ensure!(basis == Some(expected), "the disk was copied as {basis:?} instead of {expected:?}");
    let phases =
        [times.capture_milliseconds, times.copy_milliseconds, times.commit_milliseconds, times.release_milliseconds];
    Ok(Own {
        phases: phases.map(Duration::from_millis),
        adapter: Duration::from_micros(times.adapter_microseconds),
        moved_bytes: *read_bytes,
    })
}

#[derive(Deserialize)]
struct Restored {
    disks: Vec<RestoredDisk>,
}

#[derive(Deserialize)]
struct RestoredDisk {
    written_bytes: u64,
    milliseconds: u64,
}

fn restored(output: &str) -> Result<Own> {
    let report: Restored = serde_json::from_str(output).context("reading the report of the restore")?;
    let [RestoredDisk { written_bytes, milliseconds }] = &report.disks[..] else {
        bail!("{} disks were restored instead of one", report.disks.len());
    };
    let phases = [0, *milliseconds, 0, 0].map(Duration::from_millis);
    Ok(Own { phases, adapter: Duration::ZERO, moved_bytes: *written_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_that_was_compared_is_not_taken_for_one_that_was_tracked() {
        let report = |basis: &str| {
            format!(
                r#"[{{"group":"bench","read_bytes":7,"point":{{"machines":[{{"disks":[{{"basis":"{basis}"}}]}}]}},
                "times":{{"capture_milliseconds":1,"copy_milliseconds":2,"commit_milliseconds":3,
                "release_milliseconds":4,"adapter_microseconds":500}}}}]"#
            )
        };
        let own = cycle(&report("tracked"), Step::Delta).expect("a delta");
        assert_eq!((own.moved_bytes, own.adapter), (7, Duration::from_micros(500)));
        assert_eq!(own.phases.iter().sum::<Duration>(), Duration::from_millis(10));
        cycle(&report("compared"), Step::Delta).expect_err("another thing");
        cycle(&report("full"), Step::First).expect("a first copy");
        cycle("[]", Step::First).expect_err("nothing was copied");
    }
}
