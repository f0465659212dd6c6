//! The capsule of the points that this host writes: its configuration, and the components of all sites that it names.
//!
//! It is put together once, when a command begins, from what this process uses itself: the text that it has loaded, and the bytes
//! that have the digests which the operator named. So a cycle computes nothing for it, and its points say what made them.
//!
//! *Secrets.* The reader of configurations refuses secrets in [vault]. What a component is told is its own matter, so a value that looks
//! like a secret is left out of the text that is stored, and the operator hears of it. Who reads a capsule reads the disks as well.
//!
//! *What this host lacks is left out.* A recovery site's component may be a file that only the recovery site has. The disks are
//! protected all the same; the operator is warned.

use std::{collections::BTreeMap, ops::Range};

use farshore_plugin::{Digest, Manifest};
use farshore_vault::{CAPSULE_ITEMS_MAX, CapsuleDraft};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    adapters::component_bytes,
    config::{
        Configuration,
        model::Adapter,
        places::{Part, Path, dotted},
        problem::{is_secret_key, is_secret_setting},
    },
};

/// The kind of the operator's configuration.
pub const CONFIGURATION: &str = "configuration";

/// The kind of a component.
pub const COMPONENT: &str = "component";

/// What stands in the stored text where a secret stood. It is a text in TOML.
const LEFT_OUT: &str = "\"left out of the capsule\"";

/// The most bytes of an item's detail, as the vault has it.
const DETAIL_BYTES_MAX: usize = 1024;

/// What goes into the capsule, and what the operator should hear about what does not.
#[derive(Debug)]
pub struct Gathered {
    /// The items.
    pub items: Vec<CapsuleDraft>,
    /// What is left out, and why.
    pub warnings: Vec<String>,
}

/// A component of one or several sites.
struct Found {
    manifest: Manifest,
    source: (&'static str, String),
    bytes: Vec<u8>,
}

/// Puts the capsule together.
pub fn gather(configuration: &Configuration) -> Gathered {
    let mut gathered = Gathered { items: Vec::new(), warnings: Vec::new() };
    gathered.add_configuration(configuration);
    let mut components: BTreeMap<String, Found> = BTreeMap::new();
    for (name, site) in &configuration.sites {
        match find(configuration, &site.adapter) {
            Ok((digest, found)) => {
                components.entry(digest).or_insert(found);
            }
            Err(why) => gathered.warnings.push(format!("recovery points lack the component of site {name}: {why}")),
        }
    }
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for found in components.values() {
        *names.entry(found.manifest.name.clone()).or_default() += 1;
    }
    for (digest, Found { manifest, source, bytes }) in components {
        let mut name = format!("{COMPONENT}/{}", manifest.name);
        // Two components of one name are told apart by their digests; a manifest's name has no slash.
        if names.get(&manifest.name).is_some_and(|count| *count > 1) {
            name = format!("{name}/{}", digest.trim_start_matches("blake3:").get(..16).unwrap_or_default());
        }
        let details = [("version", manifest.version), ("wit", manifest.wit), source];
        gathered.add(name, COMPONENT, BTreeMap::from(details.map(|(name, text)| (name.to_owned(), text))), bytes);
    }
    gathered
}

/// An adapter's component and its digest.
fn find(configuration: &Configuration, adapter: &Adapter) -> Result<(String, Found), String> {
    let bytes = component_bytes(configuration, adapter).map_err(|wrong| wrong.0)?;
    let manifest = Manifest::of_component(&bytes).map_err(|error| error.to_string())?;
    let source = match adapter {
        Adapter::Embedded(name) => ("embedded", name.clone()),
        Adapter::File(file) => ("path", cut(&file.path.display().to_string())),
    };
    Ok((Digest::of(&bytes).to_string(), Found { manifest, source, bytes }))
}

impl Gathered {
    fn add_configuration(&mut self, configuration: &Configuration) {
        let (text, left_out) = match without_secrets(configuration.text()) {
            Ok(text) => text,
            Err(why) => {
                self.warnings.push(format!("recovery points lack the configuration: {why}"));
                return;
            }
        };
        let mut details = BTreeMap::from([("path".to_owned(), cut(&configuration.file().display().to_string()))]);
        if !left_out.is_empty() {
            let left_out = left_out.join(", ");
            self.warnings.push(format!(
                "what looks like a secret is left out of the configuration that recovery points carry: {left_out}"
            ));
            details.insert("left-out".to_owned(), cut(&left_out));
        }
        self.add(CONFIGURATION.to_owned(), CONFIGURATION, details, text.into_bytes());
    }

    fn add(&mut self, name: String, kind: &str, details: BTreeMap<String, String>, content: Vec<u8>) {
        if self.items.len() >= CAPSULE_ITEMS_MAX {
            self.warnings.push(format!("recovery points lack {name}: they carry {CAPSULE_ITEMS_MAX} items at most"));
            return;
        }
        match CapsuleDraft::new(name.clone(), kind, details, content) {
            Ok(item) => self.items.push(item),
            Err(error) => self.warnings.push(format!("recovery points lack {name}: {error}")),
        }
    }
}

/// At most so much of a text as a detail may have.
fn cut(text: &str) -> String {
    match text.char_indices().find(|(at, character)| at + character.len_utf8() > DETAIL_BYTES_MAX - 3) {
        Some((end, _)) if text.len() > DETAIL_BYTES_MAX => format!("{}...", &text[..end]),
        _ => text.to_owned(),
    }
}

/// The text without the values that look like secrets, and the places where they stood.
fn without_secrets(text: &str) -> Result<(String, Vec<String>), String> {
    let tree = DeTable::parse(text).map_err(|error| format!("it is not TOML: {}", error.message()))?;
    let mut search = Search { text, path: Path::new(), found: Vec::new() };
    search.in_table(tree.get_ref(), false);
    let mut found = search.found;
    // From the end, so that the bytes of the others stay where they are.
    found.sort_by_key(|(_, span)| std::cmp::Reverse(span.start));
    let mut text = text.to_owned();
    for (_, span) in &found {
        text.replace_range(span.clone(), LEFT_OUT);
    }
    DeTable::parse(&text).map_err(|error| format!("without its secrets it is not TOML: {}", error.message()))?;
    Ok((text, found.into_iter().rev().map(|(path, _)| dotted(&path)).collect()))
}

/// A walk through the configuration.
struct Search<'a> {
    text: &'a str,
    /// Where it is.
    path: Path,
    /// What is to be left out.
    found: Vec<(Path, Range<usize>)>,
}

impl Search<'_> {
    fn in_table(&mut self, table: &DeTable<'_>, is_secret: bool) {
        for (key, value) in table {
            let name = key.get_ref();
            let is_secret = is_secret
                || if self.is_in_settings() {
                    is_secret_setting(name)
                } else {
                    is_secret_key(name) && !matches!(value.get_ref(), DeValue::Table(_))
                };
            self.path.push(Part::Key(name.to_string()));
            self.in_value(value, is_secret);
            self.path.pop();
        }
    }

    fn in_value(&mut self, value: &Spanned<DeValue<'_>>, is_secret: bool) {
        match value.get_ref() {
            _ if is_secret && self.is_in_one_piece(value) => self.leave_out(value),
            DeValue::String(text) if is_secret_text(text) => self.leave_out(value),
            DeValue::Table(table) => self.in_table(table, is_secret),
            DeValue::Array(array) => {
                for (index, item) in array.iter().enumerate() {
                    self.path.push(Part::Index(index));
                    self.in_value(item, is_secret);
                    self.path.pop();
                }
            }
            _ => {}
        }
    }

    fn leave_out(&mut self, value: &Spanned<DeValue<'_>>) {
        self.found.push((self.path.clone(), value.span()));
    }

    /// Whether what is looked at is told to a component: `sites.NAME.settings` or `sites.NAME.settings-in.MODE`.
    fn is_in_settings(&self) -> bool {
        let key = |at: usize| match self.path.get(at) {
            Some(Part::Key(key)) => key.as_str(),
            _ => "",
        };
        key(0) == "sites" && matches!(key(2), "settings" | "settings-in")
    }

    /// Whether the value's span is all of it. A table under a header, or one made by dotted keys, has only the span of these,
    /// and its values stand elsewhere: they are left out one by one.
    fn is_in_one_piece(&self, value: &Spanned<DeValue<'_>>) -> bool {
        match value.get_ref() {
            DeValue::Table(_) => self.text.get(value.span()).is_some_and(|text| text.starts_with('{')),
            DeValue::Array(array) => array.iter().all(|item| self.is_in_one_piece(item)),
            _ => true,
        }
    }
}

/// Whether a text shows by itself that it is secret: a private key, or a password in an address.
fn is_secret_text(text: &str) -> bool {
    let in_address = |rest: &str| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    };
    text.contains("PRIVATE KEY") || text.split("://").skip(1).any(in_address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_left_out_and_all_else_stays() {
        let text = r#"# A remark.
[vault]
address = "s3://bucket/prefix"
passphrase-file = "passphrase"
[vault.secrets]
secret-access-key = { file = "s3-secret" }
[sites.farm]
adapter = "qemu"
settings.api-token = "hunter2"
settings.passwords = ["hunter3", "hunter4"]
settings.machines = [{ name = "a", password = 7, qmp = "/run/a" }]
settings.endpoint = "https://user:hunter5@example.org/x"
settings.plain = "https://example.org:80/@x"
settings.key = """
-----BEGIN PRIVATE KEY-----
hunter6
-----END PRIVATE KEY-----"""
"#;
        let (stored, left_out) = without_secrets(text).expect("TOML");
        assert_eq!(
            left_out,
            [
                "sites.farm.settings.api-token",
                "sites.farm.settings.passwords",
                "sites.farm.settings.machines[0].password",
                "sites.farm.settings.endpoint",
                "sites.farm.settings.key"
            ]
        );
        assert!(!stored.contains("hunter"), "{stored}");
        let value: toml::Table = stored.parse().expect("it is TOML still");
        assert_eq!(value["sites"]["farm"]["settings"]["api-token"].as_str(), Some("left out of the capsule"));
        for line in ["# A remark.", "passphrase-file = \"passphrase\"", "secret-access-key = { file = \"s3-secret\" }"]
        {
            assert!(stored.contains(line), "{line}");
        }
        assert!(stored.contains("https://example.org:80/@x"));
        let harmless = "[sites.farm]\nadapter = \"qemu\"\n";
        assert_eq!(without_secrets(harmless), Ok((harmless.to_owned(), Vec::new())));
    }

    #[test]
    fn a_table_under_a_secret_name_is_left_out_with_all_that_is_in_it() {
        let text = r#"
[vault.secrets]
token = { env = "TOKEN" }
[sites.farm.settings]
credentials = { user = "hunter1", more = [{ pin = 1 }] }
token-url = "https://example.org/hunter2"
auth.user = "hunter3"
plain = "stays"
[sites.farm.settings.bearer]
name = "hunter4"
[sites.farm.settings.bearer.deeper]
value = "hunter5"
[[sites.farm.settings.cookies]]
value = "hunter6"
[[sites.farm.settings.cookies]]
value = ["hunter7"]
[sites.farm.settings-in.live.passwd]
root = "hunter8"
[sites.farm.settings-in.live]
apiKey = "hunter9"
"#;
        let (stored, left_out) = without_secrets(text).expect("TOML");
        assert!(!stored.contains("hunter"), "{stored}");
        assert_eq!(
            left_out,
            [
                "sites.farm.settings.credentials",
                "sites.farm.settings.token-url",
                "sites.farm.settings.auth.user",
                "sites.farm.settings.bearer.name",
                "sites.farm.settings.bearer.deeper.value",
                "sites.farm.settings.cookies[0].value",
                "sites.farm.settings.cookies[1].value",
                "sites.farm.settings-in.live.passwd.root",
                "sites.farm.settings-in.live.apiKey",
            ]
        );
        assert!(stored.contains("plain = \"stays\"") && stored.contains("token = { env = \"TOKEN\" }"), "{stored}");
    }

    #[test]
    fn a_long_list_of_names_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "ä".repeat(600);
        let cut = cut(&long);
        assert!(cut.len() <= DETAIL_BYTES_MAX && cut.ends_with("ä..."), "{}", cut.len());
    }
}
