//! `config check`: every mistake at once, and what the configuration allows. It contacts neither a platform nor a vault.

use std::collections::BTreeSet;

use farshore_core::{GroupName, MachineId, SiteName};
use farshore_plugin::{Mode, Wants};
use serde::Serialize;

use crate::{
    adapters::{Adapters, Loaded},
    api::client::Client,
    arguments::ConfigCommand,
    config::{
        Configuration, Examined, Site, format_duration,
        places::place,
        problem::{LocatedProblem, Problem, Severity},
    },
    context::Context,
    error::CliError,
    output::{Failure, Table},
};

#[derive(Serialize)]
struct Summary {
    file: String,
    vault: String,
    /// Where its data is, if that is another address.
    #[serde(skip_serializing_if = "Option::is_none")]
    vault_data: Option<String>,
    sites: Vec<SiteSummary>,
    groups: Vec<GroupSummary>,
    warnings: Vec<LocatedProblem>,
}

#[derive(Serialize)]
struct SiteSummary {
    site: SiteName,
    adapter: String,
    version: String,
    digest: String,
    wit: String,
    interfaces: Vec<&'static str>,
    grants: Vec<GrantSummary>,
}

#[derive(Serialize)]
struct GrantSummary {
    mode: Mode,
    kind: &'static str,
    what: String,
    /// It may amount to running programs with the host's power.
    trusted: bool,
}

#[derive(Serialize)]
struct GroupSummary {
    group: GroupName,
    site: SiteName,
    recovery_site: Option<SiteName>,
    machines: Vec<MachineId>,
    rpo: String,
}

/// Runs it.
pub async fn run(context: &Context, command: &ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check => check(context).await,
        ConfigCommand::Reload => reload(context).await,
    }
}

async fn reload(context: &Context) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let Some(daemon) = Client::find(&configuration).await? else {
        return Err(CliError::NoDaemon { socket: configuration.socket() }.into());
    };
    let report = context.until_stopped("the daemon goes on with what it does", daemon.reload()).await??;
    let render = || match &report.differences[..] {
        [] => "Nothing differs.\n".to_owned(),
        differences => differences.iter().map(|difference| format!("{difference}\n")).collect(),
    };
    context.output.result(&report, render)?;
    Ok(())
}

async fn check(context: &Context) -> Result<(), Failure> {
    let mut examined = Examined::read(&context.config_file)?;
    // Sites whose words are right are checked further, though something else in the file is wrong.
    let sites = std::mem::take(&mut examined.document.sites);
    let partial = examined.preview(sites.clone());
    let mut adapters = Adapters::new(context, &partial)?;
    let mut summaries = Vec::new();
    for (name, site) in &sites {
        if !is_known(site) {
            continue;
        }
        match adapters.load(&partial, name, site).await {
            Ok(loaded) => {
                examined.problems.extend(unused(&partial, name, site, loaded));
                examined.problems.extend(lopsided(&partial, name, site, loaded));
                summaries.push(summarise(name, site, loaded));
            }
            Err(problems) => examined.problems.extend(problems),
        }
        // What the file's own check has told already is not told again.
        let said = |problem: &Problem| problem.severity == Severity::Error;
        if !examined.problems.iter().any(said) {
            for mode in Mode::ALL {
                examined.problems.extend(adapters.endpoints(&partial, name, site, mode).err().unwrap_or_default());
            }
        }
    }
    examined.problems.extend(trusted_grants(&partial, &summaries));
    examined.document.sites = sites;
    let warnings: Vec<LocatedProblem> =
        examined.located().into_iter().filter(|problem| problem.severity == Severity::Warning).collect();
    let configuration = examined.accept()?;
    if !context.output.json {
        warnings.iter().for_each(|warning| context.output.remark(&warning.render()));
    }
    for warning in secret_warnings(&configuration) {
        context.output.warn(&warning);
    }
    let groups = configuration.groups.iter().map(|(name, group)| GroupSummary {
        group: name.clone(),
        site: group.site.clone(),
        recovery_site: group.recovery_site.clone(),
        machines: group.machines.clone(),
        rpo: format_duration(group.rpo),
    });
    let summary = Summary {
        file: configuration.file().display().to_string(),
        vault: configuration.vault.address.clone(),
        vault_data: configuration.vault.data.as_ref().map(|data| data.address.clone()),
        sites: summaries,
        groups: groups.collect(),
        warnings,
    };
    context.output.result(&summary, || render(&summary))?;
    Ok(())
}

/// Whether the adapter is one that can be loaded at all; else the file's own check has told already.
fn is_known(site: &Site) -> bool {
    match &site.adapter {
        crate::config::model::Adapter::Embedded(name) => crate::adapters::EMBEDDED_NAMES.contains(&name.as_str()),
        crate::config::model::Adapter::File(_) => true,
    }
}

fn summarise(name: &SiteName, site: &Site, loaded: &Loaded) -> SiteSummary {
    let mut grants = Vec::new();
    for mode in Mode::ALL {
        let granted = site.grants.for_mode(mode);
        let mut add = |kind, what: String, trusted| grants.push(GrantSummary { mode, kind, what, trusted });
        // A control socket such as QEMU's can start programs and open files as the process behind it.
        granted.unix.iter().for_each(|pattern| add("unix", pattern.to_string(), true));
        granted.tcp.iter().for_each(|address| add("tcp", address.to_string(), false));
        granted.nbd.iter().for_each(|pattern| add("nbd", pattern.to_string(), false));
        for folder in &granted.files {
            add("files", format!("{} ({})", folder.folder.display(), folder.access), false);
        }
        for (endpoint, grant) in &granted.endpoints {
            let signed = grant.credential.as_ref().map_or("not signed".to_owned(), |name| format!("signed by {name}"));
            add("endpoint", format!("{endpoint}: {} ({signed})", grant.address), false);
        }
        for (template, program) in site.programs.for_mode(mode) {
            add("program", format!("{template}: {}", program.program.display()), true);
        }
    }
    let manifest = loaded.component.manifest();
    SiteSummary {
        site: name.clone(),
        adapter: loaded.description.name.clone(),
        version: loaded.description.version.clone(),
        digest: loaded.component.digest().to_string(),
        wit: manifest.wit.clone(),
        interfaces: loaded.component.interfaces(),
        grants,
    }
}

/// Endpoints that the component asks in drills and in failovers, and that only one of the two is granted: what works in a drill
/// would not work on the day that drills are for.
fn lopsided(configuration: &Configuration, name: &SiteName, site: &Site, loaded: &Loaded) -> Vec<Problem> {
    let wants = &loaded.component.manifest().wants;
    let wanted =
        |endpoint: &str| [Mode::Drill, Mode::Live].map(|mode| wants.for_mode(mode).endpoints.contains(endpoint));
    let mut problems = Vec::new();
    for (mode, other) in [(Mode::Drill, Mode::Live), (Mode::Live, Mode::Drill)] {
        let (granted, lacking) = (&site.grants.for_mode(mode).endpoints, &site.grants.for_mode(other).endpoints);
        // A site that is granted nothing in one of them is not meant for it.
        if lacking.is_empty() {
            continue;
        }
        for endpoint in granted.keys().filter(|endpoint| !lacking.contains_key(*endpoint)) {
            if wanted(endpoint.as_str()) == [true, true] {
                let place = place!["sites", name.as_str(), "grants", mode.as_str(), "endpoints", endpoint.as_str()];
                let message =
                    format!("the adapter asks the endpoint {endpoint} in mode {other} too, which is not granted it");
                let problem = Problem::warning(configuration.places.key(&place), message);
                let hint = format!(
                    "grant it below [sites.{name}.grants.{other}.endpoints], or see that its settings do not need it there"
                );
                problems.push(problem.hint(hint));
            }
        }
    }
    problems
}

/// Grants and templates that the component's manifest does not ask for: they do nothing, and may be a slip.
fn unused(configuration: &Configuration, name: &SiteName, site: &Site, loaded: &Loaded) -> Vec<Problem> {
    let manifest = loaded.component.manifest();
    let mut problems = Vec::new();
    for mode in Mode::ALL {
        let wants: &Wants = manifest.wants.for_mode(mode);
        let granted = site.grants.for_mode(mode);
        let files = granted.files.iter().any(|folder| wants.files.is_none_or(|wanted| folder.access > wanted));
        let idle = [
            ("unix", !granted.unix.is_empty() && !wants.unix),
            ("tcp", !granted.tcp.is_empty() && !wants.tcp),
            ("nbd", !granted.nbd.is_empty() && !wants.nbd),
            ("files", files),
        ];
        for (kind, _) in idle.into_iter().filter(|(_, idle)| *idle) {
            let place = place!["sites", name.as_str(), "grants", mode.as_str(), kind];
            let message =
                format!("the adapter {} does not ask for this in mode {mode}: it does nothing", manifest.name);
            problems.push(Problem::warning(configuration.places.key(&place), message));
        }
        for endpoint in granted.endpoints.keys().filter(|endpoint| !wants.endpoints.contains(endpoint.as_str())) {
            let place = place!["sites", name.as_str(), "grants", mode.as_str(), "endpoints", endpoint.as_str()];
            let message = format!("the adapter {} asks no endpoint {endpoint} in mode {mode}", manifest.name);
            let problem = Problem::warning(configuration.places.key(&place), message);
            let known: Vec<&str> = wants.endpoints.iter().map(String::as_str).collect();
            problems.push(match known.is_empty() {
                true => problem,
                false => problem.hint(format!("it asks \"{}\"", known.join("\", \""))),
            });
        }
        let templates: BTreeSet<&String> = site.programs.for_mode(mode).keys().collect();
        for template in templates.into_iter().filter(|template| !wants.programs.contains(*template)) {
            let place = place!["sites", name.as_str(), "programs", mode.as_str(), template.as_str()];
            let message = format!("the adapter {} runs no program {template:?} in mode {mode}", manifest.name);
            let problem = Problem::warning(configuration.places.key(&place), message);
            let known: Vec<&str> = wants.programs.iter().map(String::as_str).collect();
            problems.push(match known.is_empty() {
                true => problem,
                false => problem.hint(format!("it runs \"{}\"", known.join("\", \""))),
            });
        }
    }
    problems
}

/// One warning for each site and mode that may amount to running programs.
fn trusted_grants(configuration: &Configuration, sites: &[SiteSummary]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for site in sites {
        for mode in Mode::ALL {
            let trusted = |kind| site.grants.iter().any(|grant| grant.mode == mode && grant.kind == kind);
            let (word, key, what) = match (trusted("program"), trusted("unix")) {
                (true, _) => ("programs", "programs", "run programs"),
                (false, true) => ("grants", "unix", "use control sockets, which can amount to running programs"),
                (false, false) => continue,
            };
            let mut place = place!["sites", site.site.as_str(), word, mode.as_str()];
            if key == "unix" {
                place.push(key.into());
            }
            let message = format!("trusted: in mode {mode} the adapter of site {} may {what}", site.site);
            problems.push(Problem::warning(configuration.places.key(&place), message));
        }
    }
    problems
}

/// Files with secrets that others can read.
fn secret_warnings(configuration: &Configuration) -> Vec<String> {
    use std::os::unix::fs::MetadataExt as _;

    use crate::config::{
        model::{Credential, SecretPlace},
        secret::permission_warning,
    };
    let vault = &configuration.vault;
    let data_secrets = vault.data.iter().flat_map(|data| data.secrets.values());
    let credentials = configuration.sites.values().flat_map(|site| site.credentials.values());
    let keys = credentials.flat_map(Credential::places);
    let secrets = vault.secrets.values().chain(data_secrets).chain(keys).filter_map(|place| match place {
        SecretPlace::File(path) => Some(path),
        SecretPlace::Env(_) => None,
    });
    let is_kit = |path: &std::path::Path| vault.kit_file.as_ref().is_some_and(|kit| configuration.path(kit) == *path);
    let files = vault.kit_file.iter().chain(&vault.passphrase_file).chain(secrets).map(|path| configuration.path(path));
    files
        .filter_map(|path| match std::fs::metadata(&path) {
            Ok(metadata) => permission_warning(&path, metadata.mode()),
            // `vault create` makes the kit; a copy may be elsewhere on purpose.
            Err(error) if is_kit(&path) && error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => Some(format!("{} cannot be read: {error}", path.display())),
        })
        .collect()
}

fn render(summary: &Summary) -> String {
    let mut text = format!("{} is right.\n\nvault  {}\n", summary.file, summary.vault);
    if let Some(data) = &summary.vault_data {
        text.push_str(&format!("data   {data}\n"));
    }
    let mut sites = Table::new(&["SITE", "ADAPTER", "VERSION", "WIT", "CAN", "DIGEST"]);
    let mut grants = Table::new(&["SITE", "MODE", "MAY USE", "WHAT", ""]);
    for site in &summary.sites {
        let digest: String = site.digest.chars().take("blake3:".len() + 16).collect();
        sites.row([
            site.site.to_string(),
            site.adapter.clone(),
            site.version.clone(),
            site.wit.clone(),
            site.interfaces.join(", "),
            digest,
        ]);
        for grant in &site.grants {
            let trusted = if grant.trusted { "trusted" } else { "" };
            grants.row([
                site.site.to_string(),
                grant.mode.to_string(),
                grant.kind.to_owned(),
                grant.what.clone(),
                trusted.to_owned(),
            ]);
        }
    }
    let mut groups = Table::new(&["GROUP", "SITE", "RECOVERED AT", "RPO", "MACHINES"]);
    for group in &summary.groups {
        let machines: Vec<&str> = group.machines.iter().map(MachineId::as_str).collect();
        groups.row([
            group.group.to_string(),
            group.site.to_string(),
            group.recovery_site.as_ref().map_or("nowhere yet".to_owned(), SiteName::to_string),
            group.rpo.clone(),
            machines.join(", "),
        ]);
    }
    for table in [&sites, &groups, &grants].into_iter().filter(|table| !table.is_empty()) {
        text.push('\n');
        text.push_str(&table.render());
    }
    text
}
