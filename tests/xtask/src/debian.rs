//! Installs the Debian packages that a command needs, without surprising the machine's owner.
//!
//! Nothing is done when nothing is missing: asking dpkg takes some 10 ms, so that a second call starts at once. What is
//! missing is simulated first; a plan that removes or downgrades a package stops here and names it, unless the operator
//! said `--yes`. Someone who is not root gets the exact command. On another system than Debian the missing programs are
//! named, because package names would be a guess.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;

/// One solution of apt may displace a package that is needed as well, which the next round brings back.
const ROUNDS_MAX: usize = 3;

/// A Debian package, and how to tell on any other system that it is not needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name in Debian 12.
    pub name: String,
    /// A program that it brings, or the absolute path of a file.
    pub brings: &'static str,
    /// What it is for, in a few words.
    pub purpose: &'static str,
}

/// Why this program stopped before it changed anything; the operator has to act. All of them end with exit status 2.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// Packages are missing, and we may not install them.
    #[error("missing packages: {}\nhint: run as root: {command}", names.join(" "))]
    NotRoot {
        /// The packages.
        names: Vec<String>,
        /// What root has to type.
        command: String,
    },
    /// Installing would cost the operator something.
    #[error(
        "apt would {}\nhint: run the command again with --yes if that is all right; the exact command is: {command}",
        costs(removed, downgraded)
    )]
    Costs {
        /// What would be removed.
        removed: Vec<String>,
        /// What would be replaced by an older version.
        downgraded: Vec<String>,
        /// What would be run.
        command: String,
    },
    /// This is not Debian, and something is not there.
    #[error("missing on this system: {}\nhint: install them; this program only installs packages on Debian", tools.join(", "))]
    OtherSystem {
        /// Programs and files, with what they are for.
        tools: Vec<String>,
    },
    /// Something that is no package is missing.
    #[error("{what} is missing\nhint: {hint}")]
    Missing {
        /// What it is.
        what: String,
        /// How to get it.
        hint: String,
    },
}

fn costs(removed: &[String], downgraded: &[String]) -> String {
    let mut parts = Vec::new();
    if !removed.is_empty() {
        parts.push(format!("remove {}", removed.join(" ")));
    }
    if !downgraded.is_empty() {
        parts.push(format!("downgrade {}", downgraded.join(" ")));
    }
    parts.join(" and ")
}

/// What apt would do.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// New packages and upgrades.
    installed: Vec<String>,
    removed: Vec<String>,
    downgraded: Vec<String>,
}

/// Makes sure that all of these packages are installed. `why` says which command asks, for the operator.
///
/// With `allow_costs` (the operator's `--yes`), packages may be removed or downgraded. The error is a [`Stop`] when the
/// operator has to act.
pub fn ensure(packages: &[Package], why: &str, allow_costs: bool) -> Result<()> {
    if !is_debian(&fs::read_to_string("/etc/os-release").unwrap_or_default()) {
        return ensure_tools(packages);
    }
    for round in 0..ROUNDS_MAX {
        let missing = missing(packages)?;
        if missing.is_empty() {
            return ensure_lists();
        }
        install(&missing, why, allow_costs, round == 0)?;
    }
    let names = missing(packages)?;
    anyhow::ensure!(
        names.is_empty(),
        "apt-get succeeded, and these packages are still not installed: {}",
        list(&names)
    );
    Ok(())
}

/// The guest of the demonstration and the tests is made of packages that are downloaded and not installed. That takes
/// package lists, which container images are delivered without.
fn ensure_lists() -> Result<()> {
    let listed = fs::read_dir("/var/lib/apt/lists")
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("_Packages")));
    if listed {
        return Ok(());
    }
    if !is_root()? {
        let hint = "run as root: apt-get update".to_owned();
        return Err(Stop::Missing { what: "every list of Debian's packages".to_owned(), hint }.into());
    }
    eprintln!("Refreshing the package lists (apt-get update).");
    process::run("apt-get update", &mut apt_get(&["--quiet=2", "update"], &[]))
}

fn ensure_tools(packages: &[Package]) -> Result<()> {
    let there = |brings: &str| match brings.starts_with('/') {
        true => fs::exists(brings).unwrap_or(false),
        false => process::find_program(brings).is_some(),
    };
    let tools: Vec<String> = packages
        .iter()
        .filter(|package| !there(package.brings))
        .map(|package| format!("{} ({}; Debian's package {})", package.brings, package.purpose, package.name))
        .collect();
    if tools.is_empty() { Ok(()) } else { Err(Stop::OtherSystem { tools }.into()) }
}

fn install(missing: &[&Package], why: &str, allow_costs: bool, refresh: bool) -> Result<()> {
    let names: Vec<String> = missing.iter().map(|package| package.name.clone()).collect();
    let command = || apt_get(&["install", "--yes", "--no-install-recommends", "--allow-downgrades"], &names);
    let mut by_hand = vec!["apt-get install --no-install-recommends".to_owned()];
    by_hand.extend(names.iter().cloned());
    let by_hand = by_hand.join(" ");
    if !is_root()? {
        return Err(Stop::NotRoot { names, command: format!("apt-get update && {by_hand}") }.into());
    }
    eprintln!("{why} needs Debian packages that are not installed:");
    for package in missing {
        eprintln!("  {:<18} {}", package.name, package.purpose);
    }
    if refresh {
        eprintln!("Refreshing the package lists (apt-get update).");
        if let Err(error) = process::run("apt-get update", &mut apt_get(&["--quiet=2", "update"], &[])) {
            eprintln!("{error}; going on with the lists that are there");
        }
    }
    let mut simulation = command();
    let output = simulation.arg("--simulate").output().context("starting apt-get")?;
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        process::succeeded("working out what apt would do", &simulation, output.status)?;
    }
    let plan = parse_plan(&String::from_utf8_lossy(&output.stdout));
    let costs_something = !plan.removed.is_empty() || !plan.downgraded.is_empty();
    if costs_something && !allow_costs {
        return Err(Stop::Costs { removed: plan.removed, downgraded: plan.downgraded, command: by_hand }.into());
    }
    if costs_something {
        eprintln!("As --yes allows, apt will {}.", costs(&plan.removed, &plan.downgraded));
    }
    eprintln!("Installing {} packages, with what they depend on; that takes a minute or two.", plan.installed.len());
    process::run_quietly("installing packages", &mut command())
}

fn apt_get(options: &[&str], names: &[String]) -> Command {
    let mut command = Command::new("apt-get");
    // The parser reads English, and nobody is there to answer questions.
    command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive").stdin(std::process::Stdio::null());
    command.args(["-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0"]).args(options).args(names);
    command
}

/// The packages of the list that dpkg does not call installed.
fn missing(packages: &[Package]) -> Result<Vec<&Package>> {
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"]);
    query.args(packages.iter().map(|package| &package.name));
    // Its status is 1 when it has never heard of one of them, which is an answer and no failure.
    let output = query.output().context("starting dpkg-query")?;
    let installed = parse_installed(&String::from_utf8_lossy(&output.stdout));
    Ok(packages.iter().filter(|package| !installed.contains(&package.name)).collect())
}

fn parse_installed(listing: &str) -> BTreeSet<String> {
    listing.lines().filter_map(|line| line.strip_suffix(" installed")).map(str::to_owned).collect()
}

/// Reads the output of `apt-get --simulate install`. Names come with an `:arch` where apt prints one.
///
/// `Inst` and `Remv` lines are the plan itself. That a version is older is only said in the summary above them: a
/// heading, and names on indented lines, each followed by `*` or by nothing.
fn parse_plan(output: &str) -> Plan {
    let mut plan = Plan::default();
    let mut downgrading = false;
    for line in output.lines() {
        if let Some(names) = line.strip_prefix("  ") {
            if downgrading {
                plan.downgraded.extend(names.split_whitespace().map(|name| name.trim_end_matches('*').to_owned()));
            }
            continue;
        }
        downgrading = line.starts_with("The following packages will be DOWNGRADED");
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("Inst"), Some(name)) => plan.installed.push(name.to_owned()),
            (Some("Remv" | "Purg"), Some(name)) => plan.removed.push(name.to_owned()),
            _ => {}
        }
    }
    plan.removed.dedup();
    plan
}

/// Whether the text of `/etc/os-release` is that of Debian itself. Derivatives name packages differently.
fn is_debian(os_release: &str) -> bool {
    os_release
        .lines()
        .any(|line| line.trim_end().trim_start_matches("ID=").trim_matches('"') == "debian" && line.starts_with("ID="))
}

fn is_root() -> Result<bool> {
    let answer = process::answer(Command::new("id").arg("-u")).context("asking who we are: id -u failed")?;
    Ok(answer.trim() == "0")
}

fn list(packages: &[&Package]) -> String {
    packages.iter().map(|package| package.name.as_str()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
