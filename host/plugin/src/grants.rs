//! What the operator allows a component to reach, for each site and mode.
//!
//! ```toml
//! [sites.production.grants.protect]
//! unix = ["/run/vms/*.qmp"]
//! tcp = ["vcenter.example.org:443"]
//! nbd = ["unix:/run/farshore/*.nbd", "tcp:storage.example.org:10809"]
//! files = [{ folder = "/var/lib/farshore/fleece", access = "read-write" }]
//!
//! [sites.production.grants.protect.endpoints.ec2]
//! address = "https://ec2.eu-west-1.amazonaws.com"
//! credential = "protect"
//! service = "ec2"
//! ```
//!
//! Nothing is inherited: a mode has the grants that are written for it and no others, so that what a drill can reach is
//! what stands below `drill`. In a pattern for a path `*` stands for any part of a name, never for a `/`, so that a
//! pattern has as many folders as the paths that it matches.

mod pattern;

use std::{collections::BTreeMap, fmt, path::PathBuf};

use farshore_core::EndpointName;
use farshore_http::EndpointGrant;
use serde::{Deserialize, Serialize};

pub use self::pattern::{HostPort, NbdPattern, PathPattern, PatternError};
pub(crate) use self::pattern::{below, path_rule};
use crate::Mode;

/// The grants of one site.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SiteGrants {
    /// For looking.
    #[serde(default)]
    pub observe: Grants,
    /// For protecting.
    #[serde(default)]
    pub protect: Grants,
    /// For a test failover.
    #[serde(default)]
    pub drill: Grants,
    /// For a real failover.
    #[serde(default)]
    pub live: Grants,
}

impl SiteGrants {
    /// The grants of one mode.
    pub const fn for_mode(&self, mode: Mode) -> &Grants {
        match mode {
            Mode::Observe => &self.observe,
            Mode::Protect => &self.protect,
            Mode::Drill => &self.drill,
            Mode::Live => &self.live,
        }
    }
}

/// The grants of one site in one mode.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Grants {
    /// Unix sockets that streams may connect to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unix: Vec<PathPattern>,
    /// Hosts and ports that streams may connect to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tcp: Vec<HostPort>,
    /// NBD servers that disks may be on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nbd: Vec<NbdPattern>,
    /// Folders whose files may be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FolderGrant>,
    /// HTTP APIs that may be asked, by the names that the component knows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub endpoints: BTreeMap<EndpointName, EndpointGrant>,
}

/// A folder whose files may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FolderGrant {
    /// The folder, absolute. Everything below it is meant.
    #[serde(deserialize_with = "pattern::absolute_folder")]
    pub folder: PathBuf,
    /// What may be done there.
    pub access: Access,
}

/// What may be done in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Files may be read and listed.
    ReadOnly,
    /// Files may be made, written and removed too.
    ReadWrite,
}

impl fmt::Display for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "read-write",
        })
    }
}

#[cfg(test)]
mod tests;
