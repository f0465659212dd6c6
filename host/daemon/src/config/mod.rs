//! The configuration: `farshore.toml`.
//!
//! A configuration goes through four hands. [`read`] turns text into words and finds every mistake of syntax, keys and
//! types; [`check`] finds names that lead nowhere and contradictions; [`crate::adapters`] loads the adapters;
//! [`settings`] holds each site's settings against its adapter's schema. All of them report [`problem::Problem`]s with
//! the bytes that they are about, so that an operator sees everything at once, each at its line.
//!
//! Nothing here contacts a platform or a vault.

mod check;
pub mod difference;
pub mod model;
pub mod places;
pub mod problem;
pub mod reach;
pub mod read;
pub mod secret;
pub mod settings;
mod units;

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use farshore_core::{AlertName, GroupName, SiteName, Timetable};
use zeroize::Zeroizing;

pub use self::model::{Alert, Document, Group, Site, Telemetry, Vault};
use self::{
    model::SecretPlace,
    places::Places,
    problem::{LocatedProblem, Problem, Severity},
    secret::SecretError,
};
use crate::{adapters, error::CliError, output::Output};

pub use units::{format_duration, parse_bytes, parse_duration};

/// The most bytes of a configuration file.
const CONFIGURATION_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A configuration file that was read, right or wrong.
#[derive(Debug)]
pub struct Examined {
    /// What of it is right.
    pub document: Document,
    /// Where everything stands.
    pub places: Places,
    /// What is wrong.
    pub problems: Vec<Problem>,
    file: PathBuf,
    text: String,
}

impl Examined {
    /// Reads a file and finds what can be found without loading a component.
    ///
    /// # Errors
    /// When the file cannot be read at all.
    pub fn read(file: &Path) -> Result<Self, CliError> {
        let text = read_text(file)?;
        let reading = read::read(&text);
        let mut problems = reading.problems;
        problems.extend(check::check(&reading.document, &reading.places, &adapters::EMBEDDED_NAMES));
        problems.extend(check::check_references(&reading.site_references, &reading.places));
        Ok(Self { document: reading.document, places: reading.places, problems, file: file.to_owned(), text })
    }

    /// The problems in the file's order, each with its place.
    pub fn located(&self) -> Vec<LocatedProblem> {
        let mut problems = self.problems.clone();
        problems.sort_by_key(|problem| (problem.span.start, problem.severity));
        problems.dedup();
        let file = self.file.display().to_string();
        problems.into_iter().map(|problem| LocatedProblem::locate(problem, &file, &self.text)).collect()
    }

    /// What is right of it with these sites, for checks that go on though something is wrong. No command acts on it.
    pub fn preview(&self, sites: BTreeMap<SiteName, Site>) -> Configuration {
        let nowhere = || Vault {
            address: String::new(),
            kit_file: None,
            passphrase_file: None,
            passphrase_env: None,
            options: BTreeMap::new(),
            secrets: BTreeMap::new(),
            data: None,
            bandwidth: model::Bandwidth::default(),
        };
        Configuration {
            host: self.document.host.clone(),
            vault: self.document.vault.clone().unwrap_or_else(nowhere),
            sites,
            groups: self.document.groups.clone(),
            alerts: self.document.alerts.clone(),
            telemetry: self.document.telemetry.clone(),
            places: self.places.clone(),
            folder: folder_of(&self.file),
            file: self.file.clone(),
            text: self.text.clone(),
        }
    }

    /// The configuration, if nothing is wrong with it but warnings.
    ///
    /// # Errors
    /// All the problems.
    pub fn accept(self) -> Result<Configuration, CliError> {
        let errors = self.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
        let problems = self.located();
        match self.document {
            Document { host, vault: Some(vault), sites, groups, alerts, telemetry } if errors == 0 => {
                let folder = folder_of(&self.file);
                Ok(Configuration {
                    host,
                    vault,
                    sites,
                    groups,
                    alerts,
                    telemetry,
                    places: self.places,
                    folder,
                    file: self.file,
                    text: self.text,
                })
            }
            _ => Err(CliError::ConfigurationWrong { file: self.file, errors, problems }),
        }
    }
}

/// A configuration that can be used.
#[derive(Debug)]
pub struct Configuration {
    /// This host.
    pub host: model::Host,
    /// The vault.
    pub vault: Vault,
    /// The sites.
    pub sites: BTreeMap<SiteName, Site>,
    /// The groups.
    pub groups: BTreeMap<GroupName, Group>,
    /// Who is told what happens.
    pub alerts: BTreeMap<AlertName, Alert>,
    /// Who takes traces.
    pub telemetry: Option<Telemetry>,
    /// Where everything stands.
    pub places: Places,
    folder: PathBuf,
    file: PathBuf,
    text: String,
}

impl Configuration {
    /// What a machine has that has nothing but this program and the arguments of a command: a vault. Paths count from the
    /// folder in which the command runs.
    pub fn of_vault(vault: Vault) -> Self {
        let file = PathBuf::from("the command line");
        Self {
            host: model::Host::default(),
            vault,
            sites: BTreeMap::new(),
            groups: BTreeMap::new(),
            alerts: BTreeMap::new(),
            telemetry: None,
            places: Places::default(),
            folder: folder_of(&file),
            file,
            text: String::new(),
        }
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it cannot be read, or has problems.
    pub fn load(file: &Path) -> Result<Self, CliError> {
        Examined::read(file)?.accept()
    }

    /// The file that it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The text of the file, as it was read.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether this host replicates the groups of a site.
    pub fn serves(&self, site: &SiteName) -> bool {
        self.host.sites.as_ref().is_none_or(|sites| sites.contains(site))
    }

    /// The groups that this host replicates.
    pub fn served_groups(&self) -> impl Iterator<Item = (&GroupName, &Group)> {
        self.groups.iter().filter(|(_, group)| self.serves(&group.site))
    }

    /// Where the daemon listens for commands of this machine.
    pub fn socket(&self) -> PathBuf {
        match &self.host.socket {
            Some(socket) => self.path(socket),
            None => self.path(&self.host.state_folder).join("farshore.sock"),
        }
    }

    /// When no cycle of a group begins.
    pub fn blackout(&self, group: &Group) -> Timetable<()> {
        let hours = group.blackout.iter().map(|hours| (*hours, ()));
        Timetable::new(self.host.time_zone.clone(), hours.collect())
    }

    /// Where points wait while the vault cannot be reached.
    pub fn spool_folder(&self) -> PathBuf {
        match &self.host.spool.folder {
            Some(folder) => self.path(folder),
            None => self.path(&self.host.state_folder).join("spool"),
        }
    }

    /// A path of the configuration: a relative one counts from the folder of the file.
    pub fn path(&self, written: &Path) -> PathBuf {
        self.folder.join(written)
    }

    /// What a secret's place holds, all of it. The operator hears if others can read its file.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn secret(&self, output: Output, place: &SecretPlace) -> Result<Zeroizing<String>, SecretError> {
        match place {
            SecretPlace::Env(variable) => secret::read_variable(variable),
            SecretPlace::File(file) => {
                let read = secret::read_file(&self.path(file))?;
                read.warning.iter().for_each(|warning| output.warn(warning));
                Ok(read.secret)
            }
        }
    }

    /// The error for problems that were found after the file was accepted, such as settings that an adapter refuses.
    pub fn refuse(&self, problems: Vec<Problem>) -> CliError {
        let file = self.file.display().to_string();
        let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
        let problems = problems.into_iter().map(|problem| LocatedProblem::locate(problem, &file, &self.text)).collect();
        CliError::ConfigurationWrong { file: self.file.clone(), errors, problems }
    }

    /// A group by its name.
    ///
    /// # Errors
    /// With the names that there are.
    pub fn group(&self, name: &GroupName) -> Result<&Group, CliError> {
        self.groups
            .get(name)
            .ok_or_else(|| CliError::unknown("group", name.as_str(), self.groups.keys().map(GroupName::as_str)))
    }

    /// A site by its name.
    ///
    /// # Errors
    /// With the names that there are.
    pub fn site(&self, name: &SiteName) -> Result<&Site, CliError> {
        self.sites
            .get(name)
            .ok_or_else(|| CliError::unknown("site", name.as_str(), self.sites.keys().map(SiteName::as_str)))
    }
}

fn folder_of(file: &Path) -> PathBuf {
    let folder = file.parent().unwrap_or(Path::new(""));
    // Components refuse relative paths in grants; a path that this host uses itself is made absolute here.
    std::path::absolute(folder).or_else(|_| std::env::current_dir()).unwrap_or_else(|_| folder.to_owned())
}

fn read_text(file: &Path) -> Result<String, CliError> {
    let unreadable = |source| CliError::ConfigurationUnreadable { file: file.to_owned(), source };
    let mut text = String::new();
    let mut limited = File::open(file).map_err(unreadable)?.take(CONFIGURATION_BYTES_MAX + 1);
    limited.read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > CONFIGURATION_BYTES_MAX {
        return Err(unreadable(std::io::Error::other("it is larger than 4 MiB")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
