//! A site's settings against the JSON Schema that its adapter gives, with each mistake at its place in the file.

use farshore_core::SiteName;
use farshore_plugin::Mode;
use jsonschema::{Validator, error::ValidationErrorKind};
use serde_json::{Map, Value};

use super::{
    Site,
    places::{Part, Path, Places, dotted, place},
    problem::{Problem, closest},
};

/// The most mistakes that one check reports.
const PROBLEMS_MAX: usize = 100;

/// A schema that is no schema: a mistake of the component's author.
#[derive(Debug, thiserror::Error)]
#[error("the adapter's settings schema is not a JSON Schema (2020-12): {0}")]
pub struct SchemaError(String);

/// Checks what a site's adapter is told, in each mode.
///
/// # Errors
/// When the schema itself is wrong.
pub fn check_settings(
    schema: &Value,
    name: &SiteName,
    site: &Site,
    places: &Places,
) -> Result<Vec<Problem>, SchemaError> {
    let validator = jsonschema::draft202012::new(schema).map_err(|error| SchemaError(error.to_string()))?;
    let in_every_mode = place!["sites", name.as_str(), "settings"];
    let (own, without): (Vec<Mode>, Vec<Mode>) =
        Mode::ALL.into_iter().partition(|mode| site.settings_in.for_mode(*mode).is_some());
    let mut documents = Vec::new();
    // What holds for every mode need not be right alone where every mode has its own part.
    if !without.is_empty() {
        documents.push(Told { settings: Value::Object(site.settings.clone()), base: in_every_mode.clone(), own: None });
    }
    for mode in own {
        let place = place!["sites", name.as_str(), "settings-in", mode.as_str()];
        let keys = site.settings_in.for_mode(mode).map(|own| (place, own));
        let settings = Value::Object(site.settings_for(mode));
        documents.push(Told { settings, base: in_every_mode.clone(), own: keys });
    }
    let mut problems: Vec<Problem> = Vec::new();
    for told in &documents {
        for problem in check_told(&validator, schema, told, places) {
            // What is wrong for every mode is told once.
            if problems.len() < PROBLEMS_MAX && !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
    Ok(problems)
}

/// What an adapter is told in a mode, and where its parts stand in the file.
struct Told<'a> {
    settings: Value,
    base: Path,
    /// The table of the mode and its entries, if the file has one.
    own: Option<(Path, &'a Map<String, Value>)>,
}

impl Told<'_> {
    /// The table in which this key stands, or would stand.
    fn table_of(&self, key: &str) -> &Path {
        match &self.own {
            Some((place, own)) if own.contains_key(key) => place,
            _ => &self.base,
        }
    }

    /// A JSON pointer into the settings as a path in the file.
    fn path(&self, pointer: &str) -> Path {
        let tokens = pointer.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~"));
        let tokens: Vec<String> = tokens.collect();
        let mut path = tokens.first().map_or(&self.base, |key| self.table_of(key)).clone();
        let mut value = Some(&self.settings);
        for token in tokens {
            let (part, next) = match value {
                Some(Value::Array(items)) => {
                    let index = token.parse::<usize>().unwrap_or_default();
                    (Part::Index(index), items.get(index))
                }
                other => (Part::Key(token.clone()), other.and_then(|value| value.get(&token))),
            };
            path.push(part);
            value = next;
        }
        path
    }
}

fn check_told(validator: &Validator, schema: &Value, told: &Told<'_>, places: &Places) -> Vec<Problem> {
    let mut problems = Vec::new();
    for error in validator.iter_errors(&told.settings).take(PROBLEMS_MAX) {
        let pointer = error.instance_path().as_str();
        let path = told.path(pointer);
        let around = enclosing_schema(schema, error.schema_path().as_str());
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                let table = |name: &str| if pointer.is_empty() { told.table_of(name) } else { &path };
                problems.extend(unexpected.iter().map(|name| unknown_setting(name, table(name), around, places)));
            }
            ValidationErrorKind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                let problem = Problem::error(
                    places.value(&path),
                    format!("[{}] has no `{name}`, which the adapter needs", dotted(&path)),
                );
                problems.push(match description(around, name) {
                    Some(text) => problem.hint(format!("`{name}`: {text}")),
                    None => problem,
                });
            }
            _ => problems.push(wrong_value(&error, &path, schema, places)),
        }
    }
    problems
}

fn unknown_setting(name: &str, table: &[Part], schema: Option<&Value>, places: &Places) -> Problem {
    let path: Path = table.iter().cloned().chain([Part::from(name)]).collect();
    let problem =
        Problem::error(places.key(&path), format!("the adapter has no setting `{name}` in [{}]", dotted(table)));
    let known = schema.and_then(|schema| schema.get("properties")).and_then(Value::as_object);
    let known: Vec<&str> = known.map(|known| known.keys().map(String::as_str).collect()).unwrap_or_default();
    match closest(name, known.iter().copied()) {
        Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
        None if known.is_empty() => problem,
        None => problem.hint(format!("it has `{}`", known.join("`, `"))),
    }
}

fn wrong_value(error: &jsonschema::ValidationError<'_>, path: &[Part], schema: &Value, places: &Places) -> Problem {
    let name = dotted(path);
    let problem = Problem::error(places.value(path), format!("`{name}` is not as the adapter wants it: {error}"));
    let described = enclosing_schema(schema, error.schema_path().as_str());
    match described.and_then(|schema| schema.get("description")).and_then(Value::as_str) {
        Some(text) => problem.hint(text),
        None => problem,
    }
}

/// The part of the schema that holds the keyword at this JSON pointer.
fn enclosing_schema<'a>(schema: &'a Value, keyword: &str) -> Option<&'a Value> {
    schema.pointer(keyword.rsplit_once('/')?.0)
}

fn description<'a>(schema: Option<&'a Value>, property: &str) -> Option<&'a str> {
    schema?.get("properties")?.get(property)?.get("description")?.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::read::read;

    fn check(text: &str) -> Vec<(String, String, Option<String>)> {
        let schema = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["machines"],
            "properties": {
                "machines": {
                    "type": "array",
                    "description": "The machines of this site.",
                    "items": {
                        "type": "object",
                        "additionalProperties": false,
                        "required": ["name", "qmp-socket"],
                        "properties": {
                            "name": { "type": "string" },
                            "qmp-socket": { "type": "string", "pattern": "^/", "description": "An absolute path." },
                        },
                    },
                },
                "limit-mib": { "type": "integer", "minimum": 1, "description": "MiB." },
            },
        });
        let reading = read(text);
        assert_eq!(reading.problems, [], "the text itself is right");
        let (name, site) = reading.document.sites.first_key_value().expect("one site");
        check_settings(&schema, name, site, &reading.places)
            .expect("a schema")
            .into_iter()
            .map(|problem| (text[problem.span].to_owned(), problem.message, problem.hint))
            .collect()
    }

    #[test]
    fn every_wrong_setting_is_found_at_its_place() {
        let text = r#"
[sites.farm]
adapter = "qemu"
[sites.farm.settings]
limit-mib = 0
limit-mb = 4
[[sites.farm.settings.machines]]
name = "a"
qmp-socket = "relative"
[[sites.farm.settings.machines]]
name = 7
qmp-sock = "/x"
"#;
        let found = check(text);
        let at = |span: &str| found.iter().filter(move |(at, ..)| at == span).collect::<Vec<_>>();
        assert_eq!(at("0").len(), 1, "{found:#?}");
        assert_eq!(at("limit-mb").first().and_then(|(.., hint)| hint.as_deref()), Some("did you mean `limit-mib`?"));
        assert_eq!(at("\"relative\"").first().and_then(|(.., hint)| hint.as_deref()), Some("An absolute path."));
        assert_eq!(at("7").len(), 1, "{found:#?}");
        assert_eq!(at("qmp-sock").first().and_then(|(.., hint)| hint.as_deref()), Some("did you mean `qmp-socket`?"));
        let missing = found.iter().find(|(_, message, _)| message.contains("has no `qmp-socket`")).expect("found");
        assert_eq!(missing.2.as_deref(), Some("`qmp-socket`: An absolute path."));
        assert_eq!(found.len(), 6, "{found:#?}");
    }

    #[test]
    fn a_site_without_the_settings_that_it_needs_is_told_so() {
        let found = check("[sites.farm]\nadapter = \"qemu\"\n");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1, "[sites.farm.settings] has no `machines`, which the adapter needs");
        assert_eq!(found[0].0, "[sites.farm]");
    }

    #[test]
    fn what_holds_in_one_mode_is_checked_as_the_adapter_gets_it_and_found_at_its_place() {
        let text = r#"
[sites.farm]
adapter = "qemu"
[sites.farm.settings]
machines = []
limit-mib = 4
[sites.farm.settings-in.drill]
limit-mib = -7
limit-mb = 5
[sites.farm.settings-in.live]
machines = [{ name = "a", qmp-socket = "relative" }]
"#;
        let mut found = check(text);
        found.sort();
        let messages: Vec<(&str, &str)> =
            found.iter().map(|(at, message, _)| (at.as_str(), message.as_str())).collect();
        assert_eq!(messages.len(), 3, "{found:#?}");
        assert_eq!(messages[0].0, "\"relative\"");
        assert!(messages[0].1.starts_with("`sites.farm.settings-in.live.machines[0].qmp-socket` is not"), "{found:#?}");
        assert!(messages[1].0 == "-7" && messages[1].1.starts_with("`sites.farm.settings-in.drill.limit-mib` is not"));
        assert_eq!(
            messages[2],
            ("limit-mb", "the adapter has no setting `limit-mb` in [sites.farm.settings-in.drill]")
        );
    }

    #[test]
    fn what_is_wrong_in_every_mode_is_told_once() {
        let found = check(
            "[sites.farm]\nadapter = \"qemu\"\nsettings.machines = 7\nsettings-in.drill.limit-mib = 4\n\
             settings-in.live.limit-mib = 5\n",
        );
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0].0, "7");
    }

    #[test]
    fn what_every_mode_says_for_itself_need_not_stand_in_what_holds_for_all() {
        let mode = |mode: &str| format!("settings-in.{mode}.machines = []\n");
        let three: String = ["observe", "protect", "drill"].map(mode).concat();
        let site = "[sites.farm]\nadapter = \"qemu\"\n";
        assert_eq!(check(&format!("{site}{three}{}", mode("live"))), []);
        assert_eq!(check(&format!("{site}{three}")).len(), 1, "the fourth mode has no machines");
    }

    #[test]
    fn a_schema_that_is_none_is_the_adapters_mistake() {
        let wrong = json!({ "type": "no-such-type" });
        let reading = read("[sites.farm]\nadapter = \"qemu\"\n");
        let (name, site) = reading.document.sites.first_key_value().expect("one site");
        assert!(check_settings(&wrong, name, site, &reading.places).is_err());
    }
}
