//! What a component wanted and may not have.

use std::fmt;

use farshore_core::SiteName;
use serde::Serialize;

use crate::{Access, Grants, HostPort, Mode, NbdPattern};

/// What a component wanted of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Wanted {
    /// A stream to a unix socket.
    Unix {
        /// The socket's path, resolved as far as it exists.
        path: String,
    },
    /// A stream to a TCP port.
    Tcp {
        /// The host and port.
        address: HostPort,
    },
    /// A disk behind an NBD server.
    Nbd {
        /// The server.
        address: NbdPattern,
    },
    /// A file or folder.
    File {
        /// Its path, as the component wrote it.
        path: String,
        /// What was to be done with it.
        access: Access,
    },
    /// An HTTP API.
    Endpoint {
        /// Its name.
        name: String,
    },
    /// A program.
    Program {
        /// The template's name.
        template: String,
    },
}

impl Wanted {
    /// What the manifest would have to say below `[wants.<mode>]`.
    fn manifest_line(&self) -> String {
        match self {
            Self::Unix { .. } => "unix = true".to_owned(),
            Self::Tcp { .. } => "tcp = true".to_owned(),
            Self::Nbd { .. } => "nbd = true".to_owned(),
            Self::File { access, .. } => format!("files = \"{access}\""),
            Self::Endpoint { name } => format!("endpoints = [{}]", quoted(name)),
            Self::Program { template } => format!("programs = [{}]", quoted(template)),
        }
    }

    /// The table that grants it, beside what is granted already.
    fn grant(&self, site: &SiteName, mode: Mode, granted: &Grants) -> String {
        let grants = format!("sites.{site}.grants.{mode}");
        match self {
            Self::Endpoint { name } => format!(
                "[{grants}.endpoints.{name}]\naddress = \"https://...\" # where the API is\ncredential = \"...\" # one of \
                 [sites.{site}.credentials]; leave it and `service` out if nothing is to be signed\nservice = \"...\" # what it \
                 signs for"
            ),
            _ => format!("[{grants}]\n{}", self.grant_line(granted)),
        }
    }

    /// The line in the table of the grants.
    fn grant_line(&self, granted: &Grants) -> String {
        fn list(key: &str, granted: impl Iterator<Item = String>, added: String) -> String {
            format!("{key} = [{}]", granted.chain([added]).collect::<Vec<_>>().join(", "))
        }
        match self {
            Self::Unix { path } => {
                list("unix", granted.unix.iter().map(|item| quoted(&item.to_string())), quoted(path))
            }
            Self::Tcp { address } => {
                list("tcp", granted.tcp.iter().map(|item| quoted(&item.to_string())), quoted(&address.to_string()))
            }
            Self::Nbd { address } => {
                list("nbd", granted.nbd.iter().map(|item| quoted(&item.to_string())), quoted(&address.to_string()))
            }
            Self::File { path, access } => {
                let folder =
                    path.rsplit_once('/').map_or("/", |(folder, _)| if folder.is_empty() { "/" } else { folder });
                let line = |folder: &str, access| format!("{{ folder = {}, access = \"{access}\" }}", quoted(folder));
                let kept = granted.files.iter().filter(|item| item.folder.to_str() != Some(folder));
                list("files", kept.map(|item| line(&item.folder.to_string_lossy(), item.access)), line(folder, *access))
            }
            Self::Endpoint { name } => format!("# a table for the endpoint {}", quoted(name)),
            Self::Program { template } => format!("# a template named {}", quoted(template)),
        }
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path } => write!(formatter, "connect to unix:{path}"),
            Self::Tcp { address } => write!(formatter, "connect to tcp:{address}"),
            Self::Nbd { address } => write!(formatter, "use the NBD server {address}"),
            Self::File { path, access: Access::ReadOnly } => write!(formatter, "read {path}"),
            Self::File { path, access: Access::ReadWrite } => write!(formatter, "write {path}"),
            Self::Endpoint { name } => write!(formatter, "use the endpoint {name}"),
            Self::Program { template } => write!(formatter, "run the program template {template}"),
        }
    }
}

/// Why it may not have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum RefusalReason {
    /// The operator did not grant it.
    NotGranted {
        /// What to write in the configuration to grant it.
        toml: String,
    },
    /// The component's manifest does not ask for it, so that the operator cannot grant it.
    NotInManifest {
        /// What the component's author would have to write.
        manifest: String,
    },
    /// The path lies in a granted folder, but a symbolic link leads out of it.
    LinkLeadsOut,
    /// The endpoint is granted, but its name leads where it may not lead.
    AddressNotAllowed {
        /// The name.
        host: String,
        /// The addresses that it leads to.
        found: String,
        /// The table of the configuration where the endpoint is granted.
        table: String,
    },
}

/// What a component wanted and may not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub struct Refusal {
    /// The component's name.
    pub component: String,
    /// The site that it served.
    pub site: SiteName,
    /// What it was instantiated for.
    pub mode: Mode,
    /// What it wanted.
    pub wanted: Wanted,
    /// Why it may not have it.
    pub reason: RefusalReason,
}

impl Refusal {
    /// The refusal of what the operator did not grant.
    pub(crate) fn not_granted(component: &str, site: &SiteName, mode: Mode, wanted: Wanted, granted: &Grants) -> Self {
        let toml = wanted.grant(site, mode, granted);
        Self::new(component, site, mode, wanted, RefusalReason::NotGranted { toml })
    }

    /// The refusal of what the component's manifest does not ask for.
    pub(crate) fn not_in_manifest(component: &str, site: &SiteName, mode: Mode, wanted: Wanted) -> Self {
        let manifest = format!("[wants.{mode}]\n{}", wanted.manifest_line());
        Self::new(component, site, mode, wanted, RefusalReason::NotInManifest { manifest })
    }

    /// The refusal of a path by which a symbolic link leads out of the granted folder.
    pub(crate) fn link_leads_out(component: &str, site: &SiteName, mode: Mode, wanted: Wanted) -> Self {
        Self::new(component, site, mode, wanted, RefusalReason::LinkLeadsOut)
    }

    /// The refusal of an endpoint whose name leads to addresses that its grant does not allow.
    pub(crate) fn address_not_allowed(
        component: &str,
        site: &SiteName,
        mode: Mode,
        endpoint: &str,
        host: String,
        found: String,
    ) -> Self {
        let wanted = Wanted::Endpoint { name: endpoint.to_owned() };
        let table = format!("[sites.{site}.grants.{mode}.endpoints.{endpoint}]");
        Self::new(component, site, mode, wanted, RefusalReason::AddressNotAllowed { host, found, table })
    }

    fn new(component: &str, site: &SiteName, mode: Mode, wanted: Wanted, reason: RefusalReason) -> Self {
        Self { component: component.to_owned(), site: site.clone(), mode, wanted, reason }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { component, site, mode, wanted, reason } = self;
        write!(formatter, "component {component} of site \"{site}\" wanted to {wanted} in mode {mode}, ")?;
        match reason {
            RefusalReason::NotGranted { toml } => {
                write!(formatter, "which is not granted. To grant it, add to the configuration:\n{toml}")
            }
            RefusalReason::NotInManifest { manifest } => write!(
                formatter,
                "which its manifest does not ask for, so no configuration can grant it: a component must declare what \
                 it may want before an operator can allow it. Its author would have to add to the manifest:\n{manifest}"
            ),
            RefusalReason::LinkLeadsOut => write!(
                formatter,
                "but a symbolic link on that path leads out of the granted folder, so no grant of this folder allows \
                 it. Replace the link, or grant the folder that it leads to and let the component use that path"
            ),
            RefusalReason::AddressNotAllowed { host, found, table } => write!(
                formatter,
                "but {host} leads to {found}, which this endpoint does not allow. If it is right, add the network to \
                 `networks` in {table}"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
