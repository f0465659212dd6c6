//! EC2 and EBS direct, as their twin serves them, with the credentials that an operator makes by the policies that we ship.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use farshore_demo::DemoError;
use farshore_twin_ebs::{Call, Key, Options, Policy, Principal, Twin};
use serde_json::Value;
use tempfile::TempDir;

use crate::World;

/// The credentials, by their names, with their policies.
const CREDENTIALS: [(&str, &str); 4] = [
    ("drill", include_str!("../../../plugins/aws/policies/drill.json")),
    ("fence", include_str!("../../../plugins/aws/policies/fence.json")),
    ("live", include_str!("../../../plugins/aws/policies/live.json")),
    ("protect", include_str!("../../../plugins/aws/policies/protect.json")),
];

/// Which credential asks which API in which mode: where machines are recovered, and where they are protected.
const RECOVERY: [(&str, &str, &str); 6] = [
    ("drill", "ec2", "drill"),
    ("drill", "ebs", "drill"),
    ("drill", "servicequotas", "drill"),
    ("live", "ec2", "live"),
    ("live", "ebs", "live"),
    ("live", "servicequotas", "live"),
];
const PRODUCTION: [(&str, &str, &str); 4] = [
    ("observe", "ec2", "protect"),
    ("protect", "ec2", "protect"),
    ("protect", "ebs", "protect"),
    ("live", "ec2", "fence"),
];

/// An account in one region. Dropping it ends its instances.
pub struct Cloud {
    /// What serves it.
    pub twin: Twin,
    _folder: TempDir,
}

impl Cloud {
    /// An account with nothing in it. Its instances run in QEMU if they are to run.
    ///
    /// # Errors
    /// Its folder cannot be made, or it cannot listen.
    pub fn start(runs: bool) -> Result<Self, Box<dyn std::error::Error>> {
        Self::with_policies(runs, &CREDENTIALS.map(|(name, policy)| (name, policy.to_owned())))
    }

    /// An account that is for recoveries alone: its disks may begin as others were, which POLICIES.md allows there.
    ///
    /// # Errors
    /// Those of [`start`](Self::start).
    pub fn start_for_recoveries(runs: bool) -> Result<Self, Box<dyn std::error::Error>> {
        let mut credentials = CREDENTIALS.map(|(name, policy)| (name, policy.to_owned()));
        for (_, policy) in credentials.iter_mut().filter(|(name, _)| *name == "live") {
            let mut document: Value = serde_json::from_str(policy)?;
            if let Some(statements) = document["Statement"].as_array_mut() {
                statements.retain(|statement| statement["Sid"] != "OnNoOtherSnapshot");
            }
            *policy = document.to_string();
        }
        Self::with_policies(runs, &credentials)
    }

    fn with_policies(runs: bool, credentials: &[(&str, String)]) -> Result<Self, Box<dyn std::error::Error>> {
        let folder = tempfile::Builder::new().prefix("ec").rand_bytes(4).tempdir()?;
        let mut principals = BTreeMap::new();
        for (name, policy) in credentials {
            let key = Key { secret: secret(name), token: None, expires_at: None };
            principals.insert(key_id(name), Principal { key, policy: Policy::parse(policy)? });
        }
        // So that snapshots are waited for.
        let settle = Duration::from_millis(300);
        let options = Options { runs, principals, settle, ..Options::new(folder.path()) };
        Ok(Self { twin: Twin::start(options, [0, 0])?, _folder: folder })
    }

    /// Adds the sites of this account to a world's configuration, whose groups are recovered here from now on: `cloud`, where machines are
    /// recovered, and `instances`, where they are protected. The configuration's text.
    ///
    /// # Errors
    /// The world's folder cannot be written.
    pub fn join(&self, world: &World) -> Result<String, DemoError> {
        let text = world.site.configuration()?.replace("recovery-site = \"recovery\"", "recovery-site = \"cloud\"");
        let (text, path) = (text + &self.sites(world.folder())?, world.site.configuration_file());
        fs::write(&path, &text).map_err(|source| DemoError::File { doing: "write", path, source })?;
        Ok(text)
    }

    /// The sites, as an operator writes them. Their keys are written to files in the folder.
    fn sites(&self, folder: &Path) -> Result<String, DemoError> {
        let mut text = "\n[sites.cloud]\nadapter = \"aws\"\nsettings.instance-type = \"t3.large\"\n\
            settings.check-quotas = true\n"
            .to_owned();
        for mode in ["live", "drill"] {
            text += &format!(
                "\n[sites.cloud.settings-in.{mode}]\nsubnet = \"subnet-0{mode}\"\nsecurity-groups = [\"sg-0{mode}\"]\n\
                 tags = {{ purpose = \"{mode}\" }}\n"
            );
        }
        text += "\n[sites.instances]\nadapter = \"aws\"\n";
        for (site, credentials) in [("cloud", ["drill", "live"]), ("instances", ["protect", "fence"])] {
            for name in credentials {
                let (id, key) = (folder.join(format!("{name}-key-id")), folder.join(format!("{name}-key")));
                for (path, content) in [(&id, key_id(name)), (&key, secret(name))] {
                    let failed = |source| DemoError::File { doing: "write", path: path.clone(), source };
                    fs::write(path, content).map_err(failed)?;
                }
                text += &format!(
                    "\n[sites.{site}.credentials.{name}]\nscheme = \"sigv4\"\nregion = \"eu-west-1\"\n\
                     access-key-id = {{ file = {id:?} }}\nsecret-access-key = {{ file = {key:?} }}\n"
                );
            }
        }
        for (site, (mode, service, credential)) in
            RECOVERY.map(|endpoint| ("cloud", endpoint)).into_iter().chain(PRODUCTION.map(|of| ("instances", of)))
        {
            let url = if service == "ebs" { self.twin.ebs_url() } else { self.twin.ec2_url() };
            text += &format!(
                "\n[sites.{site}.grants.{mode}.endpoints.{service}]\naddress = \"{url}\"\nallow-http = true\n\
                 credential = \"{credential}\"\nservice = \"{service}\"\n"
            );
        }
        Ok(text)
    }

    /// The ids of the instances that are not terminated.
    pub fn instances(&self) -> Vec<String> {
        self.twin.seen().instances.into_iter().map(|(instance, _)| instance).collect()
    }

    /// What was refused because a credential may not do it.
    pub fn denied(&self) -> Vec<Call> {
        let is_denied = |call: &Call| {
            let refusals = ["UnauthorizedOperation", "AccessDeniedException"];
            call.error.as_deref().is_some_and(|error| refusals.contains(&error))
        };
        self.twin.calls().into_iter().filter(is_denied).collect()
    }

    /// How many blocks were read from snapshots so far.
    pub fn blocks_read(&self) -> usize {
        self.calls_of("ebs:GetSnapshotBlock")
    }

    /// How many blocks were written to snapshots so far.
    pub fn blocks_written(&self) -> usize {
        self.calls_of("ebs:PutSnapshotBlock")
    }

    fn calls_of(&self, action: &str) -> usize {
        self.twin.calls().iter().filter(|call| call.action == action).count()
    }
}

fn key_id(name: &str) -> String {
    name.to_uppercase()
}

fn secret(name: &str) -> String {
    format!("{name}-secret")
}
