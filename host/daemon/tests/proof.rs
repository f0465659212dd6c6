//! The story of a vault that loses something: it is proven, named, brought back from a copy, and proven again.

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use support::{World, success};

/// A world with the second golden vault, and a copy of it.
fn world() -> World {
    let world = World::new();
    let golden = fs::canonicalize("../../tests/compat/golden-2").expect("the golden vault is in the tree");
    for (from, to) in [("vault", "vault"), ("vault", "copy"), ("kit.toml", "kit.toml"), ("passphrase", "passphrase")] {
        let copied = Command::new("cp").arg("-r").arg(golden.join(from)).arg(world.path(to)).status();
        assert!(copied.expect("cp").success());
    }
    world
}

/// The files below a folder whose path has this part.
fn files(folder: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("readable").filter_map(Result::ok) {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path, part)),
            path if path.iter().any(|name| name == part) => found.push(path),
            _ => {}
        }
    }
    found.sort();
    found
}

fn json(world: &World, arguments: &[&str]) -> Value {
    serde_json::from_str(&success(world.run(&[&["--json"], arguments].concat()))).expect("JSON")
}

#[test]
fn what_is_lost_is_named_brought_back_from_a_copy_and_proven_again() {
    let world = world();
    let check = json(&world, &["vault", "check", "--depth", "sample", "--sample", "100%"]);
    assert_eq!(check["findings"], Value::Array(Vec::new()));
    assert_eq!(check["groups_without_points"].to_string(), r#"["shop"]"#);
    assert!(check["frames_verified"].as_u64() > Some(10), "{check}");
    let points = json(&world, &["points", "harbour"]);
    let of_points = |points: &Value, what: &str| {
        let points = points[0]["points"].as_array().expect("points").clone();
        points.iter().filter(|point| point["proofs"].to_string().contains(what)).count()
    };
    assert_eq!(of_points(&points, "sample"), 3, "{points}");
    let proven = success(world.run(&["vault", "prove", "--sample", "100%"]));
    assert!(proven.contains("all that was due is there"), "{proven}");

    let copy = format!("file:{}", world.path("copy").display());
    let whole = success(world.run(&["vault", "repair", "--from", &copy]));
    assert!(whole.starts_with("Nothing is missing. Stored data was not read"), "{whole}");
    // The newest point needs its own pack, and no other point does.
    let pack = files(&world.path("vault"), "packs").pop().expect("a data pack");
    let name = pack.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
    fs::remove_file(&pack).expect("lost");
    let lost = world.run(&["vault", "prove"]);
    let told = String::from_utf8_lossy(&lost.stdout).into_owned();
    assert_eq!(lost.status.code(), Some(3), "{told}");
    assert!(told.contains(&name) && told.matches("hurts point").count() == 1, "{told}");
    assert!(String::from_utf8_lossy(&lost.stderr).contains("FS6035"));
    let shown = success(world.run(&["points", "harbour"]));
    assert_eq!(shown.matches("HURT").count(), 1, "{shown}");

    let planned = world.run(&["vault", "repair", "--from", &copy]);
    let told = String::from_utf8_lossy(&planned.stdout).into_owned();
    assert!(told.contains("Nothing was done; --execute does it"), "{told}");
    assert_eq!((planned.status.code(), pack.exists()), (Some(3), false), "{told}");
    let repaired = success(world.run(&["vault", "repair", "--from", &copy, "--execute"]));
    assert!(repaired.contains("1 objects") && repaired.contains("Nothing was overwritten or deleted"), "{repaired}");
    assert!(repaired.contains("is there again, as far as a check of the structure tells"), "{repaired}");
    assert!(pack.exists());
    success(world.run(&["vault", "prove"]));
    let shown = success(world.run(&["points", "harbour"]));
    assert_eq!(shown.matches("HURT").count(), 0, "{shown}");
}

#[test]
fn a_lineage_that_cannot_be_read_is_listed_with_its_locks() {
    let world = world();
    let shown = json(&world, &["vault", "lock", "show"]);
    assert_eq!((&shown["groups"][0]["group"], &shown["groups"][1]), (&"harbour".into(), &Value::Null), "{shown}");
    let first = files(&world.path("vault"), "commits").remove(0);
    fs::set_permissions(&first, PermissionsExt::from_mode(0o600)).expect("writable");
    fs::write(&first, "no commit").expect("damaged");
    let shown = json(&world, &["vault", "lock", "show"]);
    let group = &shown["groups"][0];
    assert!(group["lineage"].is_string() && group["unreadable"].is_string() && group["group"].is_null(), "{shown}");
}

#[test]
fn a_standing_proof_goes_on_until_it_is_told_to_end() {
    let world = world();
    let mut proving = world.command(&["--json", "vault", "prove", "--watch", "--every", "1h"]);
    let mut proving = proving.stdout(std::process::Stdio::piped()).spawn().expect("started");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(proving.stdout.take().expect("piped")));
    let first: Value = serde_json::from_str(&lines.next().expect("a line").expect("readable")).expect("JSON");
    assert!(first["objects_seen"].as_u64() > Some(3) && first["at"].is_string(), "{first}");
    let pid = proving.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
    assert_eq!(proving.wait().expect("ended").code(), Some(143));
    let kept = fs::read_dir(world.path("state")).expect("a folder").filter_map(Result::ok);
    let is_state = |name: &str| name.starts_with("prover-") && name.ends_with(".json");
    assert_eq!(kept.filter(|entry| entry.file_name().to_str().is_some_and(is_state)).count(), 1);
}

/// The configuration of a vault with two addresses.
fn two(world: &World, metadata: &str) {
    let data = format!("[vault.data]\naddress = \"file:{}\"\n", world.path("vault").display());
    let text = support::CONFIGURATION.replace("[FOLDER]/vault", &format!("[FOLDER]/{metadata}"));
    world.write("farshore.toml", &format!("{text}\n{data}"));
}

#[test]
fn metadata_gets_an_address_of_its_own_is_lost_and_made_again() {
    let world = world();
    let before = json(&world, &["points", "harbour"]);
    two(&world, "metadata");
    let missing = world.run(&["points"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("FS1001"), "{missing:?}");
    let planned = success(world.run(&["vault", "make-metadata"]));
    assert!(planned.contains("Nothing was done; --execute does it") && !world.path("metadata").exists(), "{planned}");
    success(world.run(&["vault", "make-metadata", "--execute"]));
    assert_eq!(json(&world, &["points", "harbour"]), before);
    let info = success(world.run(&["vault", "info"]));
    assert!(info.contains("/metadata\n") && info.contains("data     file:") && info.contains("/vault\n"), "{info}");
    let checked = json(&world, &["vault", "check", "--depth", "full"]);
    assert_eq!(checked["findings"], Value::Array(Vec::new()));

    // Something is missing at the data: it is found, and copied without any other copy.
    let lost = files(&world.path("vault"), "commits").pop().expect("a commit");
    fs::remove_file(&lost).expect("lost");
    let found = world.run(&["vault", "check"]);
    let told = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(
        found.status.code() == Some(3) && told.contains("FS1025") && told.contains("and not at that of the data"),
        "{told}"
    );
    let planned = world.run(&["vault", "repair"]);
    let told = String::from_utf8_lossy(&planned.stdout).into_owned();
    assert!(told.contains("to the address of the data") && !lost.exists(), "{told}");
    let repaired = success(world.run(&["vault", "repair", "--execute"]));
    assert!(repaired.contains("1 objects were copied to the address of the data") && lost.exists(), "{repaired}");

    // The metadata is lost. The data alone is read, and not written to.
    fs::remove_dir_all(world.path("metadata")).expect("lost");
    let address = format!("file:{}", world.path("vault").display());
    let rescue = ["--json", "--kit", "kit.toml", "rescue", "--vault", &address, "--passphrase-file", "passphrase"];
    let rescued: Value = serde_json::from_str(&success(world.run(&rescue))).expect("JSON");
    let numbers = |groups: &Value| {
        let harbour =
            groups.as_array().expect("groups").iter().find(|group| group["group"] == "harbour").expect("there");
        let points = harbour["points"].as_array().expect("points");
        points.iter().map(|point| point["sequence"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&rescued), numbers(&before));
    world.write("farshore.toml", support::CONFIGURATION);
    let refused =
        world.run(&["vault", "join", "create", "newcomer", "--powers", "replicator", "--output", "join.toml"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("FS1025"), "{refused:?}");

    two(&world, "elsewhere");
    success(world.run(&["vault", "make-metadata", "--execute"]));
    assert_eq!(json(&world, &["vault", "check"])["findings"], Value::Array(Vec::new()));
    success(world.run(&["vault", "join", "create", "newcomer", "--powers", "replicator", "--output", "join.toml"]));
}
