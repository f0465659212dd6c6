use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use farshore_core::Coded as _;
use rusqlite::Connection;

use super::*;
use crate::{CODES, StateError, schema::VERSION};

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    format!("{}{suffix}", path.display()).into()
}

/// The bytes of a sound file with a few pages of events.
fn sound_file(path: &Path) -> Vec<u8> {
    let state = opened(path);
    state.record(&some_events(2_000)).expect("remembered");
    drop(state);
    let bytes = fs::read(path).expect("the file");
    assert!(bytes.len() > 40 * 4096);
    bytes
}

/// Opens a damaged file; what was there must be kept, and what is new must work.
fn assert_set_aside(path: &Path, number: u32) {
    let damaged = fs::read(path).expect("the damaged file");
    let Opened { state, is_new, set_aside } = State::open(path).expect("a new file in its place");
    let aside = with_suffix(path, &format!(".damaged-{number}"));
    assert!(is_new);
    assert_eq!(set_aside.as_ref(), Some(&aside));
    assert_eq!(fs::read(&aside).expect("the old one"), damaged);
    assert!(all_events(&state).is_empty());
    state.record(&some_events(2)).expect("remembered");
    drop(state);
    assert_eq!(all_events(&opened(path)), [1, 2]);
}

#[test]
fn a_damaged_file_is_set_aside_and_a_new_one_works() {
    let (_folder, path) = folder();
    fs::write(&path, [0xa5; 10_000]).expect("garbage");
    assert_set_aside(&path, 1);

    fs::write(&path, b"short").expect("garbage");
    assert_set_aside(&path, 2);

    let sound = sound_file(&path);
    fs::write(&path, &sound[..sound.len() / 2]).expect("cut short");
    assert_set_aside(&path, 3);

    let mut spoilt = sound.clone();
    spoilt[20 * 4096..21 * 4096].fill(0xa5);
    fs::write(&path, &spoilt).expect("a page of garbage");
    assert_set_aside(&path, 4);

    let mut emptied = sound;
    emptied[60..64].fill(0);
    fs::write(&path, &emptied).expect("a header that says that there are no tables");
    assert_set_aside(&path, 5);
}

#[test]
fn what_is_beside_a_damaged_file_goes_with_it() {
    let (_folder, path) = folder();
    for suffix in ["", "-wal", "-shm", "-journal"] {
        fs::write(with_suffix(&path, suffix), format!("not a database{suffix}")).expect("garbage");
    }
    // A number of which only a part is taken is not free.
    fs::write(with_suffix(&path, ".damaged-1-wal"), b"older").expect("an older one");
    let opened = State::open(&path).expect("a new file in its place");
    let aside = with_suffix(&path, ".damaged-2");
    assert_eq!(opened.set_aside.as_ref(), Some(&aside));
    assert_eq!(fs::read(&aside).expect("the file"), b"not a database");
    assert_eq!(fs::read(with_suffix(&path, ".damaged-1-wal")).expect("the older one"), b"older");
    opened.state.record(&some_events(1)).expect("remembered");
}

#[test]
fn of_several_that_find_the_damage_one_sets_the_file_aside() {
    let (_folder, path) = folder();
    fs::write(&path, [0xa5; 10_000]).expect("garbage");
    let aside: Vec<PathBuf> = thread::scope(|scope| {
        let openers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let opened = State::open(&path).expect("a new file");
                    opened.state.record(&some_events(1)).expect("remembered");
                    opened.set_aside
                })
            })
            .collect();
        openers.into_iter().filter_map(|opener| opener.join().expect("no panic")).collect()
    });
    assert_eq!(aside, [with_suffix(&path, ".damaged-1")]);
    assert_eq!(all_events(&opened(&path)), [1, 2, 3, 4]);
}

#[test]
fn whatever_stands_in_the_header_the_file_is_used_refused_or_set_aside() {
    let (_folder, path) = folder();
    let sound = sound_file(&path);
    for place in 0..100 {
        for byte in [0x00, 0xff] {
            let mut spoilt = sound.clone();
            spoilt[place] = byte;
            fs::write(&path, &spoilt).expect("spoilt");
            match State::open(&path) {
                Ok(opened) => opened.state.record(&some_events(1)).expect("remembered"),
                Err(StateError::Newer { .. }) => assert!((60..64).contains(&place), "{place}"),
                Err(StateError::Foreign { .. }) => assert!((68..72).contains(&place), "{place}"),
                // The version of the format that may write: SQLite takes such a file for one to be read only.
                Err(StateError::Database { .. }) => assert_eq!(place, 18),
                Err(error) => panic!("{place} {byte}: {error}"),
            }
            for suffix in ["", "-wal", "-shm", ".damaged-1"] {
                let _ = fs::remove_file(with_suffix(&path, suffix));
            }
        }
    }
}

#[test]
fn a_newer_file_is_refused_and_untouched() {
    let (_folder, path) = folder();
    let sound = sound_file(&path);
    let newer = Connection::open(&path).expect("a connection");
    newer.pragma_update(None, "user_version", VERSION + 1).expect("a newer version");
    // As a crash leaves it: what makes it newer is in the log only.
    let crashed = with_suffix(&path, "-crashed");
    fs::copy(with_suffix(&path, "-wal"), with_suffix(&crashed, "-wal")).expect("the log");
    fs::write(&crashed, sound).expect("the file");
    drop(newer);
    for path in [path, crashed] {
        let before = fs::read(&path).expect("the file");
        for error in [
            State::open(&path).map(drop).expect_err("refused"),
            State::open_to_read(&path).map(drop).expect_err("refused"),
        ] {
            assert!(
                matches!(error, StateError::Newer { found, known: VERSION, .. } if found == VERSION + 1),
                "{error}"
            );
            assert_eq!(error.code().to_string(), "FS6201");
        }
        assert_eq!(fs::read(&path).expect("the file"), before);
        assert!(!with_suffix(&path, ".damaged-1").exists());
    }
}

#[test]
fn the_database_of_another_program_is_refused_and_untouched() {
    let (_folder, path) = folder();
    let other = Connection::open(&path).expect("a connection");
    other.execute_batch("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)").expect("a table");
    drop(other);
    let before = fs::read(&path).expect("the file");
    let error = State::open(&path).map(drop).expect_err("refused");
    assert!(matches!(error, StateError::Foreign { .. }), "{error}");
    assert_eq!(error.code().to_string(), "FS6200");
    assert_eq!(fs::read(&path).expect("the file"), before);
}

#[test]
fn a_file_that_cannot_be_made_is_an_error_that_names_it() {
    let (folder, path) = folder();
    fs::create_dir(&path).expect("a folder in its place");
    let error = State::open(&path).map(drop).expect_err("a folder is no file");
    assert!(error.to_string().contains("state.db") && std::error::Error::source(&error).is_some(), "{error}");
    fs::write(folder.path().join("file"), b"").expect("a file");
    State::open(&folder.path().join("file").join("state.db")).map(drop).expect_err("a file is no folder");
}

#[test]
fn a_damaged_file_that_is_only_read_stays_where_it_is() {
    let (_folder, path) = folder();
    fs::write(&path, [0xa5; 10_000]).expect("garbage");
    let error = State::open_to_read(&path).map(drop).expect_err("damaged");
    assert_eq!(error.code().to_string(), "FS6200");
    assert!(path.exists() && !with_suffix(&path, ".damaged-1").exists());
}

#[test]
fn each_code_has_a_page() {
    for page in CODES {
        assert!(
            page.page.starts_with("## What happened\n") && page.page.contains("\n## What to do\n"),
            "{}",
            page.code
        );
    }
}
