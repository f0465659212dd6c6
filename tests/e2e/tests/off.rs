//! Story: a machine is shut down, and its QEMU ends. It is protected all the same, to its last write, costs nothing while nobody writes, and is
//! followed again when it is started.

use std::fs;

use farshore_e2e::{DiskFormat, Guest, World, leftovers};
use serde_json::Value;

/// Names the guest's image in the configuration, and what serves it while the guest is off.
fn name_its_image(world: &World) {
    let file = world.site.configuration_file();
    let disk = &world.guest("orders").disks()[0];
    let folder = disk.path.parent().expect("a folder").to_string_lossy().into_owned();
    let image =
        format!("{{ disk = \"vd0\", path = \"{}\", format = \"{}\" }}", disk.path.display(), disk.format.as_str());
    let text = fs::read_to_string(&file).expect("a configuration");
    let line = text.lines().find(|line| line.trim_start().starts_with("{ name = \"orders\"")).expect("the machine");
    let with_image = line.replace(" },", &format!(", images = [{image}] }},"));
    let granted = "access = \"read-write\" }]\n\n# Turning a lost";
    assert!(line != with_image && text.contains(granted));
    let with_folder = granted.replace("}]", &format!("}}, {{ folder = \"{folder}\", access = \"read-write\" }}]"));
    let served = r#"
[sites.production.programs.protect.serve-images]
program = "/usr/bin/qemu-storage-daemon"
arguments = [
    "--daemonize",
    "--chardev", "socket,id=monitor,path={monitor:path},server=on,wait=off", "--monitor", "chardev=monitor",
    { each = "images", arguments = ["--blockdev", "driver={format:name},node-name={node:name},read-only=on,force-share=on,file.driver=file,file.filename={path:path}"] },
]
"#;
    fs::write(&file, text.replace(line, &with_image).replace(granted, &with_folder) + served).expect("written");
}

fn protect(world: &mut World) {
    world.protect("orders", &["orders"]).expect("a group");
    name_its_image(world);
}

fn replicate(world: &World) -> Value {
    world.succeed(&["replicate", "--once"]).expect("a point")[0].clone()
}

fn disk_of(report: &Value) -> &Value {
    &report["point"]["machines"][0]["disks"][0]
}

#[test]
fn it_is_protected_to_its_last_write_and_followed_when_it_is_back() {
    let mut world = World::new().expect("a world");
    world.boot_guest("orders", DiskFormat::Qcow2).expect("a guest");
    protect(&mut world);
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    assert_eq!(disk_of(&replicate(&world))["basis"], "full");
    world.guest("orders").start_workload("writer 16 512").expect("a writer");
    let on = replicate(&world);
    assert_eq!(disk_of(&on)["basis"], "tracked");

    // It goes on writing until it is shut down in order.
    world.guest_mut("orders").shut_down().expect("it ends");
    let listed = world.succeed(&["machine", "discover", "--site", "production"]).expect("machines").to_string();
    assert!(listed.contains("\"off\""), "{listed}");
    let off = replicate(&world);
    assert_eq!(disk_of(&off)["basis"], "tracked", "what it kept of its tracking tells the rest: {off}");
    let machine = &off["point"]["machines"][0]["machine"];
    assert_eq!((&machine["power"], &machine["cpus"]), (&"off".into(), &on["point"]["machines"][0]["machine"]["cpus"]));
    let target = world.folder().join("off.raw");
    world.succeed(&["restore", "orders", "--machine", "orders", "--to", &target.to_string_lossy()]).expect("a restore");
    assert!(world.identical("orders", 0, &target).expect("compared"), "the point is the disk to its last write");
    let again = replicate(&world);
    assert_eq!(
        (disk_of(&again)["basis"].as_str(), again["read_bytes"].as_u64()),
        (Some("tracked"), Some(0)),
        "{again}"
    );

    // The recovery site can bring it up, though nobody there ever saw it.
    let drill = world.succeed(&["drill", "orders"]).expect("a drill");
    assert_eq!(drill["outcome"], "succeeded", "{drill}");

    let disks = world.take_guest("orders").disks().to_vec();
    let (revived, _) = Guest::boot(world.guest_options("orders", disks)).expect("it boots again");
    world.add_guest(revived);
    protect(&mut world);
    let mut control = world.guest("orders").control().expect("QEMU answers");
    control.execute("stop", serde_json::json!({})).expect("held");
    drop(control);
    let back = replicate(&world);
    assert_eq!(disk_of(&back)["basis"], "tracked", "its tracking went on: {back}");
    let left = leftovers(world.guest("orders")).expect("QEMU answers");
    assert!(left.nothing_attached() && left.bitmaps.len() == 1, "{left:?}");
    let sockets = fs::read_dir(world.site.run_folder()).expect("a folder").filter_map(Result::ok);
    let of_daemons = sockets.filter(|entry| entry.file_name().to_string_lossy().contains(".off-"));
    assert_eq!(of_daemons.count(), 0, "nothing serves its images any more");

    world.guest_mut("orders").kill();
    let newest = world.folder().join("newest.raw");
    world.succeed(&["restore", "orders", "--machine", "orders", "--to", &newest.to_string_lossy()]).expect("a restore");
    assert!(world.identical("orders", 0, &newest).expect("compared"), "the newest point is the disk");
}
