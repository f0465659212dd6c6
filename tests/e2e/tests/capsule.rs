//! Story: the host, its configuration and its components are gone, and so is whoever made them. What a recovery point carries
//! beside its disks is enough to go on: here by an adapter from a file, and by failing over with one from a folder of salvage.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use farshore_e2e::{World, binary};
use farshore_plugin::Digest;
use serde_json::Value;

/// Runs the program as somebody who has nothing of the lost host.
fn clean(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(binary().expect("it was built"));
    command.args(arguments).current_dir(folder).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", folder);
    command.output().expect("the program runs")
}

fn document(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A text as a TOML basic string, whose escapes JSON's are.
fn quoted(path: &Path) -> String {
    Value::from(path.to_str().expect("text")).to_string()
}

#[test]
fn a_component_outlives_its_vendor_and_the_configuration_its_host() {
    let world = World::new().expect("a world");
    let (vendor, disk) = (world.folder().join("vendor"), world.folder().join("disk.raw"));
    fs::create_dir(&vendor).expect("a folder");
    let component = vendor.join("adapter.wasm");
    fs::copy("../../target/components/hostile.wasm", &component).expect("`cargo xtask components` was run");
    let bytes = fs::read(&component).expect("readable");
    let digest = Digest::of(&bytes).to_string();
    File::create(&disk).and_then(|file| file.set_len(4 << 20)).expect("a disk");
    fs::write(&disk, vec![7; 4 << 20]).expect("written");
    let text = format!(
        "# A remark of the operator.\n{}\n[sites.vendor]\nadapter = {{ path = {}, digest = \"{digest}\" }}\n\n\
         [sites.vendor.settings]\nbehaviour = \"source\"\npath = {}\nvalue = \"{}\"\nhost = \"http://me:hunter2@example.org\"\n\n\
         [sites.vendor.grants.protect]\nfiles = [{{ folder = {}, access = \"read-only\" }}]\n\n\
         [groups.shop]\nsite = \"vendor\"\nmachines = [\"one\"]\nrpo = \"1h\"\n",
        world.site.configuration().expect("a configuration"),
        quoted(&component),
        quoted(&disk),
        4 << 20,
        quoted(world.folder()),
    );
    fs::write(world.site.configuration_file(), &text).expect("written");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    let first = world.run(&["replicate", "--once"]).expect("ran");
    assert!(
        first.errors.contains("left out") && first.errors.contains("sites.vendor.settings.host"),
        "{}",
        first.errors
    );
    let first = first.succeeded().expect("the first copy").json().expect("JSON");
    assert_eq!(first[0]["point"]["stats"]["bytes_changed"], 4 << 20, "of disks, not of the capsule");
    let idle = world.succeed(&["replicate", "--once"]).expect("an idle cycle");
    assert_eq!(idle[0]["point"]["stats"]["objects_written"], 1, "{idle}");
    let listed = world.succeed(&["capsule", "list", "shop"]).expect("a list");
    let names: Vec<_> = listed["items"].as_array().expect("items").iter().map(|item| item["name"].as_str()).collect();
    assert_eq!(names, [Some("component/hostile"), Some("component/qemu"), Some("configuration")]);

    // Only these are carried to the clean machine.
    let there = tempfile::tempdir().expect("a folder");
    let at = |name: &str| there.path().join(name);
    fs::rename(world.site.vault_folder(), at("bucket")).expect("moved");
    fs::copy(world.site.kit_file(), at("kit.toml")).expect("copied");
    fs::copy(world.site.passphrase_file(), at("passphrase")).expect("copied");
    fs::remove_dir_all(&vendor).expect("the vendor is gone");
    fs::remove_file(world.site.configuration_file()).expect("the configuration is gone");
    let address = format!("file:{}", at("bucket").display());
    let rescue = ["--json", "rescue", "--vault", &address, "--kit", "kit.toml", "--passphrase-file", "passphrase"];
    let rescue = [&rescue[..], &["shop", "--capsule", "carried"]].concat();
    let carried = document(&clean(&rescue, there.path()));
    assert_eq!(carried["machines"][0]["id"], "one", "{carried}");
    assert!(fs::read(at("carried/component/hostile.wasm")).expect("readable") == bytes, "byte for byte");
    assert_eq!(carried["items"][0]["digest"], digest.as_str());
    let configuration = fs::read_to_string(at("carried/configuration.toml")).expect("readable");
    assert_eq!(configuration, text.replace("\"http://me:hunter2@example.org\"", "\"left out of the capsule\""));
    let index = fs::read(at("carried/capsule.json")).expect("readable");
    assert_eq!(serde_json::from_slice::<Value>(&index).expect("JSON"), carried);
    second_reader_finds(&bytes, carried["point"].as_u64().expect("a number"), there.path());
    let again = clean(&rescue, there.path());
    assert!(String::from_utf8_lossy(&again.stderr).contains("FS6008"), "nothing is overwritten");

    // The configuration with its new places; the digest is the one that the operator named.
    let (salvaged, old_vault) = (at("carried/component/hostile.wasm"), quoted_vault(&world));
    let moved = configuration.replace(&quoted(&component), &quoted(&salvaged));
    let moved = moved.replace(&old_vault, &Value::from(address.as_str()).to_string());
    let moved = moved.replace(&quoted(&world.site.kit_file()), "\"kit.toml\"");
    fs::write(at("farshore.toml"), moved).expect("written");
    let checked = document(&clean(&["--json", "--config", "farshore.toml", "config", "check"], there.path()));
    let site = checked["sites"].as_array().expect("sites").iter().find(|site| site["site"] == "vendor").expect("there");
    assert_eq!((&site["adapter"], &site["digest"]), (&Value::from("hostile"), &Value::from(digest.as_str())));
    let discover = ["--json", "--config", "farshore.toml", "machine", "discover", "--site", "vendor"];
    let found = document(&clean(&discover, there.path())).to_string();
    assert!(found.contains("\"one\""), "the component answers: {found}");
    let replicate = ["--json", "--config", "farshore.toml", "replicate", "shop", "--once"];
    let point = document(&clean(&replicate, there.path()));
    assert_eq!(point[0]["point"]["stats"]["bytes_changed"], 0, "protection goes on where it ended: {point}");
}

/// The second reader, which was written from the format's documents alone, finds the same component.
fn second_reader_finds(component: &[u8], point: u64, folder: &Path) {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache"))).expect("a home");
    let reader = fs::canonicalize("../compat/reader.py").expect("the reader is in the tree");
    let mut command = Command::new(cache.join("farshore/vault-reader/python/bin/python"));
    command.arg(reader).args(["bucket", "--kit", "kit.toml", "--passphrase-file", "passphrase", "restore", "shop"]);
    command.arg(point.to_string()).args(["--to", "second"]).current_dir(folder);
    let output = command.output().expect("`cargo xtask test` was run once");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read(folder.join("second/one/d.raw")).expect("readable") == vec![7; 4 << 20], "the disk");
    assert!(fs::read(folder.join("second/(capsule)/component.hostile.raw")).expect("readable") == component);
}

/// The vault's address as the configuration has it.
fn quoted_vault(world: &World) -> String {
    Value::from(format!("file:{}", world.site.vault_folder().display())).to_string()
}

#[test]
fn a_failover_goes_by_the_component_that_the_point_carries() {
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.protect("orders", &["orders"]).expect("a group");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    world.succeed(&["replicate", "--once"]).expect("the first copy");
    world.guest_mut("orders").kill();
    fs::remove_file(world.site.configuration_file()).expect("the configuration is gone");

    let carried = world.folder().join("carried");
    let address = format!("file:{}", world.site.vault_folder().display());
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let (kit, passphrase) = (text(&world.site.kit_file()), text(&world.site.passphrase_file()));
    let folder = text(&carried);
    let opens = ["--vault", &address, "--kit", &kit, "--passphrase-file", &passphrase];
    let rescue = [&["--json", "rescue", "orders"], &opens[..], &["--capsule", &folder]].concat();
    let carried_items = document(&clean(&rescue, world.folder()));
    let item = carried_items["items"].as_array().expect("items").iter().find(|item| item["kind"] == "component");
    let item = item.expect("the adapter's component");
    let component = carried.join(item["file"].as_str().expect("a file"));
    let named = format!("adapter = {{ path = {}, digest = {} }}", quoted(&component), item["digest"]);
    let configuration = fs::read_to_string(carried.join("configuration.toml")).expect("readable");
    assert_eq!(configuration.matches("adapter = \"qemu\"").count(), 2);
    fs::write(world.site.configuration_file(), configuration.replace("adapter = \"qemu\"", &named)).expect("written");

    let failover = ["failover", "unplanned", "orders", "--yes", "--source-is-down", "the test killed it"];
    let report = world.succeed(&[&failover[..], &["--until", "running"]].concat()).expect("a failover");
    assert_eq!(report["outcome"], "succeeded", "{report}");
    assert_eq!(world.recovered().expect("processes").len(), 1);
}
