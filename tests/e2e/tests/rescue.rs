//! Story: production, its host, its configuration and the metadata of the vault are gone. What is left is the store of its data, the
//! recovery kit and the passphrase, on a machine with nothing but the program; and a second program, in another language, that was written from the format's
//! documents alone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use farshore_e2e::{World, binary};
use serde_json::Value;

/// Runs a program that knows nothing of this machine's user.
fn clean(program: &Path, arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", folder);
    command.output().expect("the program runs")
}

fn succeeded(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The second reader, and the Python that `cargo xtask test` has made for it.
fn second_reader() -> (PathBuf, PathBuf) {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache"))).expect("a home");
    let reader = fs::canonicalize("../compat/reader.py").expect("the reader is in the tree");
    (cache.join("farshore/vault-reader/python/bin/python"), reader)
}

#[test]
fn the_store_the_kit_and_the_passphrase_bring_disks_back() {
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.protect("orders", &["orders"]).expect("a group");
    // The vault has two addresses.
    let data = world.site.vault_folder().with_file_name("data");
    let file = world.site.configuration_file();
    let text = fs::read_to_string(&file).expect("the configuration");
    fs::write(&file, format!("{text}\n[vault.data]\naddress = \"file:{}\"\n", data.display())).expect("written");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    world.succeed(&["replicate", "--once"]).expect("the first copy");
    world.guest("orders").start_workload("writer 16 512").expect("a writer");
    world.succeed(&["replicate", "--once"]).expect("a delta");
    world.guest("orders").stop_workload("writer").expect("stopped");
    let mut control = world.guest("orders").control().expect("QEMU answers");
    control.execute("stop", serde_json::json!({})).expect("held");
    drop(control);
    world.succeed(&["replicate", "--once"]).expect("another delta");
    world.guest_mut("orders").kill();

    // Only these are carried to the clean machine; the store of the data has moved too.
    let there = tempfile::tempdir().expect("a folder");
    let at = |name: &str| there.path().join(name);
    fs::rename(&data, at("bucket")).expect("moved");
    fs::remove_dir_all(world.site.vault_folder()).expect("the metadata is lost");
    fs::copy(world.site.kit_file(), at("kit.toml")).expect("copied");
    fs::copy(world.site.passphrase_file(), at("passphrase")).expect("copied");
    let address = format!("file:{}", at("bucket").display());
    let program = binary().expect("it was built");
    let opens = ["--json", "rescue", "--vault", &address, "--kit", "kit.toml", "--passphrase-file", "passphrase"];
    let listed = succeeded(&clean(&program, &opens, there.path()));
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!((&listed[0]["group"], listed[0]["points"].as_array().map(Vec::len)), (&"orders".into(), Some(3)));
    let restore = [&opens[..], &["orders", "--to", "disk.raw"]].concat();
    succeeded(&clean(&program, &restore, there.path()));
    assert!(world.identical("orders", 0, &at("disk.raw")).expect("compared"), "byte for byte");
    let names: Vec<_> = fs::read_dir(there.path()).expect("readable").filter_map(Result::ok).collect();
    assert_eq!(names.len(), 4, "the kit, the passphrase, the bucket, and the disk: nothing else was left behind");

    // The same with the second reader, which shares no line with the first.
    let (python, reader) = second_reader();
    let reader = reader.to_string_lossy().into_owned();
    let opens = [reader.as_str(), "bucket", "--kit", "kit.toml", "--passphrase-file", "passphrase"];
    let point = listed[0]["points"][0]["sequence"].to_string();
    succeeded(&clean(&python, &[&opens[..], &["restore", "orders", &point, "--to", "second"]].concat(), there.path()));
    let disks: Vec<_> = fs::read_dir(at("second/orders")).expect("readable").filter_map(Result::ok).collect();
    assert_eq!(disks.len(), 1, "{disks:?}");
    assert!(world.identical("orders", 0, &disks[0].path()).expect("compared"), "byte for byte");
}

/// A small vault of an earlier day, which has been pruned: read by the second reader, disk by disk.
#[test]
fn the_second_reader_reads_the_golden_vault_and_is_short() {
    let (python, reader) = second_reader();
    let lines = fs::read_to_string(&reader).expect("readable").lines().count();
    assert!(lines <= 400, "a reader that somebody could write again is short; it has {lines} lines");
    let reader = reader.to_string_lossy().into_owned();
    let opens = [reader.as_str(), "vault", "--kit", "kit.toml", "--passphrase-file", "passphrase"];
    let read = |arguments: &[&str], folder: &Path| clean(&python, &[&opens[..], arguments].concat(), folder);
    let golden = ["golden-1", "golden-2"].map(|name| {
        let golden = fs::canonicalize(format!("../compat/{name}")).expect("the golden vault is in the tree");
        let found: Value = serde_json::from_str(&succeeded(&read(&["verify"], &golden))).expect("JSON");
        let expected = fs::read_to_string(golden.join("expected.json")).expect("readable");
        assert_eq!(found, serde_json::from_str::<Value>(&expected).expect("JSON"), "{name}");
        golden
    });
    let golden = &golden[1];

    // A byte that changed in any object that the points need is noticed.
    let hurt = tempfile::tempdir().expect("a folder");
    for folder in ["commits", "collections", "packs", "maps", "ledgers", "boundaries"] {
        let copy = hurt.path().join(folder);
        assert!(Command::new("cp").arg("-r").arg(golden).arg(&copy).status().expect("cp").success());
        let mut objects = Vec::new();
        collect(&copy.join("vault/lineages"), folder, &mut objects);
        objects.sort();
        for object in objects.iter().rev().take(1) {
            let mut bytes = fs::read(object).expect("readable");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(object, bytes).expect("written");
        }
        let output = read(&["verify"], &copy);
        assert_eq!(output.status.code(), Some(1), "{folder}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.lines().count() == 1 && !told.contains("Traceback"), "{folder}: {told}");
    }
}

/// The files below a folder of this name.
fn collect(at: &Path, folder: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(at).expect("readable").filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, folder, found);
        } else if path.iter().any(|part| part == folder) {
            found.push(path);
        }
    }
}
