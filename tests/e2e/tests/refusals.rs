//! Story: what cannot work says so, with a code and what to do; nothing is lost and nothing half-made is left.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use farshore_e2e::{Finished, World, leftovers};
use serde_json::Value;

/// The error of a command that must fail.
fn failure(finished: &Finished) -> Value {
    assert!(!finished.status.success(), "`{}` should have failed: {}", finished.command, finished.output);
    let failure = finished.failure().unwrap_or_else(|| panic!("an error as JSON, not {:?}", finished.errors));
    let text = failure.to_string();
    assert!(!text.contains("panicked"), "{text}");
    failure
}

fn protected_world() -> World {
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.protect("orders", &["orders"]).expect("a group");
    world
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files_below(&path)),
            path => found.push(path),
        }
    }
    found.sort();
    found
}

#[test]
fn a_vault_that_is_missing_or_does_not_open() {
    let world = protected_world();
    let missing = failure(&world.run(&["replicate", "--once"]).expect("ran"));
    assert_eq!(missing["code"], "FS1001", "{missing}");
    assert!(!world.site.vault_folder().exists(), "looking for a vault makes none");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    failure(&world.run(&["vault", "create", "--yes"]).expect("ran"));
    world.succeed(&["replicate", "--once"]).expect("a point");

    let passphrase = fs::read(world.site.passphrase_file()).expect("the passphrase");
    fs::write(world.site.passphrase_file(), "another one\n").expect("written");
    let target = world.folder().join("restored.raw");
    let restore = ["restore", "orders", "--to", target.to_str().expect("UTF-8")];
    let wrong = failure(&world.run(&restore).expect("ran"));
    assert_eq!(wrong["code"], "FS1003", "{wrong}");
    world.succeed(&["replicate", "--once"]).expect("what this host does by itself needs no passphrase");
    fs::write(world.site.passphrase_file(), passphrase).expect("written");
    fs::rename(world.site.kit_file(), world.folder().join("kit")).expect("moved away");
    let without_kit = failure(&world.run(&restore).expect("ran"));
    assert_eq!(without_kit["code"], "FS6005", "{without_kit}");
    assert!(!target.exists(), "nothing half-made is left");
    fs::rename(world.folder().join("kit"), world.site.kit_file()).expect("moved back");
    world.succeed(&restore).expect("the vault opens again");
}

#[test]
fn an_object_that_was_cut_or_altered_is_named_and_harms_no_other_point() {
    let world = protected_world();
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    world.succeed(&["replicate", "--once"]).expect("a point");
    let objects = files_below(&world.site.vault_folder());
    let largest = objects.iter().max_by_key(|path| fs::metadata(path).expect("a file").len()).expect("objects").clone();
    let whole = fs::read(&largest).expect("the object");
    let name = largest.file_name().expect("a name").to_string_lossy().into_owned();
    let mut altered = whole.clone();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    for damaged in [altered, whole[..whole.len() / 2].to_vec()] {
        fs::set_permissions(&largest, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("writable");
        fs::write(&largest, &damaged).expect("damaged");
        let target = world.folder().join("restored.raw");
        let file = target.to_string_lossy().into_owned();
        let restore = world.run(&["restore", "orders", "--machine", "orders", "--to", &file]).expect("ran");
        let error = failure(&restore);
        assert!(error.to_string().contains(&name), "it names the object: {error}");
        // A disk that does not need the damaged object is complete, and said to be; the other one is not there at all.
        let left =
            files_below(world.folder()).into_iter().filter(|path| path.to_string_lossy().contains("restored.raw"));
        let left: Vec<_> = left.map(|path| path.to_string_lossy().into_owned()).collect();
        assert!(
            left.len() < 2 && left.iter().all(|path| path.ends_with(".raw")),
            "nothing half-made is left: {left:?}"
        );
        for path in &left {
            assert!(restore.errors.contains(path.as_str()), "{path} is named as complete: {}", restore.errors);
            fs::remove_file(path).expect("removed");
        }
        let check = world.run(&["vault", "check", "--full"]).expect("ran");
        assert_eq!(check.exit_code(), Some(3), "{}{}", check.output, check.errors);
        assert!(check.output.contains(&name), "{}", check.output);
    }
    fs::write(&largest, &whole).expect("mended");
    world.succeed(&["vault", "check", "--full"]).expect("whole again");
}

#[test]
fn a_socket_that_nobody_answers() {
    let mut world = protected_world();
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    world.succeed(&["replicate", "--once"]).expect("a point");
    world.guest_mut("orders").kill();
    let error = failure(&world.run(&["replicate", "--once"]).expect("ran"));
    assert_eq!(error["code"], "FS3003", "{error}");
    let machines = world.run(&["machine", "discover"]).expect("ran");
    assert!(machines.output.contains("unknown"), "a machine that cannot be asked is listed: {}", machines.output);
    world.succeed(&["points", "orders"]).expect("the points are still there");
}

#[test]
fn what_is_not_granted_is_refused_with_the_line_that_would_grant_it() {
    let world = protected_world();
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    let file = world.site.configuration_file();
    let text = fs::read_to_string(&file).expect("the configuration");
    let (before, protect) = text.split_once("[sites.production.grants.protect]\n").expect("the grants");
    let after = protect.split_once("\n\n").expect("more").1;
    fs::write(&file, format!("{before}{after}")).expect("written");
    let error = failure(&world.run(&["replicate", "--once"]).expect("ran")).to_string();
    for part in ["qemu", "production", "[sites.production.grants.protect]", "unix = "] {
        assert!(error.contains(part), "{part} is in {error}");
    }
    let left = leftovers(world.guest("orders")).expect("QEMU answers");
    assert!(left.nothing_attached() && left.bitmaps.is_empty(), "{left:?}");
}

#[test]
fn a_target_that_is_full() {
    let world = protected_world();
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    world.succeed(&["replicate", "--once"]).expect("a point");
    let small = Mount::small(&world.site.drill_folder());
    let drill = world.run(&["drill", "orders"]).expect("ran");
    assert_eq!(drill.exit_code(), Some(3), "{}{}", drill.output, drill.errors);
    let report = drill.json().expect("a report");
    assert_eq!((&report["outcome"], &report["cleaned_up"]), (&Value::from("failed"), &Value::from(true)), "{report}");
    assert!(report["machines"][0]["error"].as_str().is_some_and(|error| error.contains("room")), "{report}");
    assert_eq!(files_below(&world.site.drill_folder()), Vec::<PathBuf>::new(), "nothing half-made is left");
    assert_eq!(world.recovered().expect("processes"), []);
    drop(small);
}

/// A small file system in memory over a folder; needs root, as the tests' own installation does.
struct Mount(PathBuf);

impl Mount {
    fn small(folder: &Path) -> Self {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(folder).status();
        assert!(status.expect("mount runs").success(), "this test mounts a small file system: run it as root");
        Self(folder.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // What keeps it busy is in the test's own failure.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
