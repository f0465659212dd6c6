//! Story: the demonstration of the README tells what it should, and leaves nothing but the folder that it names.

use std::{fs, process::Command};

use serde_json::Value;

#[test]
fn the_demonstration_brings_production_back() {
    let home = tempfile::Builder::new().prefix("fs").tempdir_in("/tmp").expect("a folder");
    let (folder, report) = (home.path().join("d"), home.path().join("report.json"));
    let demo = Command::new(farshore_e2e::binary().expect("the binary"))
        .args(["demo", "--report"])
        .arg(&report)
        .arg("--folder")
        .arg(&folder)
        .output()
        .expect("it runs");
    let story = String::from_utf8_lossy(&demo.stdout);
    assert!(demo.status.success(), "{story}\n{}", String::from_utf8_lossy(&demo.stderr));
    let report: Value = serde_json::from_slice(&fs::read(&report).expect("the report")).expect("JSON");
    let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name} is in {report}"));
    assert!(number("points") >= 2.0 && number("stored_bytes") > 0.0 && report["drill_ok"] == true, "{report}");
    assert!(number("last_row_recovered") > 0.0, "{report}");
    assert!(number("last_row_recovered") <= number("last_row_acknowledged"), "{report}");
    assert!(number("seconds_lost") >= 0.0 && number("seconds_to_recover") > 0.0, "{report}");
    assert!(number("rpo_seconds_max") > 0.0, "{report}");
    assert!(story.contains("vault check --full") && story.contains("explain FS"), "it names what to try next: {story}");
    let inside = folder.to_str().expect("text");
    let processes = fs::read_dir("/proc").expect("processes").flatten().filter(|process| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(inside)
    });
    assert_eq!(processes.count(), 0, "everything that it started is ended");
}
