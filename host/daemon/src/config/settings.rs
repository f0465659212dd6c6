//! A site's settings against the JSON Schema that its adapter gives, with each mistake at its place in the file.

use jsonschema::error::ValidationErrorKind;
use serde_json::{Map, Value};

use super::{
    places::{Part, Path, Places, dotted},
    problem::{Problem, closest},
};

/// The most mistakes that one check reports.
const PROBLEMS_MAX: usize = 100;

/// A schema that is no schema: a mistake of the component's author.
#[derive(Debug, thiserror::Error)]
#[error("the adapter's settings schema is not a JSON Schema (2020-12): {0}")]
pub struct SchemaError(String);

/// Checks settings. `base` is the path of the settings table in the file.
///
/// # Errors
/// When the schema itself is wrong.
pub fn check_settings(
    schema: &Value,
    settings: &Map<String, Value>,
    base: &[Part],
    places: &Places,
) -> Result<Vec<Problem>, SchemaError> {
    let validator = jsonschema::draft202012::new(schema).map_err(|error| SchemaError(error.to_string()))?;
    let settings = Value::Object(settings.clone());
    let mut problems = Vec::new();
    for error in validator.iter_errors(&settings).take(PROBLEMS_MAX) {
        let path = path_in(&settings, error.instance_path().as_str(), base);
        let around = enclosing_schema(schema, error.schema_path().as_str());
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                problems.extend(unexpected.iter().map(|name| unknown_setting(name, &path, around, places)));
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
    Ok(problems)
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

/// A JSON pointer into the settings as a path in the file.
fn path_in(settings: &Value, pointer: &str, base: &[Part]) -> Path {
    let mut path = base.to_vec();
    let mut value = Some(settings);
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{places::place, read::read};

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
        let site = reading.document.sites.first_key_value().expect("one site").1;
        check_settings(&schema, &site.settings, &place!["sites", "farm", "settings"], &reading.places)
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
    fn a_schema_that_is_none_is_the_adapters_mistake() {
        let wrong = json!({ "type": "no-such-type" });
        assert!(check_settings(&wrong, &Map::new(), &[], &Places::default()).is_err());
    }
}
