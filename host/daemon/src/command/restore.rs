//! `restore`: a point's disks as raw files.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use farshore_core::{DiskId, GroupName, MachineId, Sequence, Timestamp};
use farshore_failover::{FailoverError, RestoreLimits, RestoreReport, restore_to_file};
use farshore_vault::{Point, PointReader, Power, ProofClaim, ProofKind, Vault};
use serde::Serialize;

use crate::{
    arguments::RestoreArguments,
    context::Context,
    error::CliError,
    output::{Failure, Progress, Table, human},
    vault::{self, Needs},
};

/// What was restored.
#[derive(Serialize)]
pub struct Restored {
    group: GroupName,
    point: Sequence,
    captured_at: Timestamp,
    disks: Vec<RestoredDisk>,
}

#[derive(Serialize)]
struct RestoredDisk {
    machine: MachineId,
    disk: DiskId,
    path: PathBuf,
    #[serde(flatten)]
    report: RestoreReport,
}

/// Runs it.
pub async fn run(context: &Context, arguments: &RestoreArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let vault = vault::open(context, &configuration, Needs::Powers(&[Power::Recoverer])).await?;
    let begun_at = context.clock.now();
    let restored = restore(context, &vault, arguments).await?;
    if arguments.machine.is_some() || arguments.disk.is_some() {
        return Ok(());
    }
    // Every disk of the point came back.
    let claim = ProofClaim {
        what: ProofKind::Restored,
        begun_at,
        ended_at: context.clock.now(),
        bytes_read: restored.disks.iter().fold(0, |sum, disk| sum.saturating_add(disk.report.written_bytes)),
        hurt: None,
    };
    let lineage = super::lineage(&vault, &arguments.group).await?;
    super::keep_proof(context, &lineage, restored.point, claim).await
}

/// Restores from an open vault.
pub async fn restore(context: &Context, vault: &Vault, arguments: &RestoreArguments) -> Result<Restored, Failure> {
    let lineage = super::lineage(vault, &arguments.group).await?;
    let nothing = || FailoverError::NothingToRecover { group: arguments.group.clone() };
    let sequence = match super::chosen(arguments.point) {
        Some(sequence) => sequence,
        None => lineage.head().await?.newest_point.ok_or_else(nothing)?,
    };
    let reader = lineage.open_point(sequence).await?;
    let disks = choose(reader.point(), arguments)?;
    let files = files(&disks, &arguments.to)?;
    let progress = Progress::new(context.output);
    let mut restored = Vec::new();
    for ((machine, disk), path) in disks.into_iter().zip(files) {
        match restore_one(context, &reader, &machine, &disk, &path, &progress).await {
            Ok(report) => restored.push(RestoredDisk { machine, disk, path, report }),
            Err(failure) => {
                progress.pause();
                tell_complete(context, &restored);
                return Err(failure);
            }
        }
    }
    progress.pause();
    let captured_at = reader.point().captured_at;
    let restored = Restored { group: arguments.group.clone(), point: sequence, captured_at, disks: restored };
    context.output.result(&restored, || render(&restored, context.clock.now()))?;
    Ok(restored)
}

/// The disks that the operator wants.
fn choose(point: &Point, arguments: &RestoreArguments) -> Result<Vec<(MachineId, DiskId)>, Failure> {
    let (group, sequence) = (arguments.group.clone(), point.sequence);
    if let Some(machine) = &arguments.machine
        && point.machine(machine).is_none()
    {
        return Err(FailoverError::MachineNotInPoint { group, point: sequence, machine: machine.clone() }.into());
    }
    let machines =
        point.machines.iter().filter(|held| arguments.machine.as_ref().is_none_or(|wanted| held.machine.id == *wanted));
    let disks = machines.flat_map(|held| held.disks.iter().map(|disk| (held.machine.id.clone(), disk.disk.clone())));
    let disks: Vec<_> = disks.filter(|(_, disk)| arguments.disk.as_ref().is_none_or(|wanted| disk == wanted)).collect();
    if let (true, Some(machine), Some(disk)) = (disks.is_empty(), &arguments.machine, &arguments.disk) {
        let (machine, disk) = (machine.clone(), disk.clone());
        return Err(farshore_vault::Error::DiskMissing { sequence, machine, disk }.into());
    }
    Ok(disks)
}

/// A file for each disk: the one that was named, or one in the folder. None of them is there yet.
fn files(disks: &[(MachineId, DiskId)], to: &Path) -> Result<Vec<PathBuf>, CliError> {
    if disks.len() == 1 && !to.is_dir() {
        return vacant(to.to_owned()).map(|path| vec![path]);
    }
    if !to.is_dir() {
        let made = std::fs::create_dir_all(to);
        made.map_err(|source| CliError::OutputFailed { path: to.to_owned(), source })?;
    }
    // What a platform calls a machine may be anything that can be printed; a file's name may not.
    let plain = |name: &str| -> String {
        name.chars().map(|c| if c.is_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' }).collect()
    };
    let mut files: Vec<PathBuf> = Vec::new();
    for (machine, disk) in disks {
        let path = to.join(format!("{}.{}.raw", plain(machine.as_str()), plain(disk.as_str())));
        if files.contains(&path) {
            return Err(CliError::OutputExists { path });
        }
        files.push(vacant(path)?);
    }
    Ok(files)
}

fn vacant(path: PathBuf) -> Result<PathBuf, CliError> {
    if std::fs::symlink_metadata(&path).is_ok() { Err(CliError::OutputExists { path }) } else { Ok(path) }
}

async fn restore_one(
    context: &Context,
    reader: &PointReader,
    machine: &MachineId,
    disk: &DiskId,
    path: &Path,
    progress: &Progress,
) -> Result<RestoreReport, Failure> {
    let disk_reader = reader.disk(machine, disk)?;
    // Zeros are not written, and how much the rest is the vault does not know beforehand.
    progress.begin(&format!("{machine} {disk} ({})", human::bytes(disk_reader.size_bytes())), None);
    let moved = |bytes: u64| progress.advance(bytes);
    let clock = Arc::clone(&context.clock);
    let restoring = restore_to_file(&disk_reader, path, RestoreLimits::default(), clock, &context.stop, &moved);
    match restoring.await {
        Err(FailoverError::Stopped) => Err(context.interrupted("the half-written file was removed").into()),
        result => Ok(result?),
    }
}

/// A disk that was restored is not thrown away because another could not be: it may be hours of work, and all there is.
fn tell_complete(context: &Context, restored: &[RestoredDisk]) {
    if restored.is_empty() {
        return;
    }
    let files: Vec<_> = restored.iter().map(|disk| disk.path.display().to_string()).collect();
    let files = files.join(", ");
    context.output.warn(&format!(
        "what was restored before the failure is complete and stays: {files}; --disk restores one disk alone"
    ));
}

fn render(restored: &Restored, now: Timestamp) -> String {
    let mut table = Table::new(&["MACHINE", "DISK", ">SIZE", ">WRITTEN", ">TIME", "FILE"]);
    for RestoredDisk { machine, disk, path, report } in &restored.disks {
        table.row([
            machine.to_string(),
            disk.to_string(),
            human::bytes(report.disk_bytes),
            human::bytes(report.written_bytes),
            human::duration(std::time::Duration::from_millis(report.milliseconds)),
            path.display().to_string(),
        ]);
    }
    let captured = human::time_and_age(restored.captured_at, now);
    format!("Point {} of group {}, captured {captured}\n\n{}", restored.point, restored.group, table.render())
}
