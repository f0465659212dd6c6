//! Where everything stands in a configuration file.

use std::{collections::BTreeMap, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// One step from a table or an array to what is in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A key of a table.
    Key(String),
    /// A place in an array, from 0.
    Index(usize),
}

impl From<&str> for Part {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for Part {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// The way from the top of the file to a value.
pub type Path = Vec<Part>;

/// A [`Path`] of keys and indices.
macro_rules! place {
    ($($part:expr),* $(,)?) => { $crate::config::places::Path::from([$($crate::config::places::Part::from($part)),*]) };
}
pub(crate) use place;

/// A path as TOML writes it: `sites.farm.grants`.
pub fn dotted(path: &[Part]) -> String {
    let mut text = String::new();
    for part in path {
        match part {
            Part::Key(key) => {
                let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&if bare { key.clone() } else { format!("{key:?}") });
            }
            Part::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// The bytes of an entry.
#[derive(Debug, Clone)]
struct Place {
    key: Range<usize>,
    value: Range<usize>,
}

/// The bytes at which each entry of a file stands.
#[derive(Debug, Clone, Default)]
pub struct Places(BTreeMap<Path, Place>);

impl Places {
    /// The places of a parsed file.
    pub fn of(tree: &DeTable<'_>) -> Self {
        let mut places = Self::default();
        places.add_table(&mut Vec::new(), tree);
        places
    }

    fn add_table(&mut self, path: &mut Path, table: &DeTable<'_>) {
        for (key, value) in table {
            path.push(Part::Key(key.get_ref().to_string()));
            self.add(path, key.span(), value);
            path.pop();
        }
    }

    fn add(&mut self, path: &mut Path, key: Range<usize>, value: &Spanned<DeValue<'_>>) {
        self.0.insert(path.clone(), Place { key, value: value.span() });
        match value.get_ref() {
            DeValue::Table(table) => self.add_table(path, table),
            DeValue::Array(array) => {
                for (index, item) in array.iter().enumerate() {
                    path.push(Part::Index(index));
                    self.add(path, item.span(), item);
                    path.pop();
                }
            }
            _ => {}
        }
    }

    /// Whether the file has an entry there.
    pub fn contains(&self, path: &[Part]) -> bool {
        self.0.contains_key(path)
    }

    /// The bytes of the key at this path, or of the nearest one above it that the file has.
    pub fn key(&self, path: &[Part]) -> Range<usize> {
        self.nearest(path).map_or(0..0, |place| place.key.clone())
    }

    /// The bytes of the value at this path, or of the nearest one above it that the file has. For a table with a header
    /// they are the header's.
    pub fn value(&self, path: &[Part]) -> Range<usize> {
        self.nearest(path).map_or(0..0, |place| place.value.clone())
    }

    fn nearest(&self, mut path: &[Part]) -> Option<&Place> {
        loop {
            if let Some(place) = self.0.get(path) {
                return Some(place);
            }
            path = path.split_last()?.1;
        }
    }

    /// The path of the entry of this table whose key stands at these bytes.
    pub fn entry_with_key(&self, table: &[Part], key: &Range<usize>) -> Option<Path> {
        self.entries(table).find(|(_, place)| place.key == *key).map(|(path, _)| path.clone())
    }

    /// The names in the table at this path, also of entries whose values are wrong.
    pub fn names<'a>(&'a self, table: &'a [Part]) -> Vec<&'a str> {
        self.entries(table)
            .filter_map(|(path, _)| match path.last() {
                Some(Part::Key(key)) => Some(key.as_str()),
                _ => None,
            })
            .collect()
    }

    fn entries<'a>(&'a self, table: &'a [Part]) -> impl Iterator<Item = (&'a Path, &'a Place)> {
        self.0.iter().filter(move |(path, _)| path.len() == table.len() + 1 && path.starts_with(table))
    }
}
