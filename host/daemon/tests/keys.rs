//! The story of a vault's keys: another kit, a new passphrase, a new kit, a host that is shut out, a new epoch.

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _};

use support::{World, expect, success};

/// A file that only its owner can read.
fn secret(world: &World, name: &str, text: &str) {
    world.write(name, text);
    fs::set_permissions(world.path(name), fs::Permissions::from_mode(0o600)).expect("closed to others");
}

/// The same configuration with another kit and passphrase.
fn reconfigure(world: &World, kit: &str, passphrase: &str) {
    let configuration = support::CONFIGURATION
        .replace("kit.toml", kit)
        .replace("passphrase-file = \"passphrase\"", &format!("passphrase-file = \"{passphrase}\""));
    world.write("farshore.toml", &configuration);
}

#[test]
fn kits_and_passphrases_are_added_and_replaced() {
    let world = World::new();
    success(world.run(&["--yes", "vault", "create"]));
    secret(&world, "second-passphrase", "another battery staple\n");
    let add = ["vault", "slots", "add", "--output", "second.toml", "--label", "second site"];
    expect(
        "slots-add-not-confirmed",
        &world.told(&[&add[..], &["--new-passphrase-file", "second-passphrase"]].concat()),
    );
    assert!(!world.path("second.toml").exists(), "nothing was made");
    let added = success(world.run(&[&["--yes"], &add[..], &["--new-passphrase-file", "second-passphrase"]].concat()));
    assert!(added.contains("second.toml"), "{added}");
    let listed = success(world.run(&["--json", "vault", "slots", "list"]));
    let slots: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let slot = |number: usize, field: &str| slots[number][field].clone();
    assert_eq!((slots.as_array().expect("a list").len(), slot(1, "label")), (2, "second site".into()));

    // What is only planned changes nothing.
    secret(&world, "new-passphrase", "a new battery staple\n");
    let rotate = ["vault", "rotate", "passphrase", "--output", "kit-2.toml", "--new-passphrase-file", "new-passphrase"];
    let planned = success(world.run(&[&rotate[..], &["--dry-run"]].concat()));
    assert!(planned.contains("would be a recovery kit with the same words and a new passphrase"), "{planned}");
    assert!(!world.path("kit-2.toml").exists());
    success(world.run(&["vault", "kit", "check"]));
    let words = |world: &World| success(world.run(&["--json", "vault", "kit", "print"]));
    let old_words = words(&world);
    let changed = success(world.run(&rotate));
    assert!(changed.contains("the old kit does not") && changed.contains("farshore vault rotate epoch"), "{changed}");
    expect("kit-retired", &world.told(&["vault", "kit", "check"]));
    reconfigure(&world, "kit-2.toml", "new-passphrase");
    success(world.run(&["vault", "kit", "check"]));
    assert_eq!(words(&world), old_words);

    success(world.run(&["--yes", "vault", "rotate", "kit", "--output", "kit-3.toml"]));
    expect("kit-retired", &world.told(&["vault", "kit", "check"]));
    reconfigure(&world, "kit-3.toml", "new-passphrase");
    success(world.run(&["vault", "kit", "check"]));
    assert_ne!(words(&world), old_words);
    // The same line once more would put the kit in its own place.
    expect("kit-in-use", &world.told(&["--yes", "vault", "rotate", "kit", "--output", "kit-3.toml"]));
    let planned = world.told(&["vault", "rotate", "kit", "--output", "kit-3.toml", "--dry-run"]);
    assert!(planned.contains("FS6008"), "{planned}");
    success(world.run(&["vault", "kit", "check"]));

    // The second site's keeper takes over alone.
    reconfigure(&world, "second.toml", "second-passphrase");
    let own = slot(1, "id").as_str().expect("a text").to_owned();
    let refused = world.told(&["vault", "slots", "remove", &own]);
    assert!(refused.contains("the vault was opened with this slot"), "{refused}");
    expect("no-such-slot", &world.told(&["vault", "slots", "remove", "00112233445566778899aabbccddeeff"]));
    let listed = success(world.run(&["--json", "vault", "slots", "list", "--kit", "second.toml"]));
    let slots: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let others: Vec<_> = slots.as_array().expect("a list").iter().filter(|slot| slot["id"] != *own).collect();
    let [other] = others[..] else { panic!("{listed}") };
    success(world.run(&["vault", "slots", "remove", other["id"].as_str().expect("a text")]));
    reconfigure(&world, "kit-3.toml", "new-passphrase");
    expect("kit-retired", &world.told(&["vault", "kit", "check"]));
}

#[test]
fn a_host_is_shut_out_and_a_new_epoch_begins() {
    let office = World::new();
    success(office.run(&["--yes", "vault", "create"]));
    let shelter = World::new();
    let configuration = support::CONFIGURATION.replace("[FOLDER]/vault", office.path("vault").to_str().expect("UTF-8"));
    let nothing = |line: &str| configuration.replace(line, "");
    assert_ne!(nothing("kit-file = \"kit.toml\"\n"), configuration);
    let configuration = nothing("kit-file = \"kit.toml\"\n").replace("passphrase-file = \"passphrase\"\n", "");
    shelter.write("farshore.toml", &configuration);
    success(office.run(&["vault", "join", "create", "shelter", "--powers=recoverer,controller", "--output", "s.join"]));
    let invited = office.told(&["vault", "join", "revoke", "shelter"]);
    assert!(invited.contains("withdraw its invitation"), "{invited}");
    fs::copy(office.path("s.join"), shelter.path("s.join")).expect("brought over");
    success(shelter.run(&["vault", "join", "accept", "s.join"]));
    success(office.run(&["vault", "join", "approve", "shelter"]));

    let planned = success(office.run(&["vault", "rotate", "epoch", "--dry-run"]));
    assert!(planned.contains("Epoch 2 would begin") && planned.contains("1 slots and to first, shelter"), "{planned}");
    let planned = success(office.run(&["vault", "join", "revoke", "shelter", "--dry-run"]));
    assert!(planned.contains("would be shut out"), "{planned}");
    success(shelter.run(&["run", "list"]));
    let revoked = success(office.run(&["vault", "join", "revoke", "shelter"]));
    assert!(revoked.contains("farshore vault rotate epoch"), "{revoked}");
    expect("host-revoked", &shelter.told(&["run", "list"]));
    let again = success(office.run(&["vault", "join", "revoke", "shelter"]));
    assert!(again.contains("is shut out"), "{again}");
    let listed = success(office.run(&["vault", "join", "list"]));
    assert!(listed.contains("revoked"), "{listed}");

    let begun = success(office.run(&["vault", "rotate", "epoch"]));
    assert!(begun.contains("Epoch 2 has begun. Its keys went to 1 slots and to first."), "{begun}");
    success(office.run(&["vault", "info"]));
    let check = success(office.run(&["vault", "check"]));
    assert!(check.contains("group shop of the configuration has no recovery points in the vault"), "{check}");
    assert!(check.contains("Nothing is wrong in what was looked at."), "{check}");
}
