use std::{
    os::unix::fs::{PermissionsExt, symlink},
    time::Duration,
};

use farshore_core::{Clock as _, SystemClock};

use super::*;

struct Granted {
    folder: tempfile::TempDir,
}

impl Granted {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("granted")).expect("a folder");
        std::fs::write(folder.path().join("secret"), b"secret").expect("a file");
        Self { folder }
    }

    fn path(&self, rest: &str) -> PathBuf {
        self.folder.path().join("granted").join(rest)
    }

    fn at(&self, rest: &str) -> Below {
        Below { folder: self.folder.path().join("granted"), rest: PathBuf::from(rest) }
    }
}

#[test]
fn a_file_is_made_with_its_folders_and_removed_twice() {
    let granted = Granted::new();
    let place = granted.at("a/b/disk.raw");
    assert_eq!(place.inspect(), Err(FolderError::System(Errno::NOENT)));
    let made = place.create(1 << 40).expect("made");
    assert_eq!((made.size_bytes, made.allocated_bytes), (1 << 40, 0));
    assert_eq!(place.create(1), Err(FolderError::System(Errno::EXIST)));
    assert_eq!(place.inspect().expect("it is there").size_bytes, 1 << 40);
    assert_eq!(place.open_disk(false).expect("opened"), granted.path("a/b/disk.raw"));
    let mode = std::fs::metadata(granted.path("a/b/disk.raw")).expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777 & !0o640, 0, "{mode:o}");
    assert_eq!(granted.at("a/b").remove(), Err(FolderError::System(Errno::NOTEMPTY)));
    assert_eq!((place.remove(), place.remove()), (Ok(true), Ok(false)));
    assert_eq!((granted.at("a/b").remove(), granted.at("a/b/disk.raw").remove()), (Ok(true), Ok(false)));
    assert!(matches!(granted.at("").remove(), Err(FolderError::WrongKind(_))));
    assert!(granted.path("a").exists());
}

#[tokio::test]
async fn a_change_of_a_file_is_seen_even_if_its_times_were_put_back() {
    let granted = Granted::new();
    let place = granted.at("disk.raw");
    let made = place.create(4_096).expect("made");
    let changed = made.changed_microseconds.expect("a file has one");
    let file = std::fs::File::options().write(true).open(granted.path("disk.raw")).expect("a file");
    let modified = file.metadata().and_then(|metadata| metadata.modified()).expect("a time");
    // File systems count in steps of some milliseconds.
    SystemClock.sleep(Duration::from_millis(50)).await;
    assert_eq!(place.inspect().expect("it is there"), made, "time alone changes nothing");
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 0).expect("room");
    file.set_modified(modified).expect("put back");
    let later = place.inspect().expect("it is there").changed_microseconds.expect("a file has one");
    assert!((40_000..60_000_000).contains(&(later - changed)), "in microseconds: {changed}, then {later}");
}

#[test]
fn a_file_that_cannot_be_made_leaves_nothing() {
    let granted = Granted::new();
    assert!(granted.at("huge").create(u64::MAX >> 1).is_err());
    assert!(!granted.path("huge").exists());
}

#[test]
fn links_out_of_the_folder_lead_nowhere() {
    let granted = Granted::new();
    let outside = granted.folder.path();
    symlink(outside.join("secret"), granted.path("absolute")).expect("a link");
    symlink("../secret", granted.path("relative")).expect("a link");
    symlink("..", granted.path("up")).expect("a link");
    symlink("../nothing", granted.path("dangling")).expect("a link");
    for name in ["absolute", "relative", "up/secret", "dangling", "dangling/x"] {
        let place = granted.at(name);
        assert_eq!(place.inspect(), Err(FolderError::LeadsOut), "{name}");
        assert_eq!(place.open_disk(true), Err(FolderError::LeadsOut), "{name}");
        assert_eq!(place.resolve_or_place(), Err(FolderError::LeadsOut), "{name}");
    }
    assert_eq!(granted.at("up").list(None), Err(FolderError::LeadsOut));
    assert_eq!(granted.at("up/made").create(1), Err(FolderError::LeadsOut));
    assert_eq!(granted.at("up/secret").remove(), Err(FolderError::LeadsOut));
    assert_eq!(granted.at("absolute").create(1), Err(FolderError::System(Errno::EXIST)));
    // The link itself lies in the folder and may go; what it leads to stays.
    assert_eq!(granted.at("absolute").remove(), Ok(true));
    assert_eq!(std::fs::read(outside.join("secret")).expect("it stays"), b"secret");
    assert!(!outside.join("made").exists());
}

#[test]
fn links_inside_the_folder_are_followed() {
    let granted = Granted::new();
    granted.at("real").create(512).expect("made");
    symlink("real", granted.path("link")).expect("a link");
    symlink("nothing", granted.path("dangling")).expect("a link");
    assert_eq!(granted.at("link").open_disk(true).expect("opened"), granted.path("real"));
    assert_eq!(granted.at("new").resolve_or_place().expect("a place"), granted.path("new"));
    assert!(matches!(granted.at("dangling").resolve_or_place(), Err(FolderError::WrongKind(_))));
    assert_eq!(granted.at("no/new").resolve_or_place(), Err(FolderError::System(Errno::NOENT)));
}

#[test]
fn what_is_no_disk_is_not_opened() {
    let granted = Granted::new();
    std::fs::create_dir(granted.path("folder")).expect("a folder");
    rustix::fs::mkfifoat(CWD, granted.path("pipe"), Mode::RWXU).expect("a pipe");
    assert!(matches!(granted.at("folder").open_disk(true), Err(FolderError::WrongKind(_))));
    assert!(matches!(granted.at("pipe").open_disk(true), Err(FolderError::WrongKind(_))));
    assert!(matches!(granted.at("pipe").inspect(), Err(FolderError::WrongKind(_))));
}

#[test]
fn a_folder_is_listed_by_pages_in_order() {
    let granted = Granted::new();
    for number in 0..(FOLDER_PAGE_ENTRIES_MAX + 5) {
        std::fs::write(granted.path(&format!("f{number:05}")), b"").expect("a file");
    }
    std::fs::create_dir(granted.path("a-folder")).expect("a folder");
    symlink("f00000", granted.path("link")).expect("a link");
    let (first, more) = granted.at("").list(None).expect("a page");
    assert_eq!((first.len(), more), (FOLDER_PAGE_ENTRIES_MAX, true));
    assert_eq!(first.first(), Some(&FolderEntry { name: "a-folder".to_owned(), folder: true }));
    let last = first.last().expect("an entry").name.clone();
    let (second, more) = granted.at("").list(Some(&last)).expect("a page");
    assert!(!more);
    let names: Vec<&str> = second.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["f00999", "f01000", "f01001", "f01002", "f01003", "f01004"]);
    assert_eq!(granted.at("nothing").list(None), Ok((Vec::new(), false)));
}
