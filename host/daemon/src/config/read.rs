//! From the text of `farshore.toml` to its words, with every mistake and not only the first.
//!
//! serde stops at the first mistake. So the text becomes a tree whose nodes know their bytes, and the tree is read again
//! and again: what one reading stumbles over is noted and cut out, until a reading goes through. What is cut out never
//! causes a second complaint: a table that lacks a key because its value was wrong is cut out in silence. Each round cuts
//! something, and there are at most [`ROUNDS_MAX`], so that reading ends.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::{
    model::Document,
    places::{Part, Path, Places, dotted, place},
    problem::{Problem, closest, is_secret_key},
};

/// The most mistakes that one reading of a file finds.
const ROUNDS_MAX: usize = 100;

/// What reading a file came to: as much of it as is right, and everything that is not.
#[derive(Debug)]
pub struct Reading {
    /// What could be read. Entries with mistakes are left out of it.
    pub document: Document,
    /// Where everything stands.
    pub places: Places,
    /// The mistakes of syntax, keys and types.
    pub problems: Vec<Problem>,
    /// Where groups name sites, and which: also of groups that are left out of the document.
    pub site_references: Vec<(Path, String)>,
}

/// Reads a configuration.
pub fn read(text: &str) -> Reading {
    let (mut tree, errors) = DeTable::parse_recoverable(text);
    let places = Places::of(tree.get_ref());
    let site_references = site_references(tree.get_ref());
    let mut problems: Vec<Problem> = errors.iter().take(ROUNDS_MAX).map(|error| syntax_problem(error, text)).collect();
    for _ in 0..ROUNDS_MAX {
        let error = match serde_path_to_error::deserialize(toml::Deserializer::from(tree.clone())) {
            Ok(document) => return Reading { document, places, problems, site_references },
            Err(error) => error,
        };
        let mistake = Mistake::find(&parts(error.path()), error.inner(), &places);
        if !mistake.follows_from_a_cut(tree.get_ref(), &places) {
            problems.push(mistake.problem);
        }
        if !cut(tree.get_mut(), &mistake.cut) {
            break;
        }
    }
    Reading { document: Document::default(), places, problems, site_references }
}

fn site_references(tree: &DeTable<'_>) -> Vec<(Path, String)> {
    let groups =
        tree.iter().filter(|(key, _)| key.get_ref() == "groups").filter_map(|(_, value)| value.get_ref().as_table());
    let mut references = Vec::new();
    for (name, group) in groups.flatten() {
        for (key, value) in group.get_ref().as_table().into_iter().flatten() {
            let key = key.get_ref().as_ref();
            if let ("site" | "recovery-site", Some(site)) = (key, value.get_ref().as_str()) {
                references.push((place!["groups", name.get_ref().as_ref(), key], site.to_owned()));
            }
        }
    }
    references
}

fn syntax_problem(error: &toml::de::Error, text: &str) -> Problem {
    // An error at the end of the text has an empty range there; the last character stands in for it.
    let last = text.len().saturating_sub(1)..text.len();
    let span =
        error.span().map_or(last.clone(), |span| if span.is_empty() && span.start >= text.len() { last } else { span });
    let span = if span.is_empty() { span.start..span.start + 1 } else { span };
    Problem::error(span, format!("this is not TOML: {}", error.message()))
}

fn parts(path: &serde_path_to_error::Path) -> Path {
    use serde_path_to_error::Segment;
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Map { key } => Some(Part::Key(key.clone())),
            Segment::Seq { index } => Some(Part::Index(*index)),
            Segment::Enum { variant } => Some(Part::Key(variant.clone())),
            Segment::Unknown => None,
        })
        .collect()
}

/// What one reading stumbled over.
struct Mistake {
    problem: Problem,
    /// What is cut out so that the next reading gets further.
    cut: Path,
    /// The path of a key that is said to be missing.
    missing: Option<Path>,
}

impl Mistake {
    fn find(path: &[Part], error: &toml::de::Error, places: &Places) -> Self {
        // The deepest thing on the path that the file has: a path may end in a key that serde only looked for.
        let mut table = path.to_vec();
        while !table.is_empty() && !places.contains(&table) {
            table.pop();
        }
        let message = error.message();
        if let Some(name) = quoted_after(message, "unknown field `") {
            let mut entry = table;
            if entry.last() != Some(&Part::from(name)) {
                entry.push(Part::from(name));
            }
            return Self { problem: unknown_key(&entry, message, places), cut: entry, missing: None };
        }
        if let Some(name) = quoted_after(message, "missing field `") {
            let missing: Path = table.iter().cloned().chain([Part::from(name)]).collect();
            let problem = Problem::error(places.value(&table), format!("[{}] has no `{name}`", dotted(&table)))
                .hint(format!("add a line `{name} = ...`"));
            return Self { problem, cut: table, missing: Some(missing) };
        }
        let span = error.span().unwrap_or_else(|| places.value(&table));
        if let Some(entry) = places.entry_with_key(&table, &span) {
            return Self { problem: Problem::error(span, message), cut: entry, missing: None };
        }
        let problem =
            if is_secret_place(&table) { literal_secret(&table, span) } else { Problem::error(span, message) };
        Self { problem, cut: table, missing: None }
    }

    /// The key that is missing stood in the file, and was cut out because of a mistake that is noted already.
    fn follows_from_a_cut(&self, tree: &DeTable<'_>, places: &Places) -> bool {
        self.missing.as_ref().is_some_and(|path| places.contains(path) && !stands(tree, path))
    }
}

fn quoted_after<'a>(message: &'a str, start: &str) -> Option<&'a str> {
    message.strip_prefix(start)?.split('`').next()
}

/// The keys that serde says it knows: `expected one of `a`, `b`` or `expected `a` or `b``.
pub(super) fn known_keys(message: &str) -> Vec<&str> {
    let Some((_, expected)) = message.split_once(", expected ") else { return Vec::new() };
    expected.split('`').skip(1).step_by(2).collect()
}

fn unknown_key(entry: &[Part], message: &str, places: &Places) -> Problem {
    let (name, table) = match entry.split_last() {
        Some((Part::Key(name), table)) => (name.as_str(), table),
        _ => ("", entry),
    };
    let span = places.key(entry);
    if is_secret_key(name) {
        return literal_secret(entry, span);
    }
    let known = known_keys(message);
    let place = if table.is_empty() { "at the top of the file".to_owned() } else { format!("in [{}]", dotted(table)) };
    let problem = Problem::error(span, format!("there is no key `{name}` {place}"));
    match closest(name, known.iter().copied()) {
        Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
        None if known.is_empty() => problem,
        None => problem.hint(format!("the keys there are {}", list(&known))),
    }
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Whether what stands there is a secret, or should say where one is found.
fn is_secret_place(path: &[Part]) -> bool {
    path.starts_with(&place!["vault", "secrets"]) && path.len() == 3
        || path.starts_with(&place!["vault", "data", "secrets"]) && path.len() == 4
        || path.starts_with(&place!["telemetry", "headers"]) && path.len() == 3
        || is_of_a_credential(path) && matches!(path.last(), Some(Part::Key(key)) if key == "access-key-id")
        || matches!(path.last(), Some(Part::Key(key)) if is_secret_key(key))
}

/// Whether it lies in the table of a site's credential.
fn is_of_a_credential(path: &[Part]) -> bool {
    let keys: Vec<&Part> = path.iter().collect();
    matches!(keys.as_slice(), [Part::Key(sites), _, Part::Key(credentials), _, ..] if sites == "sites" && credentials == "credentials")
}

/// The refusal of a secret in the file itself. It does not repeat what was found.
pub(super) fn literal_secret(path: &[Part], span: Range<usize>) -> Problem {
    let name = match path.last() {
        Some(Part::Key(key)) => key.as_str(),
        _ => "",
    };
    let hint = if name == "passphrase" {
        "put it into a file that only you can read and write `passphrase-file = \"...\"`, or name an environment variable \
         with `passphrase-env = \"...\"`; with neither, you are asked on the terminal"
            .to_owned()
    } else {
        let table = match path {
            [rest @ .., _] if is_of_a_credential(path) => format!("[{}]", dotted(rest)),
            _ if path.starts_with(&place!["vault", "data"]) => "[vault.data.secrets]".to_owned(),
            _ if path.starts_with(&place!["telemetry"]) => "[telemetry.headers]".to_owned(),
            _ => "[vault.secrets]".to_owned(),
        };
        format!("write `{name} = {{ file = \"...\" }}` or `{name} = {{ env = \"...\" }}` in {table}")
    };
    Problem::error(span, "a secret never stands in this file itself: change it, since others may have read it")
        .hint(hint)
        .secret()
}

fn stands(tree: &DeTable<'_>, path: &[Part]) -> bool {
    let Some((Part::Key(first), rest)) = path.split_first() else { return false };
    let Some((_, value)) = tree.iter().find(|(key, _)| key.get_ref() == first) else { return false };
    let mut value = value.get_ref();
    for part in rest {
        let next = match (value, part) {
            (DeValue::Table(table), Part::Key(name)) => {
                table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value)
            }
            (DeValue::Array(array), Part::Index(index)) => array.get(*index),
            _ => None,
        };
        match next {
            Some(next) => value = next.get_ref(),
            None => return false,
        }
    }
    true
}

/// Takes what stands at the path out of the tree: for something in an array, the whole array. Says whether there was
/// something.
fn cut(tree: &mut DeTable<'_>, path: &[Part]) -> bool {
    let keys = path.iter().map_while(|part| match part {
        Part::Key(key) => Some(key.as_str()),
        Part::Index(_) => None,
    });
    let keys: Vec<&str> = keys.collect();
    let Some((last, above)) = keys.split_last() else { return false };
    let mut table = tree;
    for key in above {
        let Some((_, value)) = table.iter_mut().find(|(found, _)| found.get_ref().as_ref() == *key) else {
            return false;
        };
        let DeValue::Table(next) = value.get_mut() else { return false };
        table = next;
    }
    table.remove(*last).is_some()
}
