//! The words of `farshore.toml`, as plain serde types.
//!
//! Keys are in kebab-case, and an unknown key is an error. No type here holds a secret: a secret is named by a file or
//! an environment variable, and read when it is used. Paths are as the operator wrote them; a relative one counts from
//! the folder of the configuration file (see [`crate::config::Configuration::path`]).

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use farshore_alerts::{AlertRule, MailTarget, WebhookTarget};
use farshore_core::{
    AlertName, Consistency, CredentialName, GroupName, Hours, Limit, Limits, MachineId, SiteName, Timetable, Zone,
};
use farshore_plugin::{Mode, SiteGrants, SiteTemplates};
use farshore_replication::{CatchUp, FailingMachine, Priority};
use farshore_state::Severity;
use farshore_telemetry::TelemetryTarget;
use farshore_vault::Retention;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};

use super::units;

/// The whole file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Document {
    /// This host.
    #[serde(default)]
    pub host: Host,
    /// Where recovery points are kept. Every configuration needs it; it is optional here so that one mistake in it does
    /// not hide the others.
    pub vault: Option<Vault>,
    /// Places that run machines.
    #[serde(default)]
    pub sites: BTreeMap<SiteName, Site>,
    /// Machines that are protected and recovered together.
    #[serde(default)]
    pub groups: BTreeMap<GroupName, Group>,
    /// Who is told what happens.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub alerts: BTreeMap<AlertName, Alert>,
    /// Who takes traces of what the daemon does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Telemetry>,
}

/// Who takes traces, by OpenTelemetry's protocol.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Telemetry {
    /// The collector.
    pub traces: TelemetryTarget,
    /// What each request to it carries, such as `authorization`, each by the place where it is found.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, SecretPlace>,
}

/// This host's own folders and threads.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Host {
    /// Journals of captures that are under way, and indexes of what newest points hold. Losing it loses no recovery point.
    pub state_folder: PathBuf,
    /// Compiled components. It can be emptied at any time.
    pub cache_folder: PathBuf,
    /// Threads that identify, compress and seal; as many as the machine has processors when it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_threads: Option<u16>,
    /// How many groups are replicated at once, at most.
    pub concurrent_cycles: u16,
    /// The sites whose groups this host replicates; all of them when it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sites: Option<Vec<SiteName>>,
    /// How long cycles that run may go on when the daemon is stopped.
    #[serde(with = "units::duration")]
    pub drain_limit: Duration,
    /// Where the daemon listens for commands of this machine; `farshore.sock` in the state folder when it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Where it listens for others; nowhere when it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Listen>,
    /// Where points wait while the vault cannot be reached.
    pub spool: Spool,
    /// By whose clocks hours are meant; by this machine's when it is left out.
    pub time_zone: Zone,
}

/// How many bytes may pass in a second.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Bandwidth {
    /// At hours that are not named.
    pub limit: Limit,
    /// At these hours; of those that overlap the first counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hours: Vec<BandwidthAt>,
}

/// How many bytes may pass in a second at some hours.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BandwidthAt {
    /// When.
    pub at: Hours,
    /// How many.
    pub limit: Limit,
}

impl Bandwidth {
    /// Whether there is a limit at any hour.
    pub fn says_something(&self) -> bool {
        self.limit != Limit::Unlimited || !self.hours.is_empty()
    }

    /// The same by the clocks of a zone.
    pub fn limits(&self, zone: &Zone) -> Limits {
        let hours = self.hours.iter().map(|BandwidthAt { at, limit }| (*at, *limit));
        Limits { hours: Timetable::new(zone.clone(), hours.collect()), otherwise: self.limit }
    }
}

/// A folder in which points wait, sealed, while the vault cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Spool {
    /// The folder; `spool` in the state folder when it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// The most bytes of all that wait; if none, no point waits.
    #[serde(with = "units::bytes_or_none")]
    pub limit: u64,
}

impl Default for Spool {
    fn default() -> Self {
        Self { folder: None, limit: 10 << 30 }
    }
}

/// A TCP address of the daemon's API: with TLS and a token.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Listen {
    /// `IP:PORT`.
    pub address: SocketAddr,
    /// A PEM file of its certificate and those that lead to an authority.
    pub certificate: PathBuf,
    /// The certificate's key, as PEM.
    pub key: SecretPlace,
    /// What whoever asks has to show: `authorization: Bearer TOKEN`.
    pub token: SecretPlace,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            state_folder: Path::new("/var/lib/farshore").to_owned(),
            cache_folder: Path::new("/var/cache/farshore").to_owned(),
            worker_threads: None,
            concurrent_cycles: 32,
            sites: None,
            drain_limit: Duration::from_secs(30),
            socket: None,
            listen: None,
            spool: Spool::default(),
            time_zone: Zone::default(),
        }
    }
}

/// Where recovery points are kept, and what opens it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Vault {
    /// `file:/folder`, `s3://bucket/prefix`, `az://container/prefix` or `gs://bucket/prefix`.
    pub address: String,
    /// The recovery kit, where it is at hand. A host that has joined needs none for what its powers allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kit_file: Option<PathBuf>,
    /// A file whose first line is the passphrase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passphrase_file: Option<PathBuf>,
    /// An environment variable that holds the passphrase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passphrase_env: Option<String>,
    /// What the store needs to know beside its address, such as `region` and `endpoint`. Nothing secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, OptionValue>,
    /// The store's secrets, each by the place where it is found.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretPlace>,
    /// Where its data is, if that is another address. Then this one is of its metadata.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<VaultData>,
    /// How fast this host sends to it.
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

/// Who is told of which events: a program by a webhook, or people by mail.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Alert {
    /// Events as severe as this, or more.
    #[serde(default = "default_severity")]
    pub severity: Severity,
    /// Events about these groups. If empty: about all, and about the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupName>,
    /// The program; or
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookTarget>,
    /// the people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mail: Option<MailTarget>,
    /// The webhook's bearer token, or the password of the mail server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretPlace>,
}

impl Alert {
    /// The same without its secret.
    pub fn rule(&self) -> AlertRule {
        let Self { severity, groups, webhook, mail, secret: _ } = self.clone();
        AlertRule { severity, groups, webhook, mail }
    }
}

const fn default_severity() -> Severity {
    Severity::Warning
}

/// Where the data of a vault with two addresses is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct VaultData {
    /// As the vault's own.
    pub address: String,
    /// What this store needs to know beside its address. Those of the vault do not count here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, OptionValue>,
    /// This store's secrets, each by the place where it is found.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretPlace>,
}

/// A store's option: a text, a number or a truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum OptionValue {
    /// As it stands.
    Text(String),
    /// A number.
    Integer(i64),
    /// `true` or `false`.
    Boolean(bool),
}

impl fmt::Display for OptionValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => formatter.write_str(text),
            Self::Integer(number) => number.fmt(formatter),
            Self::Boolean(truth) => truth.fmt(formatter),
        }
    }
}

// Written by hand, because an untagged enum forgets where the mistake was.
impl<'de> Deserialize<'de> for OptionValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = OptionValue;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text, a whole number, true or false")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OptionValue, E> {
                Ok(OptionValue::Text(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<OptionValue, E> {
                Ok(OptionValue::Integer(number))
            }

            fn visit_bool<E: de::Error>(self, truth: bool) -> Result<OptionValue, E> {
                Ok(OptionValue::Boolean(truth))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Where a secret is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum SecretPlace {
    /// A file, without the line breaks at its end. Of a passphrase only the first line counts; of a store's secret all of it,
    /// because some are documents (a cloud's key file).
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

/// What signs requests, and where its keys are found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Credential {
    /// How it signs.
    pub scheme: Scheme,
    /// The region that requests are signed for, such as `eu-west-1`.
    pub region: String,
    /// Which key it is.
    pub access_key_id: SecretPlace,
    /// The key.
    pub secret_access_key: SecretPlace,
    /// What the keys of a session come with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<SecretPlace>,
}

impl Credential {
    /// Where its keys are found.
    pub fn places(&self) -> impl Iterator<Item = &SecretPlace> {
        self.keyed_places().map(|(_, place)| place)
    }

    /// Where its keys are found, with the words for them.
    pub fn keyed_places(&self) -> impl Iterator<Item = (&'static str, &SecretPlace)> {
        let keys = [("access-key-id", &self.access_key_id), ("secret-access-key", &self.secret_access_key)];
        keys.into_iter().chain(self.session_token.iter().map(|place| ("session-token", place)))
    }
}

/// How a credential signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// AWS Signature Version 4.
    Sigv4,
}

/// A place that runs machines, reached through one adapter.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Site {
    /// The component.
    pub adapter: Adapter,
    /// How many groups of it are replicated at once, at most; as many as the host replicates when it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent_cycles: Option<u16>,
    /// How fast its disks are read for recovery points.
    #[serde(default)]
    pub bandwidth: Bandwidth,
    /// What the component is told in every mode; its own schema says what can stand here.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub settings: Map<String, Value>,
    /// What it is told instead in one mode.
    #[serde(default)]
    pub settings_in: SettingsByMode,
    /// What signs requests to the APIs that are granted below. The component sees none of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<CredentialName, Credential>,
    /// What the component may reach, for each mode.
    #[serde(default)]
    pub grants: SiteGrants,
    /// The programs that the component may run, for each mode.
    #[serde(default)]
    pub programs: SiteTemplates,
}

impl Site {
    /// What the component is told in a mode. A key of `settings-in` replaces the whole value of the same key of `settings`:
    /// a merge that went deeper would leave parts of a value that stand nowhere in the file beside each other.
    pub fn settings_for(&self, mode: Mode) -> Map<String, Value> {
        let mut settings = self.settings.clone();
        settings.extend(self.settings_in.for_mode(mode).cloned().into_iter().flatten());
        settings
    }
}

/// Settings that hold in one mode only: a drill works in other folders than a failover, so that it cannot reach what the
/// failover brought up.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SettingsByMode {
    /// When looking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observe: Option<Map<String, Value>>,
    /// When protecting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protect: Option<Map<String, Value>>,
    /// In a test failover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drill: Option<Map<String, Value>>,
    /// In a real failover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<Map<String, Value>>,
}

impl SettingsByMode {
    /// What a mode has of its own, if the file has a table for it.
    pub const fn for_mode(&self, mode: Mode) -> Option<&Map<String, Value>> {
        match mode {
            Mode::Observe => self.observe.as_ref(),
            Mode::Protect => self.protect.as_ref(),
            Mode::Drill => self.drill.as_ref(),
            Mode::Live => self.live.as_ref(),
        }
    }
}

/// Which component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Adapter {
    /// One that is embedded in this binary, by its name.
    Embedded(String),
    /// One in a file.
    File(AdapterFile),
}

/// A component in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AdapterFile {
    /// The file.
    pub path: PathBuf,
    /// `blake3:` and 64 hexadecimal digits. A file with another digest is refused.
    pub digest: ComponentDigest,
}

/// What a component's bytes must hash to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ComponentDigest(String);

impl ComponentDigest {
    /// The digest as it is written: `blake3:` and 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ComponentDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.strip_prefix("blake3:").unwrap_or_default();
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() == 64 && digits.bytes().all(is_digit) {
            Ok(Self(text))
        } else {
            Err(de::Error::custom("a digest is \"blake3:\" and 64 lower-case hexadecimal digits"))
        }
    }
}

impl<'de> Deserialize<'de> for Adapter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Adapter;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("the name of an embedded adapter, or { path = \"...\", digest = \"blake3:...\" }")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Adapter, E> {
                Ok(Adapter::Embedded(name.to_owned()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Adapter, A::Error> {
                AdapterFile::deserialize(de::value::MapAccessDeserializer::new(map)).map(Adapter::File)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Machines of one site that are protected and recovered together.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Group {
    /// Where the machines run.
    pub site: SiteName,
    /// What the site calls them.
    pub machines: Vec<MachineId>,
    /// Where they are recovered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_site: Option<SiteName>,
    /// The most that may be lost, in time: how old the newest point may become.
    #[serde(with = "units::duration")]
    pub rpo: Duration,
    /// Whether it is replicated before others where not all can be at once.
    #[serde(default)]
    pub priority: Priority,
    /// No guest is held longer than this while the machines are brought to one instant.
    #[serde(with = "units::duration", default = "default_stall_limit")]
    pub stall_limit: Duration,
    /// What the guests are asked to do before the instant.
    #[serde(default = "default_consistency")]
    pub consistency: Consistency,
    /// All that is said to be unchanged is read again and compared in so long, a part with each cycle.
    #[serde(with = "units::duration", default = "default_verify_within")]
    pub verify_within: Duration,
    /// One point is application-consistent in so long, beside the others that are not.
    #[serde(with = "units::duration::optional", default, skip_serializing_if = "Option::is_none")]
    pub application_every: Option<Duration>,
    /// When no cycle begins, but one that somebody asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blackout: Vec<Hours>,
    /// What comes into the vault of the points that waited while it could not be reached.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// What becomes of it when one of its machines cannot be captured.
    #[serde(default)]
    pub failing_machine: FailingMachine,
    /// Which of its recovery points stand when the vault is pruned; without it all do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionRules>,
}

/// Which recovery points stand: those that any of the rules wants. The newest always does.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RetentionRules {
    /// Every point of at most this age.
    #[serde(with = "units::duration")]
    pub all: Duration,
    /// The newest point of each of so many hours that have one.
    #[serde(default)]
    pub hourly: u32,
    /// The same of days (UTC).
    #[serde(default)]
    pub daily: u32,
    /// The same of weeks (from Monday, UTC).
    #[serde(default)]
    pub weekly: u32,
    /// The same of months (UTC).
    #[serde(default)]
    pub monthly: u32,
    /// The same of years (UTC).
    #[serde(default)]
    pub yearly: u32,
}

impl From<RetentionRules> for Retention {
    fn from(rules: RetentionRules) -> Self {
        let RetentionRules { all, hourly, daily, weekly, monthly, yearly } = rules;
        Self { all_seconds: all.as_secs(), hourly, daily, weekly, monthly, yearly }
    }
}

const fn default_verify_within() -> Duration {
    Duration::from_secs(30 * 86_400)
}

const fn default_stall_limit() -> Duration {
    Duration::from_millis(500)
}

const fn default_consistency() -> Consistency {
    Consistency::Crash
}
