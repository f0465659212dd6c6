//! What is really in the store, and everything that ever changed there.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use crate::history::Task;

/// How a store treats the condition of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditions {
    /// As it should.
    Honoured,
    /// It overwrites, and says that all went well.
    Ignored,
    /// It looks first and writes later: two creates at the same time both win.
    IgnoredInRaces,
    /// It overwrites, and says that the object existed.
    IgnoredInSecret,
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its bytes.
    pub bytes: Bytes,
    /// When it was written, by the store's clock.
    pub written_at: Duration,
}

/// Something that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// An object came to be.
    Created {
        /// Its key.
        key: String,
        /// BLAKE3 of its bytes.
        hash: [u8; 32],
        /// What its maker was about.
        by: Task,
        /// When, by the store's clock.
        at: Duration,
    },
    /// An object got other bytes.
    Overwritten {
        /// Its key.
        key: String,
        /// BLAKE3 of its new bytes.
        hash: [u8; 32],
    },
    /// An object is gone.
    Deleted {
        /// Its key.
        key: String,
        /// What the one was about who deleted it.
        by: Task,
    },
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Objects {
    there: BTreeMap<String, Object>,
    /// What was deleted, with the moment: a stale listing still shows it.
    gone: Vec<(String, Object, Duration)>,
    /// Everything that changed, in order.
    pub effects: Vec<Effect>,
    /// Every payload that was ever sent here, stored or not.
    pub sent: Vec<(String, Bytes)>,
    /// How creates are treated.
    pub conditions: Conditions,
}

impl Objects {
    /// A store that holds these from the beginning.
    pub fn new(initial: BTreeMap<String, Bytes>, conditions: Conditions) -> Self {
        let object = |(key, bytes)| (key, Object { bytes, written_at: Duration::ZERO });
        let there: BTreeMap<_, _> = initial.into_iter().map(object).collect();
        let created = |(key, object): (&String, &Object)| Effect::Created {
            key: key.clone(),
            hash: *blake3::hash(&object.bytes).as_bytes(),
            by: Task::Other,
            at: Duration::ZERO,
        };
        Self { effects: there.iter().map(created).collect(), there, gone: Vec::new(), sent: Vec::new(), conditions }
    }

    /// An object.
    pub fn get(&self, key: &str) -> Option<&Object> {
        self.there.get(key)
    }

    /// All objects, by key.
    pub fn all(&self) -> &BTreeMap<String, Object> {
        &self.there
    }

    /// Creates an object if there is none, as far as this store honours that. False means that the caller is told that
    /// there is one. `existed` says whether there was one when the request came.
    pub fn create(&mut self, key: &str, bytes: Bytes, by: Task, now: Duration, existed: bool) -> bool {
        let exists = self.there.contains_key(key);
        let (writes, tells_created) = match self.conditions {
            Conditions::Honoured => (!exists, !exists),
            Conditions::Ignored => (true, true),
            Conditions::IgnoredInRaces => (!existed, !existed),
            Conditions::IgnoredInSecret => (true, !exists),
        };
        if writes {
            self.write(key, bytes, by, now);
        }
        tells_created
    }

    /// Writes an object, whatever is there.
    pub fn write(&mut self, key: &str, bytes: Bytes, by: Task, now: Duration) {
        let hash = *blake3::hash(&bytes).as_bytes();
        let before = self.there.insert(key.to_owned(), Object { bytes, written_at: now });
        let key = key.to_owned();
        self.effects.push(match before {
            None => Effect::Created { key, hash, by, at: now },
            Some(_) => Effect::Overwritten { key, hash },
        });
    }

    /// Deletes an object; whether there was one.
    pub fn delete(&mut self, key: &str, by: Task, now: Duration) -> bool {
        let Some(object) = self.there.remove(key) else { return false };
        self.effects.push(Effect::Deleted { key: key.to_owned(), by });
        self.gone.push((key.to_owned(), object, now));
        true
    }

    /// What lay below a prefix at a moment: keys, lengths, and when each was written.
    pub fn listed(&self, prefix: &str, at: Duration) -> Vec<(String, u64, Duration)> {
        let below = |key: &str| match key.strip_prefix(prefix) {
            Some(rest) => prefix.is_empty() || rest.starts_with('/'),
            None => false,
        };
        let there = self.there.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        let gone = self.gone.iter().filter(|(_, _, deleted_at)| *deleted_at > at);
        let mut listed: BTreeMap<&str, &Object> = gone.map(|(key, object, _)| (key.as_str(), object)).collect();
        listed.extend(there.map(|(key, object)| (key.as_str(), object)));
        let shown = listed.into_iter().filter(|(key, object)| below(key) && object.written_at <= at);
        shown.map(|(key, object)| (key.to_owned(), object.bytes.len() as u64, object.written_at)).collect()
    }

    /// BLAKE3 over all keys and bytes.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for (key, object) in &self.there {
            hasher.update(key.as_bytes()).update(&(object.bytes.len() as u64).to_le_bytes()).update(&object.bytes);
        }
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_create_is_refused_where_conditions_are_honoured_and_nowhere_else() {
        for (conditions, second_is_told, content) in [
            (Conditions::Honoured, false, "one"),
            (Conditions::Ignored, true, "two"),
            (Conditions::IgnoredInRaces, true, "two"),
            (Conditions::IgnoredInSecret, false, "two"),
        ] {
            let mut objects = Objects::new(BTreeMap::new(), conditions);
            assert!(objects.create("k", Bytes::from_static(b"one"), Task::Other, seconds(1), false));
            // The second was sent before the first arrived.
            assert_eq!(objects.create("k", Bytes::from_static(b"two"), Task::Other, seconds(2), false), second_is_told);
            assert_eq!(
                objects.get("k").map(|object| object.bytes.as_ref()),
                Some(content.as_bytes()),
                "{conditions:?}"
            );
        }
    }

    #[test]
    fn a_stale_listing_shows_what_was_there_then() {
        let mut objects = Objects::new(BTreeMap::new(), Conditions::Honoured);
        objects.write("a/1", Bytes::from_static(b"x"), Task::Other, seconds(1));
        objects.write("a/2", Bytes::from_static(b"x"), Task::Other, seconds(5));
        objects.write("ab/3", Bytes::from_static(b"x"), Task::Other, seconds(1));
        assert!(objects.delete("a/1", Task::Other, seconds(7)));
        let names = |at| objects.listed("a", seconds(at)).into_iter().map(|(key, ..)| key).collect::<Vec<_>>();
        assert_eq!(names(2), ["a/1"]);
        assert_eq!(names(6), ["a/1", "a/2"]);
        assert_eq!(names(8), ["a/2"]);
    }
}
