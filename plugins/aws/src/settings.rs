//! What the operator says about a site of EC2 instances.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{
    error::{PlatformError, Result, while_doing},
    ports::Host,
    tags::{Tags, wrong_tag},
};

/// The JSON Schema of [`Settings`], with a description for every property.
pub const SCHEMA: &str = include_str!("settings.schema.json");

/// The settings of a site.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Only instances with all these tags are discovered.
    #[serde(default)]
    pub discover: BTreeMap<String, String>,
    /// Volumes that are left out.
    #[serde(default)]
    pub exclude_volumes: Vec<String>,
    /// The type of recovered instances.
    pub instance_type: Option<String>,
    /// Where recovered instances are.
    pub subnet: Option<String>,
    /// What may reach them.
    #[serde(default)]
    pub security_groups: Vec<String>,
    /// What everything that is made gets beside the adapter's own tags.
    #[serde(default)]
    pub tags: Tags,
    /// Whether the quota of vCPUs is compared with what runs, before a run.
    #[serde(default)]
    pub check_quotas: bool,
    /// What is otherwise for one machine, by its id at the source.
    #[serde(default)]
    pub machines: BTreeMap<String, MachineSettings>,
}

/// What is otherwise for one machine.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MachineSettings {
    /// Its type.
    pub instance_type: Option<String>,
    /// Where it is.
    pub subnet: Option<String>,
    /// What may reach it.
    pub security_groups: Option<Vec<String>>,
    /// Its private address.
    pub address: Option<String>,
}

/// Where and as what a machine is recovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The instance's type.
    pub instance_type: String,
    /// The subnet.
    pub subnet: String,
    /// The security groups.
    pub security_groups: Vec<String>,
    /// The private address, if it is fixed.
    pub address: Option<String>,
}

impl Settings {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// `settings` with what is wrong.
    pub fn load(host: &dyn Host) -> Result<Self> {
        let json = host.settings().map_err(|error| while_doing("reading the site's settings", error))?;
        let settings: Self = serde_json::from_str(&json).map_err(|error| PlatformError::Settings(error.to_string()))?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: &str, value: &str, form: &str| {
            Err(PlatformError::Settings(format!("{value:?} is not the id of a {what}, which looks like {form}")))
        };
        for volume in &self.exclude_volumes {
            if !is_id(volume, "vol-") {
                return wrong("volume", volume, "vol-0123456789abcdef0");
            }
        }
        if let Some(problem) = wrong_tag(&self.tags) {
            return Err(PlatformError::Settings(problem));
        }
        let of_machines = self.machines.values();
        let subnets = self.subnet.iter().chain(of_machines.clone().filter_map(|machine| machine.subnet.as_ref()));
        for subnet in subnets {
            if !is_id(subnet, "subnet-") {
                return wrong("subnet", subnet, "subnet-0123456789abcdef0");
            }
        }
        let groups = of_machines.clone().filter_map(|machine| machine.security_groups.as_ref()).flatten();
        for group in self.security_groups.iter().chain(groups) {
            if !is_id(group, "sg-") {
                return wrong("security group", group, "sg-0123456789abcdef0");
            }
        }
        for address in of_machines.filter_map(|machine| machine.address.as_ref()) {
            if address.parse::<std::net::Ipv4Addr>().is_err() {
                return Err(PlatformError::Settings(format!("{address:?} is not an IPv4 address")));
            }
        }
        Ok(())
    }

    /// Where and as what a machine is recovered.
    ///
    /// # Errors
    /// `settings` when something that is needed is not said.
    pub fn placement(&self, machine: &str) -> Result<Placement> {
        let none = MachineSettings::default();
        let own = self.machines.get(machine).unwrap_or(&none);
        let needed = |name: &str, own: &Option<String>, all: &Option<String>| {
            own.clone().or_else(|| all.clone()).ok_or_else(|| {
                PlatformError::Settings(format!("`{name}` is needed to recover machine {machine}, and is not set"))
            })
        };
        let security_groups = own.security_groups.as_ref().unwrap_or(&self.security_groups).clone();
        if security_groups.is_empty() {
            let text = format!("`security-groups` is needed to recover machine {machine}, and is not set");
            return Err(PlatformError::Settings(text));
        }
        Ok(Placement {
            instance_type: needed("instance-type", &own.instance_type, &self.instance_type)?,
            subnet: needed("subnet", &own.subnet, &self.subnet)?,
            security_groups,
            address: own.address.clone(),
        })
    }
}

fn is_id(text: &str, prefix: &str) -> bool {
    let rest = text.strip_prefix(prefix).unwrap_or_default();
    (1..=32).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(json: &str) -> Result<Settings> {
        let settings: Settings =
            serde_json::from_str(json).map_err(|error| PlatformError::Settings(error.to_string()))?;
        settings.check().map(|()| settings)
    }

    #[test]
    fn what_cannot_work_is_named() {
        let cases = [
            (r#"{"subnet":"subnet"}"#, "subnet-0123456789abcdef0"),
            (r#"{"machines":{"a":{"subnet":"10.0.0.0/8"}}}"#, "is not the id of a subnet"),
            (r#"{"security-groups":["default"]}"#, "security group"),
            (r#"{"machines":{"a":{"security-groups":["x"]}}}"#, "security group"),
            (r#"{"exclude-volumes":["/dev/sdb"]}"#, "volume"),
            (r#"{"machines":{"a":{"address":"10.0.0.256"}}}"#, "IPv4"),
            (r#"{"tags":{"farshore:owner":"me"}}"#, "\"farshore:owner\" is not the operator's"),
            (r#"{"tags":{"Name":"me"}}"#, "\"Name\" is not the operator's"),
            (r#"{"tags":{"":"me"}}"#, "is empty or too long"),
            (r#"{"subnets":"a"}"#, "unknown field `subnets`"),
            (r#"{"check-quotas":"yes"}"#, "expected a boolean"),
        ];
        for (json, expected) in cases {
            let error = load(json).expect_err(json);
            assert!(matches!(&error, PlatformError::Settings(text) if text.contains(expected)), "{json}: {error:?}");
        }
    }

    #[test]
    fn quotas_are_asked_for_only_if_the_operator_says_so() {
        assert!(!load("{}").expect("settings").check_quotas);
        assert!(load(r#"{"check-quotas":true}"#).expect("settings").check_quotas);
    }

    #[test]
    fn a_machine_has_its_own_settings_or_those_of_all() {
        let settings = load(
            r#"{"instance-type":"t3.large","subnet":"subnet-0a","security-groups":["sg-0a"],
                "machines":{"orders":{"instance-type":"m5.large","address":"10.0.1.9"}}}"#,
        )
        .expect("settings");
        let orders = settings.placement("orders").expect("a placement");
        assert_eq!((orders.instance_type.as_str(), orders.address.as_deref()), ("m5.large", Some("10.0.1.9")));
        assert_eq!(
            (orders.subnet.as_str(), orders.security_groups.as_slice()),
            ("subnet-0a", ["sg-0a".to_owned()].as_slice())
        );
        assert_eq!(settings.placement("other").expect("a placement").instance_type, "t3.large");
        let missing = load(r#"{"instance-type":"t3.large","security-groups":["sg-0a"]}"#).expect("settings");
        assert!(matches!(missing.placement("a"), Err(PlatformError::Settings(text)) if text.contains("`subnet`")));
    }

    #[test]
    fn the_schema_describes_every_property() {
        fn walk(schema: &serde_json::Value, count: &mut usize) {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                assert!(property["description"].as_str().is_some_and(|text| text.len() > 20), "{name}");
                *count += 1;
                walk(&property["additionalProperties"], count);
            }
        }
        let mut count = 0;
        walk(&serde_json::from_str(SCHEMA).expect("the schema is JSON"), &mut count);
        assert_eq!(count, 12);
    }
}
