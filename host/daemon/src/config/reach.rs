//! Whether a drill could reach what a failover started at the same site.
//!
//! After a failover the recovery site *is* production: its folders hold production's disks, and its control sockets are
//! production's. So the folders and sockets that are granted to a drill should be none of those that are granted to a
//! live run. They are compared as they are written: a link that leads from one folder into another is not seen here.
//!
//! Where drills and live runs ask one API, what keeps them apart is the credential: two that are the same can do the same.

use std::{fmt, path::Path};

use farshore_core::SiteName;
use farshore_http::EndpointGrant;
use farshore_plugin::{Access, Grants, NbdPattern, PathPattern, SiteGrants};

use super::places::Part;

/// A grant of a drill that meets one of a live run.
#[derive(Debug, PartialEq, Eq)]
pub struct Shared {
    site: SiteName,
    /// The key of the drill's grant.
    pub key: &'static str,
    /// Its place there: in a list, from 0, or in a table, by its name.
    pub at: Part,
    drill: String,
    live: String,
}

impl fmt::Display for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { site, drill, live, .. } = self;
        let both = if drill == live {
            format!("both may use {drill}")
        } else {
            format!("`drill` may use {drill}, and `live` {live}")
        };
        write!(formatter, "a drill at site {site} could reach what a failover started there: {both}")
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

/// The grants of drills at a site that meet what is granted to live runs, each with the first that it meets.
pub fn drill_reaches_live(site: &SiteName, grants: &SiteGrants) -> Vec<Shared> {
    let live = reaches(&grants.live);
    // What a drill may only read it cannot harm.
    let drill = reaches(&grants.drill).into_iter().filter(|reach| reach.access == Access::ReadWrite);
    let paths = drill.filter_map(|drill| {
        let live = live.iter().find(|live| live.meets(&drill))?;
        let (drill_path, live_path) = (drill.path.clone(), live.path.clone());
        Some(Shared {
            site: site.clone(),
            key: drill.key,
            at: Part::Index(drill.index),
            drill: drill_path,
            live: live_path,
        })
    });
    paths.chain(shared_endpoints(site, grants)).collect()
}

/// The APIs that both ask with one credential, or without any at one address. With one credential the address does not
/// matter: one service has many, by region and by kind.
fn shared_endpoints(site: &SiteName, grants: &SiteGrants) -> impl Iterator<Item = Shared> {
    grants.drill.endpoints.iter().filter_map(|(name, drill)| {
        let same = |live: &&EndpointGrant| {
            live.credential == drill.credential && (drill.credential.is_some() || live.address == drill.address)
        };
        let live = grants.live.endpoints.values().find(same)?;
        let told = |grant: &EndpointGrant| match &grant.credential {
            Some(credential) => format!("the credential \"{credential}\""),
            None => format!("{} without a credential", grant.address),
        };
        let (drill, live) = (told(drill), told(live));
        Some(Shared { site: site.clone(), key: ENDPOINTS, at: Part::from(name.as_str()), drill, live })
    })
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

    /// What is told of a drill's and a live run's grants.
    fn shared(drill: &str, live: &str) -> Vec<String> {
        let grants = toml::from_str(&format!("[drill]\n{drill}\n[live]\n{live}\n")).expect("grants");
        let site = "farm".parse().expect("a name");
        let told = |shared: &Shared| match &shared.at {
            Part::Index(index) => format!("{} {index}: {shared}", shared.key),
            Part::Key(name) => format!("{} {name}: {shared}", shared.key),
        };
        drill_reaches_live(&site, &grants).iter().map(told).collect()
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
