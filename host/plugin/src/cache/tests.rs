use std::os::unix::fs::PermissionsExt;

use wasmtime::Config;

use super::*;

/// A component with nothing in it: enough for the cache, which does not look inside.
const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

fn engine() -> Engine {
    Engine::new(&Config::new()).expect("an engine")
}

struct Folder {
    outer: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { outer: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self) -> PathBuf {
        self.outer.path().join("deep").join("cache")
    }

    fn load(&self) -> bool {
        let cache = Cache::open(self.path());
        cache.load_or_compile(&engine(), &Digest::of(EMPTY), EMPTY).expect("a component").1
    }

    fn entries(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.path()).expect("the folder").map(|entry| entry.expect("an entry").path()).collect()
    }
}

#[test]
fn a_component_is_compiled_once() {
    let folder = Folder::new();
    assert!(!folder.load());
    assert!(folder.load());
    let entries = folder.entries();
    assert_eq!(entries.len(), 1, "nothing unfinished is left: {entries:?}");
    let mode = |path: &Path| std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!((mode(&folder.path()), mode(&entries[0])), (0o700, 0o600));
}

#[test]
fn a_damaged_entry_is_made_again() {
    let folder = Folder::new();
    assert!(!folder.load());
    let entry = folder.entries().remove(0);
    let good = std::fs::read(&entry).expect("the entry");
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let mut other_format = good.clone();
    other_format[0] ^= 1;
    for damaged in [Vec::new(), good[..40].to_vec(), good[..good.len() - 1].to_vec(), flipped, other_format] {
        std::fs::write(&entry, &damaged).expect("written");
        assert!(!folder.load(), "damaged code was loaded");
        assert!(folder.load(), "it was not made again");
        assert_eq!(std::fs::read(&entry).expect("the entry").len(), good.len());
    }
}

#[test]
fn code_of_another_configuration_is_not_found() {
    let folder = Folder::new();
    assert!(!folder.load());
    let mut config = Config::new();
    config.epoch_interruption(true);
    let other = Engine::new(&config).expect("an engine");
    let cache = Cache::open(folder.path());
    assert!(!cache.load_or_compile(&other, &Digest::of(EMPTY), EMPTY).expect("a component").1);
    assert_eq!(folder.entries().len(), 2);
}

#[test]
fn a_folder_that_others_can_reach_is_not_used() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path()).expect("a folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o750)).expect("a mode");
    assert!(!folder.load());
    assert!(!folder.load());
    assert!(folder.entries().is_empty());

    let linked = Folder::new();
    std::fs::create_dir_all(linked.outer.path().join("deep")).expect("a folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).expect("a mode");
    std::os::unix::fs::symlink(folder.path(), linked.path()).expect("a link");
    assert!(!linked.load());
    assert!(folder.entries().is_empty(), "a link was followed");
}

#[test]
fn the_oldest_entries_go() {
    let folder = Folder::new();
    assert!(!folder.load());
    for number in 0..CACHE_ENTRIES_MAX {
        let path = folder.path().join(format!("{number:03}.code"));
        let file = File::create(path).expect("a file");
        let age = std::time::Duration::from_secs(1_000 + number as u64);
        file.set_modified(std::time::UNIX_EPOCH + age).expect("a time");
    }
    let opened = open_private(&folder.path()).expect("the folder");
    remove_oldest(&opened).expect("removed");
    assert_eq!(folder.entries().len(), CACHE_ENTRIES_MAX);
    assert!(!folder.path().join("000.code").exists(), "the oldest is still there");
    assert!(folder.load(), "the newest is gone");
}
