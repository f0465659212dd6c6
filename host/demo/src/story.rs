//! The demonstration: a machine is protected, drilled, lost and brought back, while somebody outside watches.
//!
//! It runs the `farshore` command line as an operator would, and judges by what the guest itself said on its console, so
//! that nothing that Farshore reports can make it look better than it was. What it shows is measured; if the recovered
//! database is damaged, or lacks a row that was acknowledged before the recovery point's instant, it ends in an error.
//!
//! Everything that it writes is in one folder. Everything that it starts (the guest, commands, recovered machines) is ended
//! when [`run`] returns, however it returns; commands and guests are in process groups of their own, so that Ctrl-C reaches
//! only whoever called, who then asks to stop.

use std::{
    fs,
    future::Future,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use farshore_core::{Clock, SystemClock, Timestamp};
use serde::Serialize;
use serde_json::Value;

use self::{
    narrator::{Narrator, size},
    points::{SeenPoint, age_max},
};
use crate::{
    command::{Farshore, Finished, Running},
    console::{Console, Line},
    error::{AtPath, DemoError},
    guest::{Agent, BOOT_MAX, DiskFormat, Guest, GuestOptions, disk},
    image,
    recovered::{self, RecoveredMachine},
    site::{ProtectedGroup, ProtectedMachine, Site},
    wait::{Deadline, POLL, Stop, pause},
    witness::{Acknowledgement, BootReport, Witness},
};

mod narrator;
mod points;

/// The machine and the group.
const GROUP: &str = "orders";

/// The objective.
const OBJECTIVE: &str = "5s";

/// How often the guest's database commits.
const COMMIT_INTERVAL_MILLISECONDS: u32 = 250;

/// How many points are waited for before the drill, and how many after it.
const POINTS_BEFORE_DRILL: usize = 3;
const POINTS_AFTER_DRILL: usize = 1;

/// How long a point, and a command that does not boot anything, may take.
const POINT_MAX: Duration = Duration::from_secs(180);
const COMMAND_MAX: Duration = Duration::from_secs(120);

/// How long a drill or a failover may take: it boots a guest under emulation.
const RUN_MAX: Duration = Duration::from_secs(400);

/// How often the system's processes are looked through for a recovered machine.
const LOOK: Duration = Duration::from_millis(100);

/// How long after the last point production is killed: in the middle of nothing in particular.
const PAUSE_BEFORE_LOSS: Duration = Duration::from_millis(2_300);

/// What the operator chose.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// Where the result is written as JSON too.
    pub report: Option<PathBuf>,
    /// The folder for everything that it writes: empty or not there yet. A new one below the system's folder for temporary
    /// files otherwise.
    pub folder: Option<PathBuf>,
    /// The `farshore` binary.
    pub farshore: PathBuf,
}

/// What the demonstration measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DemoReport {
    /// Recovery points that were committed.
    pub points: usize,
    /// Bytes of the vault's files.
    pub stored_bytes: u64,
    /// The greatest age that the newest point reached, in seconds.
    pub rpo_seconds_max: f64,
    /// The last row that production acknowledged.
    pub last_row_acknowledged: u64,
    /// The last row that the recovered database has.
    pub last_row_recovered: u64,
    /// From the acknowledgement of the last recovered row until production was killed; 0 if no acknowledged row is missing.
    pub seconds_lost: f64,
    /// From the beginning of the failover until the recovered guest said that its database is whole.
    pub seconds_to_recover: f64,
    /// The drill booted, its database was whole, it had no network, production went on, and nothing of it is left.
    pub drill_ok: bool,
}

/// Runs the demonstration on a blocking thread, and asks it to stop when `stopped` completes.
///
/// # Errors
/// As [`run`].
pub async fn run_until(
    options: DemoOptions,
    stopped: impl Future<Output = ()>,
    mut output: Box<dyn Write + Send>,
) -> Result<DemoReport, DemoError> {
    let stop = Stop::default();
    let for_thread = stop.clone();
    let mut story = tokio::task::spawn_blocking(move || run(&options, &for_thread, &mut *output));
    tokio::select! {
        result = &mut story => return joined(result),
        () = stopped => stop.request(),
    }
    joined(story.await)
}

fn joined(result: Result<Result<DemoReport, DemoError>, tokio::task::JoinError>) -> Result<DemoReport, DemoError> {
    match result.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(result) => result,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => Err(DemoError::Interrupted),
    }
}

/// Runs the demonstration: about two minutes, without questions.
///
/// # Errors
/// Something that it needs is missing or fails, stopping was asked for, or the recovered guest is not as it must be.
pub fn run(options: &DemoOptions, stop: &Stop, output: &mut (dyn Write + Send)) -> Result<DemoReport, DemoError> {
    let mut narrator = Narrator::new(output);
    let folder = own_folder(options.folder.as_deref())?;
    narrator
        .line("A small Linux machine with a database is protected, drilled, lost and brought back. Everything is real");
    narrator.line("and runs on this machine; what counts is what the guest itself says on its console.");
    narrator.line(&format!("Everything that is written goes to {}", folder.display()));
    // Dropped after the guest and the commands: whatever still runs from the folder is ended.
    let sweeper = Sweeper(folder.clone());
    let result = Story::begin(&folder, options, stop, &mut narrator).and_then(|story| story.tell(&mut narrator));
    drop(sweeper);
    let (report, farshore) = result?;
    if let Some(path) = &options.report {
        let text = serde_json::to_string_pretty(&report).map_err(std::io::Error::from).at("write", path)?;
        fs::write(path, text + "\n").at("write", path)?;
    }
    finish(&report, &farshore, &folder, &mut narrator);
    if report.drill_ok {
        return Ok(report);
    }
    Err(DemoError::NotAsPromised { found: "the drill did not go well: see above".to_owned() })
}

/// Ends every machine that runs from the folder.
struct Sweeper(PathBuf);

impl Drop for Sweeper {
    fn drop(&mut self) {
        for machine in recovered::machines_below(&self.0).unwrap_or_default() {
            if let Err(error) = machine.end() {
                eprintln!("a machine of the demonstration is still running: {error}");
            }
        }
    }
}

/// The folder, made, absolute and empty.
fn own_folder(chosen: Option<&Path>) -> Result<PathBuf, DemoError> {
    let Some(folder) = chosen else {
        let parent = std::env::temp_dir();
        let made = tempfile::Builder::new().prefix("farshore-").tempdir_in(&parent).at("make a folder in", parent)?;
        return Ok(made.keep());
    };
    fs::create_dir_all(folder).at("make", folder)?;
    let folder = folder.canonicalize().at("find", folder)?;
    if fs::read_dir(&folder).at("list", &folder)?.next().is_some() {
        let source = std::io::ErrorKind::DirectoryNotEmpty.into();
        return Err(DemoError::File { doing: "use", path: folder, source });
    }
    Ok(folder)
}

/// The story's things.
struct Story {
    site: Site,
    farshore: Farshore,
    production: Guest,
    watch: Option<Running>,
    next_line: usize,
    points: Vec<SeenPoint>,
    stop: Stop,
}

/// What is known of the loss.
struct Loss {
    /// When production was killed, on the monotonic clock and in civil time.
    killed: Duration,
    killed_at: Timestamp,
    last: Acknowledgement,
}

impl Story {
    /// Builds the guest, starts it, and makes the vault while it boots.
    fn begin(folder: &Path, options: &DemoOptions, stop: &Stop, narrator: &mut Narrator) -> Result<Self, DemoError> {
        narrator.heading("Production");
        let image = image::prepare(&image::default_cache(), &mut |line| narrator.say(line))?;
        stop.check()?;
        let mut site = Site::new(folder)?;
        let home = folder.join("production");
        fs::create_dir(&home).at("make", &home)?;
        let disk = disk::copy(&image.disk, &home.join("disk0.qcow2"), DiskFormat::Qcow2)?;
        narrator.say("starting a machine with 256 MiB of memory and a disk of 512 MiB, under software emulation");
        let (name, disks, arguments) = (GROUP.to_owned(), vec![disk], Vec::new());
        let mut production = Guest::start(GuestOptions { name, folder: home, disks, arguments, stop: stop.clone() })?;
        site.machines.push(ProtectedMachine::from(&production));
        site.groups.push(ProtectedGroup { rpo: OBJECTIVE.to_owned(), ..ProtectedGroup::new(GROUP, &[GROUP]) });
        site.write()?;
        let logs = folder.join("logs");
        fs::create_dir(&logs).at("make", &logs)?;
        let configuration = site.configuration_file();
        let farshore = Farshore { binary: options.farshore.clone(), configuration, logs, stop: stop.clone() };
        command(&farshore, narrator, &["config", "check"])?;
        command(&farshore, narrator, &["vault", "create", "--yes"])?;
        let report = production.wait_until_up()?;
        narrator.say(&format!("the machine is up; its console says: {}", report.text));
        production.start_workload(&format!("database {COMMIT_INTERVAL_MILLISECONDS}"))?;
        let first = |line: &Line| Acknowledgement::parse(line);
        production.wait_for("the first row", 0, POINT_MAX, first)?;
        narrator.say("its database commits a row every quarter of a second, and acknowledges it on the console once it is durable");
        let (stop, points) = (stop.clone(), Vec::new());
        Ok(Self { site, farshore, production, watch: None, next_line: 0, points, stop })
    }

    fn tell(mut self, narrator: &mut Narrator) -> Result<(DemoReport, Farshore), DemoError> {
        narrator.heading("Protection");
        command(&self.farshore, narrator, &["machine", "discover"])?;
        narrator.say(&format!("$ farshore replicate {GROUP} --watch      (no more than {OBJECTIVE} may be lost)"));
        self.watch = Some(self.farshore.start(&["replicate", GROUP, "--watch"])?);
        self.wait_for_points(POINTS_BEFORE_DRILL, narrator)?;

        narrator.heading("Drill");
        let drill_ok = self.drill(narrator)?;
        self.wait_for_points(POINTS_AFTER_DRILL, narrator)?;

        narrator.heading("Loss");
        let loss = self.lose_production(narrator)?;
        narrator.heading("Failover");
        let (boot, seconds_to_recover) = self.fail_over(&loss, narrator)?;
        let report = self.measure(&loss, &boot, seconds_to_recover, drill_ok)?;
        Ok((report, self.farshore))
    }

    /// Tells the points that have come, and waits until there are so many more.
    fn wait_for_points(&mut self, more: usize, narrator: &mut Narrator) -> Result<(), DemoError> {
        let wanted = self.points.len() + more;
        while self.points.len() < wanted {
            self.take_point(POINT_MAX, narrator)?;
        }
        Ok(())
    }

    /// Waits for the end of the next cycle and tells of it.
    fn take_point(&mut self, limit: Duration, narrator: &mut Narrator) -> Result<(), DemoError> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        let told = |line: &Value| SeenPoint::parse(line).map(Ok).or_else(|| failure(line).map(Err));
        let (told, next) = watch.wait_for("a recovery point", self.next_line, limit, &self.stop, told)?;
        self.next_line = next;
        let point = match told {
            Ok(point) => point,
            Err(failure) => {
                narrator.say(&format!("a cycle failed, and is tried again: {failure}"));
                return Ok(());
            }
        };
        let row = Witness(self.production.console()).last().map_or(0, |last| last.row);
        narrator.say(&format!(
            "point {} ({}): {} stored, durable {:.1} s after its instant; production is at row {row}",
            point.number,
            point.basis,
            size(point.stored_bytes),
            point.lag().as_secs_f64(),
        ));
        self.points.push(point);
        Ok(())
    }

    /// Tells points that came meanwhile, without waiting.
    fn take_points_that_came(&mut self, narrator: &mut Narrator) -> Result<(), DemoError> {
        // Once production is lost there is no watch, and nothing comes any more.
        while self.watch.is_some() {
            match self.take_point(Duration::ZERO, narrator) {
                Ok(()) => {}
                Err(DemoError::TooLate { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Starts the group in isolation while production goes on, and lets Farshore clean up again.
    fn drill(&mut self, narrator: &mut Narrator) -> Result<bool, DemoError> {
        let row_before = Witness(self.production.console()).last().map_or(0, |last| last.row);
        narrator
            .say(&format!("$ farshore drill {GROUP}      (the newest point, without a network; production goes on)"));
        let drill = self.farshore.start(&["drill", GROUP])?;
        let folder = self.site.drill_folder();
        let (finished, machine) = self.run_to_end(drill, &folder, narrator)?;
        let answer = finished.succeeded()?.json()?;
        let Some(SeenMachine { machine, console }) = machine else {
            narrator.say("no machine was seen during the drill");
            return Ok(false);
        };
        console.drain(&self.stop)?;
        let boot = Witness(&console.0).boot();
        let row_after = Witness(self.production.console()).last().map_or(0, |last| last.row);
        let whole = boot.as_ref().is_some_and(|boot| boot.integrity_ok && boot.last_row.is_some());
        let outcome = text(&answer, "outcome");
        let left = self.site.recovered_machines()?;
        let alone = machine.is_without_network();
        let cleaned = answer.get("cleaned_up").and_then(Value::as_bool) == Some(true) && left.is_empty();
        match &boot {
            Some(boot) => narrator.say(&format!("the drilled machine's console said: {}", boot.text)),
            None => narrator.say("the drilled machine's console did not say that it was up"),
        }
        narrator.say(&format!(
            "drill {outcome}; network: {}; production went from row {row_before} to row {row_after}; {}",
            if alone { "none" } else { "CONNECTED" },
            if cleaned { "nothing of it is left" } else { "SOMETHING OF IT IS LEFT" },
        ));
        Ok(outcome == "succeeded" && whole && alone && cleaned && row_after > row_before)
    }

    /// Waits for the end of a command that boots a machine in a folder, tells points meanwhile, and follows the machine's
    /// console.
    fn run_to_end(
        &mut self,
        mut running: Running,
        folder: &Path,
        narrator: &mut Narrator,
    ) -> Result<(Finished, Option<SeenMachine>), DemoError> {
        let deadline = Deadline::after(RUN_MAX, &self.stop);
        let mut seen: Option<SeenMachine> = None;
        while running.try_status()?.is_none() {
            if seen.is_none() {
                seen = SeenMachine::look(folder)?;
                if let Some(SeenMachine { machine, .. }) = &seen {
                    narrator.say(&format!("a machine with the UUID {} boots at the recovery site", machine.uuid));
                }
            }
            self.take_points_that_came(narrator)?;
            deadline.check("the end of a run", String::new)?;
            pause(LOOK);
        }
        Ok((running.interrupt(&self.stop)?, seen))
    }

    /// Kills production and ends its replication, which has nothing left to do.
    fn lose_production(&mut self, narrator: &mut Narrator) -> Result<Loss, DemoError> {
        let deadline = Deadline::after(PAUSE_BEFORE_LOSS, &self.stop);
        while deadline.check("", String::new).is_ok() {
            self.take_points_that_came(narrator)?;
            pause(POLL);
        }
        self.stop.check()?;
        self.production.kill();
        let (killed, killed_at) = (SystemClock.monotonic(), SystemClock.now());
        self.production.console().catch_up(&self.stop)?;
        let last = Witness(self.production.console()).last();
        let last = last.ok_or_else(|| DemoError::NotAsPromised { found: "no row was acknowledged".to_owned() })?;
        narrator.say(&format!("production was killed (SIGKILL); the last row that it acknowledged is {}", last.row));
        match self.take_points_that_came(narrator) {
            // Replication may have given up by itself: there is nothing left to replicate.
            Ok(()) | Err(DemoError::Farshore { .. }) => {}
            Err(error) => return Err(error),
        }
        if let Some(watch) = self.watch.take() {
            watch.interrupt(&self.stop)?;
        }
        Ok(Loss { killed, killed_at, last })
    }

    /// Fails over, and waits until the recovered machine says what it holds.
    fn fail_over(&mut self, loss: &Loss, narrator: &mut Narrator) -> Result<(BootReport, f64), DemoError> {
        let attestation = "the demonstration killed it";
        narrator.say(&format!("$ farshore failover unplanned {GROUP} --yes --source-is-down \"{attestation}\""));
        let began = SystemClock.monotonic();
        let arguments = ["failover", "unplanned", GROUP, "--yes", "--source-is-down", attestation];
        let running = self.farshore.start(&arguments)?;
        let folder = self.site.recovered_folder();
        let (finished, seen) = self.run_to_end(running, &folder, narrator)?;
        let answer = finished.succeeded()?.json()?;
        let seen = match seen {
            Some(seen) => seen,
            None => SeenMachine::look(&folder)?.ok_or_else(|| DemoError::NotAsPromised {
                found: "farshore says that it failed over, and no machine runs".to_owned(),
            })?,
        };
        let up = |line: &Line| BootReport::parse(line);
        let (boot, next) = seen.console.0.wait_for("the recovered machine to be up", 0, BOOT_MAX, &self.stop, up)?;
        let seconds = boot.seen.saturating_sub(began).as_secs_f64();
        narrator.say(&format!("farshore says: {}", text(&answer, "loss")));
        narrator.say(&format!("the recovered machine's console says: {}", boot.text));
        if let Some(run) = answer.get("run").and_then(Value::as_str) {
            command(&self.farshore, narrator, &["run", "show", run])?;
        }
        let Some(agent) = &seen.machine.agent else { return Ok((boot, seconds)) };
        let agent = Agent::new(agent, COMMAND_MAX, &self.stop);
        agent.succeed(&format!("workload database {COMMIT_INTERVAL_MILLISECONDS}"))?;
        let acknowledged = |line: &Line| Acknowledgement::parse(line);
        let (first, _) = seen.console.0.wait_for("a new row", next, COMMAND_MAX, &self.stop, acknowledged)?;
        let after = first.seen.saturating_sub(loss.killed).as_secs_f64();
        narrator
            .say(&format!("the recovered database goes on: row {} is durable, {after:.1} s after the loss", first.row));
        Ok((boot, seconds))
    }

    /// Puts the figures together, and checks what must hold.
    fn measure(
        &self,
        loss: &Loss,
        boot: &BootReport,
        seconds_to_recover: f64,
        drill_ok: bool,
    ) -> Result<DemoReport, DemoError> {
        let broken = |found: String| DemoError::NotAsPromised { found };
        let recovered = boot.last_row.filter(|_| boot.integrity_ok).ok_or_else(|| broken(boot.text.clone()))?;
        let witness = Witness(self.production.console());
        let point = self.points.last().ok_or_else(|| broken("there was no recovery point".to_owned()))?;
        // What was acknowledged before the point's instant must be there. A later point that was durable without having
        // been told only makes the recovered row greater.
        let before = loss.killed.saturating_sub(loss.killed_at.since(point.captured_at));
        let promised = witness.last_before(before).map_or(0, |acknowledgement| acknowledgement.row);
        if recovered < promised {
            let number = point.number;
            return Err(broken(format!(
                "row {promised} was durable before point {number}, and row {recovered} is the last"
            )));
        }
        let seconds_lost = match witness.of_row(recovered) {
            Some(kept) if recovered < loss.last.row => loss.killed.saturating_sub(kept.seen).as_secs_f64(),
            _ => 0.0,
        };
        Ok(DemoReport {
            points: self.points.len(),
            stored_bytes: folder_bytes(&self.site.vault_folder())?,
            rpo_seconds_max: age_max(&self.points, loss.killed_at).as_secs_f64(),
            last_row_acknowledged: loss.last.row,
            last_row_recovered: recovered,
            seconds_lost,
            seconds_to_recover,
            drill_ok,
        })
    }
}

/// A recovered machine and its console.
struct SeenMachine {
    machine: RecoveredMachine,
    console: FollowedConsole,
}

/// A console whose log may be removed at any time; what was written is still read, because the file stays open.
struct FollowedConsole(Console);

impl FollowedConsole {
    /// Lets the follower read what is left of a file that nobody writes any more.
    fn drain(&self, stop: &Stop) -> Result<(), DemoError> {
        pause(POLL * 20);
        stop.check()
    }
}

impl SeenMachine {
    fn look(folder: &Path) -> Result<Option<Self>, DemoError> {
        let mut machines = recovered::machines_below(folder)?;
        let Some(machine) = machines.pop() else { return Ok(None) };
        let Some(log) = &machine.console else { return Ok(None) };
        let console = FollowedConsole(Console::follow(log)?);
        Ok(Some(Self { machine, console }))
    }
}

/// Runs a command that must succeed, and tells that it did.
fn command(farshore: &Farshore, narrator: &mut Narrator, arguments: &[&str]) -> Result<Finished, DemoError> {
    narrator.say(&format!("$ farshore {}", arguments.join(" ")));
    farshore.run(arguments, COMMAND_MAX)?.succeeded()
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// What a line of the watch says of a cycle that failed.
fn failure(line: &Value) -> Option<String> {
    let error = line.get("error")?;
    Some(format!("[{}] {}", text(error, "code"), text(error, "message")))
}

/// The bytes of all files below a folder.
fn folder_bytes(folder: &Path) -> Result<u64, DemoError> {
    let mut sum = 0_u64;
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).at("list", &folder)? {
            let entry = entry.at("list", &folder)?;
            let metadata = entry.metadata().at("inspect", entry.path())?;
            if metadata.is_dir() {
                open.push(entry.path());
            } else {
                sum = sum.saturating_add(metadata.len());
            }
        }
    }
    Ok(sum)
}

/// The figures, and what to do next.
fn finish(report: &DemoReport, farshore: &Farshore, folder: &Path, narrator: &mut Narrator) {
    narrator.heading("What the witness outside saw");
    let lost = report.last_row_acknowledged.saturating_sub(report.last_row_recovered);
    for (name, value) in [
        ("recovery points", format!("{} ({} in the vault)", report.points, size(report.stored_bytes))),
        ("greatest age of the newest point", format!("{:.1} s (objective: {OBJECTIVE})", report.rpo_seconds_max)),
        ("last row that production acknowledged", report.last_row_acknowledged.to_string()),
        ("last row that was recovered", format!("{} ({lost} rows lost)", report.last_row_recovered)),
        ("lost", format!("{:.1} s of work", report.seconds_lost)),
        ("from the failover's beginning to a whole database", format!("{:.1} s", report.seconds_to_recover)),
        ("drill", if report.drill_ok { "went well" } else { "DID NOT GO WELL" }.to_owned()),
    ] {
        narrator.line(&format!("  {name:<50} {value}"));
    }
    narrator.heading("Everything that was started has been ended. The vault is still there; try next:");
    let restored = folder.join("restored");
    for arguments in [
        format!("points {GROUP}"),
        "vault check --full".to_owned(),
        "run list".to_owned(),
        format!("restore {GROUP} --to {}", restored.display()),
        "explain FS4001".to_owned(),
    ] {
        narrator.line(&format!("  {}", farshore.typed(&arguments)));
    }
    narrator.line(&format!("The configuration with comments: {}", farshore.configuration.display()));
    narrator.line(&format!("When you are done: rm -r {}", folder.display()));
}

#[cfg(test)]
mod tests;
