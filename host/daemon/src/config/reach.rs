//! What a drill could reach that is not a drill's.
//!
//! After a failover the recovery site *is* production: its folders hold production's disks, and its control sockets are
//! production's. So the folders and sockets that are granted to a drill should be none of those that are granted to a
//! live run. They are compared as they are written: a link that leads from one folder into another is not seen here.
//!
//! Where drills and others ask one API, what keeps them apart is the credential: two that are the same can do the same. An
//! account can be source and target at once, so that a drill's is compared with those of all sites, and with those that
//! protect.

use std::{collections::BTreeMap, fmt, path::Path};

use farshore_core::SiteName;
use farshore_http::EndpointGrant;
use farshore_plugin::{Access, Grants, Mode, NbdPattern, PathPattern};

use super::{model::Site, places::Part};

/// A grant of a drill that meets one of another mode.
#[derive(Debug, PartialEq, Eq)]
pub struct Shared {
    site: SiteName,
    /// The key of the drill's grant.
    pub key: &'static str,
    /// Its place there: in a list, from 0, or in a table, by its name.
    pub at: Part,
    drill: String,
    /// Whether it is a grant of an API whose requests are signed.
    is_signed: bool,
    /// The site and the mode whose grant it meets, and that grant.
    met: (SiteName, Mode, String),
}

impl fmt::Display for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { site, drill, met: (met_site, mode, met), .. } = self;
        write!(formatter, "a drill at site {site} could reach ")?;
        match (mode, site == met_site) {
            (Mode::Live, true) => formatter.write_str("what a failover started there")?,
            (Mode::Live, false) => write!(formatter, "what a failover reaches at site {met_site}")?,
            (_, true) => formatter.write_str("what is protected there")?,
            (_, false) => write!(formatter, "what is protected at site {met_site}")?,
        }
        if drill == met && (site == met_site || !self.is_signed) {
            write!(formatter, ": both may use {drill}")
        } else if self.is_signed {
            write!(formatter, ": `drill` may use {drill}, and `{}` {met}, which has the same keys", mode.as_str())
        } else {
            write!(formatter, ": `drill` may use {drill}, and `{}` {met}", mode.as_str())
        }
    }
}

impl Shared {
    /// What to do about it.
    pub fn advice(&self) -> String {
        let site = &self.site;
        if self.key == ENDPOINTS {
            format!(
                "give drills a credential of their own in [sites.{site}.credentials], one that cannot touch what it did not \
                 make, and name it in [sites.{site}.grants.drill.endpoints]"
            )
        } else {
            format!(
                "give drills folders of their own in [sites.{site}.settings-in.drill], and grant only those in \
                 [sites.{site}.grants.drill]"
            )
        }
    }
}

/// The key of the APIs that are granted.
const ENDPOINTS: &str = "endpoints";

/// The grants of drills at a site that meet what is granted otherwise, each with the first that it meets.
pub fn drill_reaches(name: &SiteName, sites: &BTreeMap<SiteName, Site>) -> Vec<Shared> {
    let Some(site) = sites.get(name) else { return Vec::new() };
    let live = reaches(&site.grants.live);
    // What a drill may only read it cannot harm.
    let drill = reaches(&site.grants.drill).into_iter().filter(|reach| reach.access == Access::ReadWrite);
    let paths = drill.filter_map(|drill| {
        let live = live.iter().find(|live| live.meets(&drill))?;
        Some(Shared {
            site: name.clone(),
            key: drill.key,
            at: Part::Index(drill.index),
            is_signed: false,
            met: (name.clone(), Mode::Live, live.path.clone()),
            drill: drill.path,
        })
    });
    paths.chain(shared_endpoints(name, site, sites)).collect()
}

/// The APIs that a drill asks with the keys of another mode, or without any at the same address. With the same keys the
/// address does not matter: one service has many, by region and by kind.
fn shared_endpoints<'a>(
    name: &'a SiteName,
    site: &'a Site,
    sites: &'a BTreeMap<SiteName, Site>,
) -> impl Iterator<Item = Shared> + 'a {
    site.grants.drill.endpoints.iter().filter_map(move |(endpoint, drill)| {
        let own = sites.iter().filter(|(other, _)| *other == name);
        let all = own.chain(sites.iter().filter(|(other, _)| *other != name));
        let mut met = all.flat_map(|(other, site)| {
            let of =
                move |mode| site.grants.for_mode(mode).endpoints.values().map(move |grant| (other, site, mode, grant));
            of(Mode::Live).chain(of(Mode::Protect))
        });
        let (other, _, mode, grant) = met.find(|(_, other, _, grant)| have_same_keys((site, drill), (other, grant)))?;
        let told = |grant: &EndpointGrant| match &grant.credential {
            Some(credential) => format!("the credential \"{credential}\""),
            None => format!("{} without a credential", grant.address),
        };
        let met = (other.clone(), mode, told(grant));
        Some(Shared {
            site: name.clone(),
            key: ENDPOINTS,
            at: Part::from(endpoint.as_str()),
            is_signed: drill.credential.is_some(),
            drill: told(drill),
            met,
        })
    })
}

/// Whether two grants are signed with the same keys. They are compared by where they are found, as it is written.
fn have_same_keys((site, grant): (&Site, &EndpointGrant), (other_site, other): (&Site, &EndpointGrant)) -> bool {
    match (&grant.credential, &other.credential) {
        (None, None) => grant.address == other.address,
        (Some(name), Some(other_name)) => {
            let keys = site.credentials.get(name).zip(other_site.credentials.get(other_name));
            keys.is_some_and(|(keys, others)| keys.access_key_id == others.access_key_id)
        }
        _ => false,
    }
}

/// A path on this machine that a grant opens.
struct Reach {
    key: &'static str,
    index: usize,
    path: String,
    /// All that is below it is meant, too.
    is_folder: bool,
    access: Access,
}

fn reaches(grants: &Grants) -> Vec<Reach> {
    let socket = |key, index, path: &PathPattern| Reach {
        key,
        index,
        path: path.to_string(),
        is_folder: false,
        access: Access::ReadWrite,
    };
    let unix = grants.unix.iter().enumerate().map(|(index, pattern)| socket("unix", index, pattern));
    let nbd = grants.nbd.iter().enumerate().filter_map(|(index, pattern)| match pattern {
        NbdPattern::Unix(pattern) => Some(socket("nbd", index, pattern)),
        NbdPattern::Tcp(_) => None,
    });
    let files = grants.files.iter().enumerate().map(|(index, granted)| Reach {
        key: "files",
        index,
        path: granted.folder.display().to_string(),
        is_folder: true,
        access: granted.access,
    });
    unix.chain(nbd).chain(files).collect()
}

impl Reach {
    fn names(&self) -> Vec<&str> {
        self.path.split('/').filter(|name| !name.is_empty()).collect()
    }

    /// Whether there can be a path that both mean.
    fn meets(&self, other: &Self) -> bool {
        let (own, others) = (self.names(), other.names());
        (self.is_folder || own.len() >= others.len())
            && (other.is_folder || others.len() >= own.len())
            && own.iter().zip(&others).all(|(own, other)| names_meet(own, other))
    }
}

/// Whether there is a name that fits both patterns. Between two stars there is room for whatever the other pattern wants,
/// so that of two patterns with stars only what stands before the first and after the last star can disagree.
fn names_meet(one: &str, other: &str) -> bool {
    match (one.split_once('*'), other.split_once('*')) {
        (None, None) => one == other,
        (Some(_), None) => fits(one, other),
        (None, Some(_)) => fits(other, one),
        (Some((start, rest)), Some((other_start, other_rest))) => {
            let end = rest.rsplit('*').next().unwrap_or_default();
            let other_end = other_rest.rsplit('*').next().unwrap_or_default();
            (start.starts_with(other_start) || other_start.starts_with(start))
                && (end.ends_with(other_end) || other_end.ends_with(end))
        }
    }
}

/// Whether the sandbox would let this name pass for the pattern.
fn fits(pattern: &str, name: &str) -> bool {
    let pattern = format!("/{pattern}").parse::<PathPattern>();
    pattern.is_ok_and(|pattern| pattern.matches(Path::new(&format!("/{name}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of drills at the first of these sites.
    fn told(sites: &str) -> Vec<String> {
        let sites = toml::from_str(sites).expect("sites");
        let told = |shared: &Shared| match &shared.at {
            Part::Index(index) => format!("{} {index}: {shared}", shared.key),
            Part::Key(name) => format!("{} {name}: {shared}", shared.key),
        };
        drill_reaches(&"farm".parse().expect("a name"), &sites).iter().map(told).collect()
    }

    /// What is told of a drill's and a live run's grants.
    fn shared(drill: &str, live: &str) -> Vec<String> {
        let keys = |name: &str| {
            format!(
                "[farm.credentials.{name}]\nscheme = \"sigv4\"\nregion = \"r\"\naccess-key-id = {{ env = \"{name}\" }}\n\
                 secret-access-key = {{ env = \"{name}\" }}\n"
            )
        };
        let credentials = keys("drill") + &keys("recovery");
        told(&format!(
            "[farm]\nadapter = \"qemu\"\n{credentials}[farm.grants.drill]\n{drill}\n[farm.grants.live]\n{live}\n"
        ))
    }

    #[test]
    fn folders_and_sockets_that_meet_are_found() {
        let folder = |path: &str, access: &str| format!("files = [{{ folder = {path:?}, access = {access:?} }}]");
        let write = |path: &str| folder(path, "read-write");
        let unix = |path: &str| format!("unix = [{path:?}]");
        for (drill, live) in [
            (write("/srv/a"), write("/srv/a")),
            (write("/srv/a/drill"), write("/srv/a")),
            (write("/srv"), write("/srv/a")),
            (write("/"), write("/srv/a")),
            (write("/srv/a"), folder("/srv/a", "read-only")),
            (unix("/srv/*"), unix("/srv/*")),
            (unix("/srv/drill-*"), unix("/srv/*.qmp")),
            (unix("/srv/*.qmp"), unix("/srv/shop.qmp")),
            (unix("/srv/*/a.qmp"), write("/srv/a")),
            (write("/srv/a"), unix("/srv/*/a.qmp")),
            ("nbd = [\"unix:/srv/*\"]".to_owned(), unix("/srv/a")),
        ] {
            assert_eq!(shared(&drill, &live).len(), 1, "{drill} and {live}");
        }
        for (drill, live) in [
            (write("/srv/a"), write("/srv/ab")),
            (folder("/srv/a", "read-only"), write("/srv/a")),
            (unix("/srv/*"), unix("/srv/a/*")),
            (unix("/srv/*.qmp"), unix("/srv/*.agent")),
            (unix("/srv/drill-*"), unix("/srv/live-*")),
            (unix("/srv/*.qmp"), unix("/srv/shop.agent")),
            (unix("/srv/drill/*"), write("/srv/live")),
            ("tcp = [\"a:1\"]\nnbd = [\"tcp:a:1\"]".to_owned(), "tcp = [\"a:1\"]\nnbd = [\"tcp:a:1\"]".to_owned()),
            (String::new(), write("/srv/a")),
        ] {
            assert_eq!(shared(&drill, &live), Vec::<String>::new(), "{drill} and {live}");
        }
    }

    #[test]
    fn one_api_is_kept_apart_by_the_credential() {
        let endpoint = |credential: &str, address: &str| {
            format!("endpoints.ec2 = {{ address = \"https://{address}\", credential = \"{credential}\" }}")
        };
        let live = endpoint("recovery", "ec2.example.org");
        for address in ["ec2.example.org", "ec2.elsewhere.example.org"] {
            assert_eq!(
                shared(&endpoint("recovery", address), &live),
                ["endpoints ec2: a drill at site farm could reach what a failover started there: both may use the \
                     credential \"recovery\""]
            );
        }
        assert_eq!(shared(&endpoint("drill", "ec2.example.org"), &live), Vec::<String>::new());
        let unsigned = |address: &str| format!("endpoints.api = {{ address = \"https://{address}\" }}");
        assert_eq!(
            shared(&unsigned("api.example.org"), &unsigned("api.example.org")),
            ["endpoints api: a drill at site farm could reach what a failover started there: both may use \
                 https://api.example.org without a credential"]
        );
        assert_eq!(shared(&unsigned("drill.example.org"), &unsigned("api.example.org")), Vec::<String>::new());
    }

    #[test]
    fn a_drill_has_keys_of_its_own_wherever_others_are_named() {
        let site = |name: &str, mode: &str, credential: &str, file: &str| {
            format!(
                "[{name}]\nadapter = \"qemu\"\n[{name}.credentials.{credential}]\nscheme = \"sigv4\"\nregion = \"r\"\n\
                 access-key-id = {{ file = \"{file}\" }}\nsecret-access-key = {{ file = \"secret\" }}\n\
                 [{name}.grants.{mode}.endpoints.ec2]\naddress = \"https://{name}.example.org\"\n\
                 credential = \"{credential}\"\n"
            )
        };
        let drill = site("farm", "drill", "drill", "id");
        for (mode, what) in [("protect", "is protected"), ("live", "a failover reaches")] {
            assert_eq!(
                told(&(drill.clone() + &site("store", mode, "other", "id"))),
                [format!(
                    "endpoints ec2: a drill at site farm could reach what {what} at site store: `drill` may use the \
                     credential \"drill\", and `{mode}` the credential \"other\", which has the same keys"
                )]
            );
            assert_eq!(
                told(&(drill.clone() + &site("store", mode, "drill", "other"))),
                Vec::<String>::new(),
                "a name is no key"
            );
        }
        assert_eq!(told(&(drill.clone() + &site("store", "observe", "other", "id"))), Vec::<String>::new());
        let protect = "[farm.grants.protect.endpoints.ec2]\naddress = \"https://a\"\ncredential = \"drill\"\n";
        assert_eq!(
            told(&(drill + protect)),
            [
                "endpoints ec2: a drill at site farm could reach what is protected there: both may use the credential \"drill\""
            ]
        );
    }

    #[test]
    fn each_grant_of_the_drill_is_told_once_with_what_it_meets() {
        let live = "unix = [\"/srv/live/*\", \"/srv/*/a\"]";
        assert_eq!(
            shared("unix = [\"/srv/drill/*\", \"/srv/live/b\"]", live),
            [
                "unix 0: a drill at site farm could reach what a failover started there: `drill` may use /srv/drill/*, and `live` /srv/*/a",
                "unix 1: a drill at site farm could reach what a failover started there: `drill` may use /srv/live/b, and `live` /srv/live/*",
            ]
        );
        assert_eq!(
            shared("unix = [\"/srv/live/*\"]", live),
            ["unix 0: a drill at site farm could reach what a failover started there: both may use /srv/live/*"]
        );
    }
}
