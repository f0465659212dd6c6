//! The parts of the story that can be judged without a guest; the whole of it is an end-to-end test.

use super::*;

#[test]
fn a_folder_that_is_not_empty_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let new = folder.path().join("new");
    assert_eq!(own_folder(Some(&new)).expect("made"), new.canonicalize().expect("there"));
    fs::write(new.join("something"), "of somebody").expect("written");
    assert!(matches!(own_folder(Some(&new)), Err(DemoError::File { .. })));
}

#[test]
fn the_report_has_the_documented_keys() {
    let report = DemoReport {
        points: 5,
        stored_bytes: 6,
        rpo_seconds_max: 4.5,
        last_row_acknowledged: 9,
        last_row_recovered: 7,
        seconds_lost: 1.5,
        seconds_to_recover: 12.25,
        drill_ok: true,
    };
    let json = serde_json::to_value(&report).expect("a report serializes");
    let keys: Vec<&String> = json.as_object().expect("an object").keys().collect();
    assert_eq!(
        keys,
        [
            "drill_ok",
            "last_row_acknowledged",
            "last_row_recovered",
            "points",
            "rpo_seconds_max",
            "seconds_lost",
            "seconds_to_recover",
            "stored_bytes",
        ]
    );
}

#[test]
fn the_bytes_of_a_folder_are_those_of_all_its_files() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("a/b")).expect("made");
    fs::write(folder.path().join("x"), "123").expect("written");
    fs::write(folder.path().join("a/b/y"), "4567").expect("written");
    assert_eq!(folder_bytes(folder.path()).expect("read"), 7);
}

#[test]
fn a_binary_that_fails_ends_the_story_and_leaves_nothing_running() {
    let folder = tempfile::tempdir().expect("a folder");
    let options =
        DemoOptions { report: None, folder: Some(folder.path().join("d")), farshore: PathBuf::from("/bin/false") };
    let mut output = Vec::new();
    let error = run(&options, &Stop::default(), &mut output).expect_err("the commands fail");
    assert!(matches!(&error, DemoError::Farshore { command, .. } if command == "farshore config check"), "{error}");
    assert_eq!(recovered::machines_below(folder.path()).expect("processes are shown"), []);
    let told = String::from_utf8(output).expect("text");
    assert!(told.contains("starting a machine"), "{told}");
}

#[test]
fn a_wish_to_stop_ends_the_story_before_anything_is_started() {
    let folder = tempfile::tempdir().expect("a folder");
    let options =
        DemoOptions { report: None, folder: Some(folder.path().join("d")), farshore: PathBuf::from("/bin/false") };
    let stop = Stop::default();
    stop.request();
    assert!(matches!(run(&options, &stop, &mut Vec::new()), Err(DemoError::Interrupted)));
}
