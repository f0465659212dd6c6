//! Story: a component that does what no component should harms nothing but its own call. The other group of the same host
//! gets its point, and the points that were there stay.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use farshore_e2e::{Finished, World, leftovers};
use farshore_plugin::Digest;
use serde_json::Value;

const DISK_BYTES: u64 = 4 << 20;

/// A host with an honest site, whose guest is the group `orders`, and a hostile one, whose machine is the group `strange`.
struct Scene {
    world: World,
    honest: String,
    disk: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let mut world = World::new().expect("a world");
        world.resume_guest("orders").expect("a guest");
        world.protect("orders", &["orders"]).expect("a group");
        world.succeed(&["vault", "create", "--yes"]).expect("a vault");
        let honest = fs::read_to_string(world.site.configuration_file()).expect("the configuration");
        let folder = world.folder().join("strange");
        fs::create_dir(&folder).expect("a folder");
        let disk = folder.join("disk.raw");
        File::create(&disk).and_then(|file| file.set_len(DISK_BYTES)).expect("a disk");
        Self { world, honest, disk }
    }

    fn behave(&self, behaviour: &str, path: &str, value: u64) {
        let component =
            fs::canonicalize("../../target/components/hostile.wasm").expect("`cargo xtask components` was run");
        self.configure(&component, behaviour, path, value);
    }

    fn configure(&self, component: &Path, behaviour: &str, path: &str, value: u64) {
        let digest = Digest::of(&fs::read(component).expect("the component"));
        let folder = self.disk.parent().expect("a folder");
        let text = format!(
            "{}\n[sites.strange]\nadapter = {{ path = {component:?}, digest = \"{digest}\" }}\n\n\
             [sites.strange.settings]\nbehaviour = {behaviour:?}\npath = {path:?}\nvalue = \"{value}\"\n\n\
             [sites.strange.grants.protect]\nfiles = [{{ folder = {folder:?}, access = \"read-only\" }}]\n\n\
             [groups.strange]\nsite = \"strange\"\nmachines = [\"one\"]\nrpo = \"1h\"\n",
            self.honest
        );
        fs::write(self.world.site.configuration_file(), text).expect("written");
    }

    fn source(&self, told_bytes: u64) {
        self.behave("source", self.disk.to_str().expect("text"), told_bytes);
    }

    /// One cycle of both groups.
    fn replicate(&self) -> (Finished, Value, Value) {
        let finished = self.world.run(&["replicate", "--once"]).expect("ran");
        let cycles = finished.json().unwrap_or_else(|error| panic!("{error}: {}", finished.errors));
        let of = |name: &str| {
            let cycle = cycles.as_array().into_iter().flatten().find(|cycle| cycle["group"] == name);
            cycle.unwrap_or_else(|| panic!("{name} is in {cycles}")).clone()
        };
        let (orders, strange) = (of("orders"), of("strange"));
        (finished, orders, strange)
    }

    /// A cycle in which only the honest group succeeds.
    fn assert_fails_alone(&self, what: &str, code: &str) {
        let (finished, orders, strange) = self.replicate();
        assert!(!finished.status.success(), "{what}: a group that failed is an error");
        assert_eq!(strange["error"]["code"], code, "{what}: {strange}");
        assert!(orders["point"]["sequence"].is_u64(), "{what}: the other group has its point: {orders}");
        let left = leftovers(self.world.guest("orders")).expect("QEMU answers");
        assert!(left.nothing_attached(), "{what}: {left:?}");
    }
}

#[test]
fn what_it_does_ends_its_own_call_only() {
    let scene = Scene::new();
    let foreign = scene.world.folder().join("foreign");
    fs::write(&foreign, "not granted").expect("a file");
    for (behaviour, code) in [
        ("trap", "FS2104"),
        ("allocate", "FS2104"),
        ("recurse", "FS2104"),
        ("loop", "FS2103"),
        ("file-open", "FS2102"),
        ("huge-page", "FS2105"),
        ("same-id-twice", "FS2105"),
    ] {
        scene.behave(behaviour, foreign.to_str().expect("text"), 0);
        scene.assert_fails_alone(behaviour, code);
    }
    scene.world.succeed(&["vault", "check", "--full"]).expect("the vault is whole");
}

#[test]
fn what_it_says_of_a_disk_makes_no_point_that_is_not_true() {
    let scene = Scene::new();
    OpenOptions::new().write(true).open(&scene.disk).and_then(|mut file| file.write_all(b"first")).expect("written");
    scene.source(DISK_BYTES);
    let (finished, _, strange) = scene.replicate();
    assert!(finished.status.success(), "{}", finished.errors);
    let point = strange["point"]["sequence"].to_string();

    scene.source(DISK_BYTES / 2);
    scene.assert_fails_alone("a disk that shrank", "FS4002");
    scene.source(DISK_BYTES * 2);
    scene.assert_fails_alone("a disk of another size than its file", "FS3008");

    let points = scene.world.succeed(&["points", "strange"]).expect("points");
    let listed = points[0]["points"].as_array().expect("a list");
    assert_eq!(listed.iter().map(|point| point["sequence"].to_string()).collect::<Vec<_>>(), [point]);
    let restored = scene.world.folder().join("restored.raw");
    scene.world.succeed(&["restore", "strange", "--to", restored.to_str().expect("text")]).expect("a restore");
    assert!(fs::read(&restored).expect("the file") == fs::read(&scene.disk).expect("the disk"), "byte for byte");
}

#[test]
fn what_cannot_be_loaded_stops_its_own_group_only() {
    let scene = Scene::new();
    let garbage = scene.world.folder().join("garbage.wasm");
    fs::write(&garbage, "this is no component").expect("a file");
    scene.configure(&garbage, "source", "", 0);
    scene.assert_fails_alone("what is no component", "FS6002");
    let named = scene.world.run(&["replicate", "orders", "strange", "orders", "--once"]).expect("ran");
    let cycles = named.json().expect("a report");
    let groups: Vec<_> = cycles.as_array().into_iter().flatten().filter_map(|cycle| cycle["group"].as_str()).collect();
    assert_eq!(groups, ["orders", "strange"], "a group that is named twice has one cycle");
}
