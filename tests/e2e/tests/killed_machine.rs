//! Story: QEMU itself is killed. Its bitmap survives as inconsistent, or not at all; the next cycle compares, and does not
//! trust.

use farshore_e2e::{DiskFormat, Guest, World, leftovers};

#[test]
fn the_next_cycle_is_a_comparison_that_stores_what_changed() {
    let mut world = World::new().expect("a world");
    world.boot_guest("orders", DiskFormat::Qcow2).expect("a guest");
    world.protect("orders", &["orders"]).expect("a group");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    let first = world.succeed(&["replicate", "--once"]).expect("the first copy");
    assert_eq!(first[0]["point"]["machines"][0]["disks"][0]["basis"], "full");
    let second = world.succeed(&["replicate", "--once"]).expect("a delta");
    assert_eq!(second[0]["point"]["machines"][0]["disks"][0]["basis"], "tracked");

    let mut killed = world.take_guest("orders");
    killed.kill();
    let disks = killed.disks().to_vec();
    drop(killed);
    let (revived, _) = Guest::boot(world.guest_options("orders", disks)).expect("it boots again");
    world.add_guest(revived);
    world.protect("orders", &["orders"]).expect("the same group");
    let compared = world.succeed(&["replicate", "--once"]).expect("a comparison");
    let point = &compared[0]["point"];
    assert_eq!(point["machines"][0]["disks"][0]["basis"], "compared", "{point}");
    let changed = point["stats"]["bytes_changed"].as_u64().expect("a number");
    let read = compared[0]["read_bytes"].as_u64().expect("a number");
    assert!(read > 20 << 20, "all that may have content was read: {read}");
    assert!(changed < read / 4, "only what the boot changed was stored: {changed} of {read}");
    let left = leftovers(world.guest("orders")).expect("QEMU answers");
    assert!(left.nothing_attached(), "{left:?}");

    let mut control = world.guest("orders").control().expect("QEMU answers");
    control.execute("stop", serde_json::json!({})).expect("held");
    drop(control);
    let report = world.succeed(&["replicate", "--once"]).expect("a delta again");
    assert_eq!(report[0]["point"]["machines"][0]["disks"][0]["basis"], "tracked");
    let target = world.folder().join("newest.raw");
    let file = target.to_string_lossy().into_owned();
    world.succeed(&["restore", "orders", "--machine", "orders", "--to", &file]).expect("a restore");
    world.guest_mut("orders").kill();
    assert!(world.identical("orders", 0, &target).expect("compared"), "the newest point is the disk");
}
