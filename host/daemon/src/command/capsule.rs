//! `capsule`: what a recovery point carries beside its disks.

use std::{
    collections::BTreeMap,
    fs::{DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use farshore_core::{GroupName, Machine, Sequence, Timestamp};
use farshore_failover::FailoverError;
use farshore_vault::{CapsuleItem, PointReader, Power, Vault};
use serde::Serialize;

use crate::{
    arguments::{CapsuleCommand, PointChoice},
    capsule::{COMPONENT, CONFIGURATION},
    context::Context,
    error::CliError,
    output::{Failure, Table, human},
    vault::{self, Needs},
};

/// The file with all that can be told of a capsule and its point.
const INDEX: &str = "capsule.json";

/// A capsule, as it is listed and as [`INDEX`] says it.
#[derive(Serialize)]
struct Capsule {
    group: GroupName,
    point: Sequence,
    captured_at: Timestamp,
    /// The machines as they were when the point was made.
    machines: Vec<Machine>,
    items: Vec<Item>,
}

#[derive(Serialize)]
struct Item {
    name: String,
    kind: String,
    size_bytes: u64,
    digest: String,
    details: BTreeMap<String, String>,
    /// The file that it was written to, below the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    /// Why it could not be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl From<&CapsuleItem> for Item {
    fn from(item: &CapsuleItem) -> Self {
        Self {
            name: item.name.clone(),
            kind: item.kind.clone(),
            size_bytes: item.size_bytes,
            digest: item.digest_text(),
            details: item.details.clone(),
            file: None,
            problem: None,
        }
    }
}

/// Runs it.
pub async fn run(context: &Context, command: &CapsuleCommand) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    match command {
        CapsuleCommand::List { group, point } => {
            let vault = vault::open(context, &configuration, Needs::Powers(&[])).await?;
            list(context, &vault, group, *point).await
        }
        CapsuleCommand::Extract { group, point, to } => {
            let vault = vault::open(context, &configuration, Needs::Powers(&[Power::Recoverer])).await?;
            extract(context, &vault, group, *point, to).await
        }
    }
}

async fn list(context: &Context, vault: &Vault, group: &GroupName, point: PointChoice) -> Result<(), Failure> {
    let opening = open(vault, group, point);
    let (_, capsule) = context.until_stopped("nothing was changed", opening).await??;
    context.output.result(&capsule, || render(&capsule, context.clock.now()))?;
    Ok(())
}

/// Writes all items of a capsule to files in a new folder. What is damaged is told at the end, and keeps nothing else back.
pub async fn extract(
    context: &Context,
    vault: &Vault,
    group: &GroupName,
    point: PointChoice,
    to: &Path,
) -> Result<(), Failure> {
    let opening = open(vault, group, point);
    let (reader, mut capsule) = context.until_stopped("nothing was written", opening).await??;
    make_folder(to)?;
    for item in &mut capsule.items {
        let reading = reader.read_item(&item.name);
        match context.until_stopped("the items that were written are whole", reading).await? {
            Ok(content) => {
                let file = file_of(&item.name, &item.kind);
                write_new(&to.join(&file), &content)?;
                item.file = Some(file);
            }
            Err(error) if error.is_damage() => item.problem = Some(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    let index = serde_json::to_vec_pretty(&capsule).map_err(io::Error::from);
    let index_path = to.join(INDEX);
    let index = index.map_err(|source| CliError::OutputFailed { path: index_path.clone(), source })?;
    write_new(&index_path, &index)?;
    context.output.result(&capsule, || render(&capsule, context.clock.now()))?;
    let damaged: Vec<&str> =
        capsule.items.iter().filter(|item| item.problem.is_some()).map(|item| item.name.as_str()).collect();
    if !damaged.is_empty() {
        return Err(CliError::CapsuleDamaged { items: damaged.join(", ") }.into());
    }
    context.output.remark(
        "A configuration names such a component by `adapter = { path = \"FILE\", digest = \"DIGEST\" }`. Relative paths in the \
         configuration count from its own folder.",
    );
    Ok(())
}

/// Opens the capsule of a point.
async fn open(vault: &Vault, group: &GroupName, point: PointChoice) -> Result<(PointReader, Capsule), Failure> {
    let lineage = super::lineage(vault, group).await?;
    let sequence = match super::chosen(point) {
        Some(sequence) => sequence,
        None => {
            let nothing = || FailoverError::NothingToRecover { group: group.clone() };
            lineage.head().await?.newest_point.ok_or_else(nothing)?
        }
    };
    let reader = lineage.open_point(sequence).await?;
    let items: Vec<Item> = reader.capsule()?.iter().map(Item::from).collect();
    if items.is_empty() {
        return Err(CliError::NoCapsule { group: group.to_string(), point: sequence }.into());
    }
    let capsule = Capsule {
        group: group.clone(),
        point: sequence,
        captured_at: reader.point().captured_at,
        machines: reader.point().machines.iter().map(|held| held.machine.clone()).collect(),
        items,
    };
    Ok((reader, capsule))
}

/// The file of an item, below the folder. The vault has seen to it that the name is words of a-z, 0-9 and `-`; every file has an
/// ending, which no folder has.
fn file_of(name: &str, kind: &str) -> PathBuf {
    let ending = match kind {
        CONFIGURATION => "toml",
        COMPONENT => "wasm",
        _ => "bin",
    };
    PathBuf::from(format!("{name}.{ending}"))
}

/// Makes the new folder, closed to others: what is in it is as confidential as the disks.
fn make_folder(path: &Path) -> Result<(), CliError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(CliError::OutputExists { path: path.to_owned() })
        }
        Err(source) => Err(CliError::OutputFailed { path: path.to_owned(), source }),
    }
}

/// Writes a new file. A half-written one does not stay.
fn write_new(path: &Path, content: &[u8]) -> Result<(), CliError> {
    let failed = |source| CliError::OutputFailed { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        DirBuilder::new().mode(0o700).recursive(true).create(parent).map_err(failed)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(|source| {
        // Nobody takes a part of a component for a whole one.
        let _ = std::fs::remove_file(path);
        failed(source)
    })
}

fn render(capsule: &Capsule, now: Timestamp) -> String {
    let mut table = Table::new(&["ITEM", ">SIZE", "DIGEST", "DETAILS", "FILE"]);
    for Item { name, size_bytes, digest, details, file, problem, .. } in &capsule.items {
        let details: Vec<String> = details.iter().map(|(name, text)| format!("{name} {text}")).collect();
        let file = file.as_ref().map(|file| file.display().to_string());
        table.row([
            name.clone(),
            human::bytes(*size_bytes),
            digest.clone(),
            details.join(", "),
            file.or_else(|| problem.clone()).unwrap_or_default(),
        ]);
    }
    let Capsule { group, point, captured_at, machines, .. } = capsule;
    let captured = human::time_and_age(*captured_at, now);
    let machines: Vec<&str> = machines.iter().map(|machine| machine.id.as_str()).collect();
    format!("Point {point} of group {group}, captured {captured}: {}\n\n{}", machines.join(", "), table.render())
}
