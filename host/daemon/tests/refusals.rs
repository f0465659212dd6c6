//! What the operator is told when something is refused: the exact text, and the exit status.

mod support;

use std::fs;

use support::{CONFIGURATION, World, expect};

#[test]
fn without_a_configuration() {
    let world = World::new();
    fs::remove_file(world.path("farshore.toml")).expect("removed");
    expect("no-configuration", &world.told(&["points"]));
}

#[test]
fn a_configuration_with_mistakes_tells_all_of_them_with_their_lines() {
    let world = World::new();
    let text = CONFIGURATION
        .replace("qmp = \"[FOLDER]/shop.qmp\"", "qmp = \"shop.qmp\", agnt = \"/x\"")
        .replace("site = \"farm\"", "site = \"fram\"")
        .replace("rpo = \"5s\"", "rpo = \"5 parsecs\"\nrecovery-sit = \"shelter\"")
        .replace("[host]", "[host]\nworker-threads = 0");
    world.write("farshore.toml", &text);
    expect("configuration-mistakes", &world.told(&["config", "check"]));
}

#[test]
fn a_drill_that_shares_a_folder_with_live_runs_and_a_wrong_setting_of_one_mode_are_told_with_their_lines() {
    let world = World::new();
    let shared = "\
[sites.shelter]
adapter = \"qemu\"
settings.machine-folder = \"[FOLDER]/recovered\"
settings-in.drill = { socket-folder = \"recovered\", machine-foldr = \"[FOLDER]/drill\" }
grants.drill.files = [{ folder = \"[FOLDER]/recovered\", access = \"read-write\" }]
grants.live.files = [{ folder = \"[FOLDER]\", access = \"read-write\" }]
";
    let text = CONFIGURATION.replace("[sites.shelter]\nadapter = \"qemu\"\n", shared);
    world.write("farshore.toml", &text);
    expect("settings-per-mode", &world.told(&["config", "check"]));
    // A drill says so too: nobody has to check the configuration before it.
    let (right, _) = shared.split_once("settings-in").expect("the settings of the mode");
    let grants = shared.split_once("grants.drill").expect("the grants").1;
    let text = CONFIGURATION.replace("[sites.shelter]\nadapter = \"qemu\"\n", &format!("{right}grants.drill{grants}"));
    world.write("farshore.toml", &text);
    assert!(world.run(&["vault", "create"]).status.success());
    expect("drill-reaches-live", &world.told(&["drill", "shop"]));
}

#[test]
fn a_passphrase_in_the_configuration_is_refused_and_not_repeated() {
    let world = World::new();
    world.write(
        "farshore.toml",
        &CONFIGURATION.replace(
            "passphrase-file = \"passphrase\"",
            "passphrase = \"hunter2\"\noptions.secret_access_key = \"hunter2\"",
        ),
    );
    let told = world.told(&["vault", "info"]);
    assert!(!told.contains("hunter2"), "{told}");
    expect("literal-passphrase", &told);
}

#[test]
fn an_adapter_with_another_digest_is_refused_at_its_line() {
    let world = World::new();
    world.write("component.wasm", "not the component that was meant");
    let digest = "0".repeat(64);
    let adapter = format!("adapter = {{ path = \"component.wasm\", digest = \"blake3:{digest}\" }}");
    world.write("farshore.toml", &CONFIGURATION.replacen("adapter = \"qemu\"", &adapter, 1));
    expect("other-digest", &world.told(&["config", "check"]));
}

#[test]
fn a_group_that_is_not_configured() {
    let world = World::new();
    expect("no-such-group", &world.told(&["drill", "shpo"]));
}

#[test]
fn a_passphrase_that_nobody_can_type() {
    let world = World::new();
    world.write("farshore.toml", &CONFIGURATION.replace("passphrase-file = \"passphrase\"", ""));
    expect("nobody-to-ask", &world.told(&["vault", "info"]));
}

#[test]
fn a_passphrase_file_that_is_empty() {
    let world = World::new();
    world.write("passphrase", "\n");
    expect("empty-passphrase-file", &world.told(&["vault", "info"]));
}

#[test]
fn a_vault_that_is_not_there() {
    let world = World::new();
    expect("no-vault", &world.told(&["vault", "info"]));
    assert!(!world.path("vault").exists(), "asking makes nothing");
}

#[test]
fn a_wrong_passphrase_a_second_vault_and_what_an_empty_vault_does_not_have() {
    let world = World::new();
    assert!(world.run(&["vault", "create"]).status.success());
    expect("vault-exists", &world.told(&["vault", "create"]));
    expect("no-points", &world.told(&["restore", "shop", "--to", "disk.raw"]));
    expect("no-such-run", &world.told(&["run", "show", "0123"]));
    expect("empty-vault-points", &world.told(&["points"]));
    expect("empty-vault-runs", &world.told(&["run", "list"]));
    world.write("passphrase", "another\n");
    expect("wrong-passphrase", &world.told(&["points"]));
    let json = world.run(&["--json", "points"]);
    assert!(json.stdout.is_empty());
    let error: serde_json::Value = serde_json::from_slice(&json.stderr).expect("one JSON object");
    assert_eq!(error["code"], "FS1003");
    assert!(error["message"].is_string() && error["causes"].is_array() && error["advice"].is_string(), "{error}");
}

#[test]
fn a_platform_that_does_not_answer_is_one_clear_error() {
    let world = World::new();
    assert!(world.run(&["vault", "create"]).status.success());
    expect("socket-missing", &world.told(&["replicate", "shop", "--once"]));
    assert!(world.run(&["points"]).status.success());
}

#[test]
fn an_unknown_code_and_an_unknown_command() {
    let world = World::new();
    expect("no-such-code", &world.told(&["explain", "FS0000"]));
    expect("no-such-command", &world.told(&["replicat"]));
    let json = world.run(&["--json", "replicat"]);
    assert_eq!(json.status.code(), Some(2));
    let error: serde_json::Value = serde_json::from_slice(&json.stderr).expect("one JSON object");
    assert_eq!(error["code"], "FS6003");
}

#[test]
fn a_file_that_others_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    fs::set_permissions(world.path("passphrase"), fs::Permissions::from_mode(0o644)).expect("opened");
    expect("open-passphrase-file", &world.told(&["vault", "info"]));
}
