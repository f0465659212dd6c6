//! What a file that reads well can still have wrong: names that lead nowhere, limits, contradictions.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use farshore_core::{
    AlertName, Consistency, CredentialName, GroupName, Hours, MachineId, SiteName, Timestamp, Timetable, Zone,
};
use farshore_plugin::Mode;
use farshore_telemetry::TelemetryTarget;
use farshore_vault::Address;

use super::{
    model::{Adapter, Alert, Document, Group, Host, OptionValue, SecretPlace, Site, Telemetry, Vault},
    places::{Part, Path, Places, place},
    problem::{Problem, closest, is_secret_key},
    reach::drill_reaches,
    read::literal_secret,
};

/// The most machines of a group: the limit of `wit/platform`.
const GROUP_MACHINES_MAX: usize = 256;
const WEEK_MILLISECONDS: i64 = 7 * 86_400_000;

/// The longest that a guest may be held: no guest's clients should think that it died.
const STALL_LIMIT_MAX: Duration = Duration::from_secs(30);

/// The most worker threads.
const WORKER_THREADS_MAX: u16 = 1024;

/// The most cycles at once: each holds some tens of MiB of memory.
const CONCURRENT_CYCLES_MAX: u16 = 1024;

/// The longest that cycles may go on when the daemon is stopped.
const DRAIN_LIMIT_MAX: Duration = Duration::from_secs(24 * 3_600);

/// The most bytes of the path of a Unix socket (`sun_path` of `unix(7)`, without the zero at its end).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Checks what serde cannot. `embedded` are the names of the adapters in this binary.
pub fn check(document: &Document, places: &Places, embedded: &[&str]) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_host(&document.host, places, &mut problems);
    match &document.vault {
        Some(vault) => check_vault(vault, places, &mut problems),
        None if places.contains(&place!["vault"]) => {}
        None => problems.push(
            Problem::error(0..0, "there is no [vault]: nothing says where recovery points are kept")
                .hint("add `[vault]` with `address = \"file:/srv/farshore-vault\"` and `passphrase-file = \"...\"`"),
        ),
    }
    for (name, site) in &document.sites {
        if let Adapter::Embedded(adapter) = &site.adapter
            && !embedded.contains(&adapter.as_str())
        {
            let span = places.value(&place!["sites", name.as_str(), "adapter"]);
            let hint = match closest(adapter, embedded.iter().copied()) {
                Some(meant) => format!("did you mean \"{meant}\"?"),
                None => format!(
                    "this binary has \"{}\"; another is named by `{{ path = \"...\", digest = \"blake3:...\" }}`",
                    embedded.join("\", \"")
                ),
            };
            problems.push(Problem::error(span, format!("there is no embedded adapter {adapter:?}")).hint(hint));
        }
        if let Some(count) = site.concurrent_cycles {
            let at = place!["sites", name.as_str(), "concurrent-cycles"];
            check_cycles(count, &at, places, &mut problems);
            let of_host = document.host.concurrent_cycles;
            if count > of_host {
                let message = format!("the host replicates at most {of_host} groups at once");
                let problem = Problem::warning(places.value(&at), message);
                problems.push(problem.hint("raise `concurrent-cycles` in [host], or write less here"));
            }
        }
        check_credentials(name, site, places, &mut problems);
        // A warning and not an error: an error would keep a failover from starting, on the day when it is needed.
        problems.extend(drill_reaches(name, &document.sites).iter().map(|shared| {
            let mut place = place!["sites", name.as_str(), "grants", "drill", shared.key];
            place.push(shared.at.clone());
            Problem::warning(places.value(&place), shared.to_string()).hint(shared.advice())
        }));
    }
    for (name, group) in &document.groups {
        check_group(name, group, places, &mut problems);
    }
    check_machines_of_two_groups(&document.groups, places, &mut problems);
    for (name, alert) in &document.alerts {
        check_alert(name, alert, places, &mut problems);
    }
    if let Some(telemetry) = &document.telemetry {
        check_telemetry(telemetry, places, &mut problems);
    }
    if !places.contains(&place!["groups"]) {
        problems.push(
            Problem::warning(0..0, "there are no groups: nothing is protected")
                .hint("add `[groups.NAME]` with `site`, `machines` and `rpo`"),
        );
    }
    problems
}

/// The credentials of a site, and the endpoints that name them.
fn check_credentials(name: &SiteName, site: &Site, places: &Places, problems: &mut Vec<Problem>) {
    for (credential, words) in &site.credentials {
        for (key, secret) in words.keyed_places() {
            if let SecretPlace::Env(variable) = secret {
                let place = place!["sites", name.as_str(), "credentials", credential.as_str(), key];
                problems.extend(check_variable(variable, places.value(&place)));
            }
        }
    }
    for mode in Mode::ALL {
        for (endpoint, grant) in &site.grants.for_mode(mode).endpoints {
            let at = |key: &str| {
                place!["sites", name.as_str(), "grants", mode.as_str(), "endpoints", endpoint.as_str(), key]
            };
            if let Some(why) = grant.contradiction() {
                problems.push(Problem::error(
                    places.value(&at("address")),
                    format!("the endpoint {endpoint} cannot be used: {why}"),
                ));
            }
            let Some(credential) = &grant.credential else { continue };
            if !places.contains(&place!["sites", name.as_str(), "credentials", credential.as_str()]) {
                let message = format!("site {name} has no credential \"{credential}\"");
                let problem = Problem::error(places.value(&at("credential")), message);
                let known = site.credentials.keys().map(CredentialName::as_str);
                problems.push(match closest(credential.as_str(), known) {
                    Some(meant) => problem.hint(format!("did you mean \"{meant}\"?")),
                    None => problem.hint(format!("add `[sites.{name}.credentials.{credential}]`")),
                });
            } else if grant.service.is_none() {
                let message = format!("the endpoint {endpoint} does not say which service \"{credential}\" signs for");
                let problem = Problem::error(places.value(&at("credential")), message);
                problems.push(problem.hint("add `service`, such as `service = \"ec2\"`"));
            }
        }
    }
}

fn check_host(host: &Host, places: &Places, problems: &mut Vec<Problem>) {
    if let Some(threads) = host.worker_threads
        && !(1..=WORKER_THREADS_MAX).contains(&threads)
    {
        let span = places.value(&place!["host", "worker-threads"]);
        problems
            .push(Problem::error(span, format!("{threads} worker threads are not between 1 and {WORKER_THREADS_MAX}")));
    }
    check_cycles(host.concurrent_cycles, &place!["host", "concurrent-cycles"], places, problems);
    for (index, site) in host.sites.iter().flatten().enumerate() {
        problems.extend(unknown_site(site.as_str(), &place!["host", "sites", index], places));
    }
    if host.drain_limit > DRAIN_LIMIT_MAX {
        let hours = DRAIN_LIMIT_MAX.as_secs() / 3_600;
        let message = format!("no cycle is waited for longer than {hours}h");
        problems.push(Problem::error(places.value(&place!["host", "drain-limit"]), message));
    }
    for (key, place) in host.listen.iter().flat_map(|listen| [("key", &listen.key), ("token", &listen.token)]) {
        if let SecretPlace::Env(variable) = place {
            problems.extend(check_variable(variable, places.value(&place!["host", "listen", key])));
        }
    }
    if let Some(socket) = &host.socket
        && socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX
    {
        let message = format!("the path of a socket has at most {SOCKET_PATH_BYTES_MAX} bytes");
        problems.push(Problem::error(places.value(&place!["host", "socket"]), message));
    }
}

fn check_cycles(count: u16, at: &Path, places: &Places, problems: &mut Vec<Problem>) {
    if !(1..=CONCURRENT_CYCLES_MAX).contains(&count) {
        let message = format!("{count} cycles at once are not between 1 and {CONCURRENT_CYCLES_MAX}");
        problems.push(Problem::error(places.value(at), message));
    }
}

fn check_vault(vault: &Vault, places: &Places, problems: &mut Vec<Problem>) {
    problems.extend(check_address(&vault.address, places.value(&place!["vault", "address"])));
    if vault.passphrase_file.is_some() && vault.passphrase_env.is_some() {
        problems.push(
            Problem::error(
                places.key(&place!["vault", "passphrase-env"]),
                "the passphrase is said to be in two places",
            )
            .hint("keep `passphrase-file` or `passphrase-env`, not both"),
        );
    }
    if let Some(variable) = &vault.passphrase_env {
        problems.extend(check_variable(variable, places.value(&place!["vault", "passphrase-env"])));
    }
    check_store(&place!["vault"], &vault.options, &vault.secrets, places, problems);
    if let Some(data) = &vault.data {
        let span = places.value(&place!["vault", "data", "address"]);
        problems.extend(check_address(&data.address, span.clone()));
        let folder = |address: &str| format!("{}/", address.trim_end_matches('/'));
        let (first, second) = (folder(&vault.address), folder(&data.address));
        if first.starts_with(&second) || second.starts_with(&first) {
            let problem = Problem::error(
                span,
                "the vault's data is at the address of its metadata, or one of them inside the other",
            );
            problems.push(problem.hint("leave [vault.data] out, or name another address"));
        }
        check_store(&place!["vault", "data"], &data.options, &data.secrets, places, problems);
    }
}

/// The options and secrets of the store whose table this is.
fn check_store(
    table: &[Part],
    options: &BTreeMap<String, OptionValue>,
    secrets: &BTreeMap<String, SecretPlace>,
    places: &Places,
    problems: &mut Vec<Problem>,
) {
    let below = |inner: &str, name: &str| {
        let inner = place![inner, name];
        table.iter().chain(&inner).cloned().collect::<Vec<Part>>()
    };
    for name in options.keys() {
        let place = below("options", name);
        if is_secret_key(name) {
            problems.push(literal_secret(&place, places.key(&place)));
        } else if secrets.contains_key(name) {
            let secrets = if table.len() == 1 { "[vault.secrets]" } else { "[vault.data.secrets]" };
            problems.push(Problem::error(places.key(&place), format!("`{name}` stands in {secrets} too")));
        }
    }
    for (name, secret) in secrets {
        if let SecretPlace::Env(variable) = secret {
            problems.extend(check_variable(variable, places.value(&below("secrets", name))));
        }
    }
}

fn check_address(address: &str, span: Range<usize>) -> Option<Problem> {
    // A name or key before an `@` is a secret, and the vault's own error would repeat it.
    if address.contains('@') {
        return Some(literal_secret(&place!["vault", "secret-access-key"], span));
    }
    match address.parse::<Address>() {
        Err(error) => Some(Problem::error(span, error.to_string())),
        Ok(Address::Memory { .. }) => {
            let problem = Problem::error(span, "a vault in memory is gone when the command ends");
            Some(problem.hint("write `file:/folder` or the address of an object store"))
        }
        Ok(_) => None,
    }
}

fn check_variable(name: &str, span: Range<usize>) -> Option<Problem> {
    let usable = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (!usable).then(|| {
        // What stands here may be the secret itself: it is not repeated.
        Problem::error(span, "this cannot be the name of an environment variable")
            .hint("write the variable's name, such as \"FARSHORE_PASSPHRASE\", not what it holds")
            .secret()
    })
}

fn check_group(name: &GroupName, group: &Group, places: &Places, problems: &mut Vec<Problem>) {
    let at = |key: &str| place!["groups", name.as_str(), key];
    if group.recovery_site.as_ref() == Some(&group.site) {
        let span = places.value(&at("recovery-site"));
        problems.push(
            Problem::warning(span, format!("group {name} is recovered at the site where it runs"))
                .hint("what destroys the site destroys both; a recovery site is better elsewhere"),
        );
    }
    check_machines(name, &group.machines, &at("machines"), places, problems);
    if let Some(retention) = group.retention
        && retention.all < group.rpo
    {
        let span = places.value(&place!["groups", name.as_str(), "retention", "all"]);
        problems.push(
            Problem::error(span, "points are given up faster than they are made")
                .hint("keep all for at least as long as `rpo`"),
        );
    }
    if let Some(every) = group.application_every {
        let span = || places.value(&at("application-every"));
        if group.consistency == Consistency::Application {
            let problem = Problem::error(span(), "all points are application-consistent already");
            problems.push(problem.hint("leave `application-every` out, or `consistency = \"application\"`"));
        } else if every < group.rpo {
            problems.push(Problem::error(span(), "points cannot be application-consistent more often than they come"));
        }
    }
    if is_always(&group.blackout) {
        let message = "no hour of the week is left, and no cycle would ever begin";
        problems.push(Problem::error(places.value(&at("blackout")), message));
    }
    if group.stall_limit > STALL_LIMIT_MAX {
        let seconds = STALL_LIMIT_MAX.as_secs();
        problems
            .push(Problem::error(places.value(&at("stall-limit")), format!("no guest is held longer than {seconds}s")));
    }
}

/// Whether these hours leave none of a week out.
fn is_always(hours: &[Hours]) -> bool {
    let timetable = Timetable::new(Zone::utc(), hours.iter().map(|hours| (*hours, ())).collect());
    let (mut at, end) = (Timestamp::from_unix_milliseconds(0), Timestamp::from_unix_milliseconds(WEEK_MILLISECONDS));
    loop {
        if timetable.at(at).is_none() {
            return false;
        }
        match timetable.next_change(at) {
            Some(next) if next < end => at = next,
            _ => return true,
        }
    }
}

fn check_alert(name: &AlertName, alert: &Alert, places: &Places, problems: &mut Vec<Problem>) {
    let at = |key: &str| -> Path {
        let keys = key.split('.').filter(|key| !key.is_empty()).map(Part::from);
        place!["alerts", name.as_str()].into_iter().chain(keys).collect()
    };
    let rule = alert.rule();
    problems.extend(rule.problems().into_iter().map(|(key, message)| Problem::error(places.value(&at(key)), message)));
    for (index, group) in alert.groups.iter().enumerate() {
        let groups = place!["groups"];
        let known = places.names(&groups);
        if !known.contains(&group.as_str()) {
            let place: Path = at("groups").into_iter().chain([Part::Index(index)]).collect();
            let problem = Problem::error(places.value(&place), format!("there is no group {:?}", group.as_str()));
            problems.push(match closest(group.as_str(), known.iter().copied()) {
                Some(meant) => problem.hint(format!("did you mean {meant:?}?")),
                None => problem,
            });
        }
    }
    if let Some(SecretPlace::Env(variable)) = &alert.secret {
        problems.extend(check_variable(variable, places.value(&at("secret"))));
    }
    if let Some(mail) = &alert.mail
        && mail.user.is_some() != alert.secret.is_some()
    {
        let (has, lacks) = if mail.user.is_some() { ("user", "`secret`") } else { ("secret", "`user` in the mail") };
        let key = if mail.user.is_some() { "mail.user" } else { "secret" };
        let problem =
            Problem::error(places.value(&at(key)), format!("the mail server's {has} has no {lacks} beside it"));
        problems.push(problem.hint("a mail server that asks who sends wants both"));
    }
}

fn check_telemetry(telemetry: &Telemetry, places: &Places, problems: &mut Vec<Problem>) {
    for (key, message) in telemetry.traces.problems() {
        problems.push(Problem::error(places.value(&place!["telemetry", "traces", key]), message));
    }
    for (name, value) in &telemetry.headers {
        let at = place!["telemetry", "headers", name.as_str()];
        if let Some(message) = TelemetryTarget::header_problem(name) {
            problems.push(Problem::error(places.key(&at), message));
        }
        if let SecretPlace::Env(variable) = value {
            problems.extend(check_variable(variable, places.value(&at)));
        }
    }
}

/// Checks that groups name sites that are there. `references` are the places and the names, also of groups that have
/// other mistakes.
pub fn check_references(references: &[(Path, String)], places: &Places) -> Vec<Problem> {
    let right = references.iter().filter(|(_, site)| site.parse::<SiteName>().is_ok());
    right.filter_map(|(at, site)| unknown_site(site, at, places)).collect()
}

/// The problem of a name that no site has.
fn unknown_site(site: &str, at: &[Part], places: &Places) -> Option<Problem> {
    let sites = place!["sites"];
    let known = places.names(&sites);
    if known.contains(&site) {
        return None;
    }
    let problem = Problem::error(places.value(at), format!("there is no site {site:?}"));
    Some(match closest(site, known.iter().copied()) {
        Some(meant) => problem.hint(format!("did you mean {meant:?}?")),
        None if known.is_empty() => problem.hint(format!("add `[sites.{site}]`")),
        None => problem.hint(format!("the sites are \"{}\"; add `[sites.{site}]` for another", known.join("\", \""))),
    })
}

fn check_machines(name: &GroupName, machines: &[MachineId], at: &Path, places: &Places, problems: &mut Vec<Problem>) {
    if machines.is_empty() {
        let problem = Problem::error(places.value(at), format!("group {name} has no machines"));
        problems.push(problem.hint("`farshore machine discover` shows the machines of each site"));
    }
    if machines.len() > GROUP_MACHINES_MAX {
        let message = format!("group {name} has {} machines; it can have {GROUP_MACHINES_MAX}", machines.len());
        problems.push(Problem::error(places.value(at), message));
    }
    for (index, machine) in machines.iter().enumerate() {
        if machines.iter().take(index).any(|earlier| earlier == machine) {
            let place: Path = at.iter().cloned().chain([Part::Index(index)]).collect();
            problems.push(Problem::error(
                places.value(&place),
                format!("machine {:?} stands here twice", machine.as_str()),
            ));
        }
    }
}

fn check_machines_of_two_groups(groups: &BTreeMap<GroupName, Group>, places: &Places, problems: &mut Vec<Problem>) {
    let mut owners: BTreeMap<(&SiteName, &MachineId), &GroupName> = BTreeMap::new();
    for (name, group) in groups {
        for (index, machine) in group.machines.iter().enumerate() {
            let earlier = *owners.entry((&group.site, machine)).or_insert(name);
            if earlier != name {
                let span = places.value(&place!["groups", name.as_str(), "machines", index]);
                let message =
                    format!("machine {:?} is also in group {earlier}: it is read and stored twice", machine.as_str());
                problems.push(Problem::warning(span, message));
            }
        }
    }
}
