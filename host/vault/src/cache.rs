//! A bounded cache that keeps what was used lately, in two halves: when the young half is full it becomes the old one,
//! and what nobody asked for since is dropped.

use std::collections::BTreeMap;

/// At most twice `half` entries.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    half: usize,
    young: BTreeMap<K, V>,
    old: BTreeMap<K, V>,
}

impl<K: Ord, V: Clone> Cache<K, V> {
    pub(crate) fn new(half: usize) -> Self {
        Self { half, young: BTreeMap::new(), old: BTreeMap::new() }
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.insert(key, value.clone());
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let mut cache = Cache::new(10);
        for number in 0..1000 {
            cache.insert(number, number);
            assert_eq!(cache.get(&0), Some(0), "what is asked for stays, at {number}");
            assert!(cache.young.len() + cache.old.len() <= 20);
        }
        assert_eq!(cache.get(&500), None);
        assert_eq!(cache.get(&999), Some(999));
    }
}
