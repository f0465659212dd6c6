//! What is otherwise in one configuration than in another, key by key.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Configuration, Document,
    places::{Part, dotted},
    problem::is_secret_setting,
};

/// Tables of which a whole one came or went is told as one difference.
const WHOLE_TABLES: [&str; 3] = ["alerts", "groups", "sites"];
/// A value is shown up to so many characters.
const SHOWN_CHARACTERS_MAX: usize = 120;

/// A key that was added, taken away or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The key, as TOML writes its path; a table in brackets.
    pub key: String,
    /// What was there, as JSON; none if nothing was.
    pub before: Option<String>,
    /// What is there now, as JSON; none if nothing is.
    pub now: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, before, now } = self;
        let is_table = key.starts_with('[');
        match (before, now) {
            (None, Some(_)) if is_table => write!(formatter, "+ {key}"),
            (Some(_), None) if is_table => write!(formatter, "- {key}"),
            (None, Some(now)) => write!(formatter, "+ {key} = {now}"),
            (Some(before), None) => write!(formatter, "- {key} = {before}"),
            (Some(before), Some(now)) => write!(formatter, "~ {key} = {now} (was {before})"),
            (None, None) => write!(formatter, "  {key}"),
        }
    }
}

/// All differences, by key. Values that may be secret are not shown.
pub fn differences(before: &Configuration, now: &Configuration) -> Vec<Difference> {
    let (before, now) = (leaves(before), leaves(now));
    let mut found = Vec::new();
    let mut keys: Vec<&Vec<Part>> = before.keys().chain(now.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let whole = |path: &[Part]| -> Option<Vec<Part>> {
        let [Part::Key(kind), Part::Key(_), ..] = path else { return None };
        WHOLE_TABLES.contains(&kind.as_str()).then(|| path.iter().take(2).cloned().collect())
    };
    let has = |leaves: &Leaves, table: &[Part]| leaves.keys().any(|path| path.starts_with(table));
    for path in keys {
        if let Some(table) = whole(path)
            && has(&before, &table) != has(&now, &table)
        {
            let (was, is) = (has(&before, &table), has(&now, &table));
            let told = Difference {
                key: format!("[{}]", dotted(&table)),
                before: was.then(String::new),
                now: is.then(String::new),
            };
            if found.last() != Some(&told) {
                found.push(told);
            }
            continue;
        }
        let (was, is) = (before.get(path), now.get(path));
        if was != is {
            let show = |value: Option<&Value>| value.map(|value| shown(path, value));
            found.push(Difference { key: dotted(path), before: show(was), now: show(is) });
        }
    }
    found
}

type Leaves = BTreeMap<Vec<Part>, Value>;

/// All that is no table, by its path.
fn leaves(configuration: &Configuration) -> Leaves {
    let Configuration { host, vault, sites, groups, alerts, telemetry, .. } = configuration;
    let document = Document {
        host: host.clone(),
        vault: Some(vault.clone()),
        sites: sites.clone(),
        groups: groups.clone(),
        alerts: alerts.clone(),
        telemetry: telemetry.clone(),
    };
    let mut leaves = Leaves::new();
    // What was read from text can be written; a value that could not would show as no difference at all.
    let value = serde_json::to_value(document).unwrap_or_default();
    gather(&mut Vec::new(), value, &mut leaves);
    leaves
}

fn gather(path: &mut Vec<Part>, value: Value, leaves: &mut Leaves) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                path.push(Part::Key(key));
                gather(path, value, leaves);
                path.pop();
            }
        }
        Value::Null => {}
        value => {
            leaves.insert(path.clone(), value);
        }
    }
}

fn shown(path: &[Part], value: &Value) -> String {
    // The first two words are a table of ours and the operator's name for it.
    let is_secret = path.iter().skip(2).any(|part| matches!(part, Part::Key(key) if is_secret_setting(key)));
    if is_secret {
        return "(not shown)".to_owned();
    }
    // Of a webhook's address the path may be the secret.
    let is_webhook = matches!(path, [Part::Key(table), .., Part::Key(kind), Part::Key(key)] if table == "alerts" && kind == "webhook" && key == "address");
    if let Some(address) = value.as_str().filter(|_| is_webhook) {
        let host = address.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
        return format!("\"{host}/...\"");
    }
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Examined;

    const TEXT: &str = r#"
[vault]
address = "file:/srv/vault"

[sites.farm]
adapter = "qemu"
settings.machines = ["a"]
settings.api-token = "old"

[groups.shop]
site = "farm"
machines = ["web"]
rpo = "5s"
"#;

    fn configuration(text: &str) -> Configuration {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("farshore.toml");
        std::fs::write(&file, text).expect("written");
        Examined::read(&file).expect("readable").accept().expect("right")
    }

    fn told(before: &str, now: &str) -> Vec<String> {
        differences(&configuration(before), &configuration(now)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_key_is_told_once_and_a_table_as_a_whole() {
        assert_eq!(told(TEXT, &TEXT.replace("[vault]", "# only a remark\n[vault]")), Vec::<String>::new());
        let now = TEXT.replace("\"5s\"", "\"1m\"\npriority = \"high\"").replace("[\"web\"]", "[\"web\", \"db\"]");
        let expected = [
            "~ groups.shop.machines = [\"web\",\"db\"] (was [\"web\"])",
            "~ groups.shop.priority = \"high\" (was \"normal\")",
            "~ groups.shop.rpo = \"1m\" (was \"5s\")",
        ];
        assert_eq!(told(TEXT, &now), expected);
        let more = format!("{TEXT}[groups.new]\nsite = \"farm\"\nmachines = [\"x\"]\nrpo = \"1h\"\n");
        assert_eq!(told(TEXT, &more), ["+ [groups.new]"]);
        assert_eq!(told(&more, TEXT), ["- [groups.new]"]);
        let retention = TEXT.to_owned() + "retention.all = \"24h\"\n";
        assert!(told(TEXT, &retention).contains(&"+ groups.shop.retention.all = \"24h\"".to_owned()));
    }

    #[test]
    fn of_a_webhook_only_the_host_is_shown() {
        let with = |path: &str| format!("{TEXT}[alerts.a]\nwebhook.address = \"https://hooks.example.org/{path}\"\n");
        let shown = "\"https://hooks.example.org/...\"";
        assert_eq!(told(&with("one"), &with("two")), [format!("~ alerts.a.webhook.address = {shown} (was {shown})")]);
    }

    #[test]
    fn what_may_be_secret_is_not_shown_and_what_is_long_is_cut() {
        let told =
            told(TEXT, &TEXT.replace("\"old\"", "\"new\"").replace("[\"a\"]", &format!("[\"{}\"]", "b".repeat(500))));
        assert_eq!(told[0], "~ sites.farm.settings.api-token = (not shown) (was (not shown))");
        assert!(told[1].len() < 300 && told[1].contains("..."), "{told:?}");
    }
}
