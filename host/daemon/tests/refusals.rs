//! What the operator is told when something is refused: the exact text, and the exit status.

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _};

use support::{CONFIGURATION, World, expect, success};

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
    assert!(world.run(&["vault", "create", "--yes"]).status.success());
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
fn a_prune_without_rules_and_rules_that_give_up_too_much() {
    let world = World::new();
    expect("no-retention", &(world.told(&["vault", "prune"]) + &world.told(&["vault", "prune", "shop"])));
    world.write("farshore.toml", &format!("{CONFIGURATION}\n[groups.shop.retention]\nall = \"2s\"\nhorly = 3\n"));
    expect("retention-too-short", &world.told(&["config", "check"]));
    world.write("farshore.toml", &format!("{CONFIGURATION}\n[groups.shop.retention]\nall = \"2s\"\n"));
    expect("retention-below-rpo", &world.told(&["config", "check"]));
}

#[test]
fn what_a_prune_says_of_a_group_without_points() {
    let world = World::new();
    world.write("farshore.toml", &format!("{CONFIGURATION}\n[groups.shop.retention]\nall = \"1h\"\ndaily = 3\n"));
    assert!(world.run(&["vault", "create", "--yes"]).status.success());
    let told = world.told(&["vault", "prune"]) + &world.told(&["--json", "vault", "prune"]);
    expect("prune-no-points", &(told + &world.told(&["vault", "pin", "list"])));
}

/// No configuration, no state folder: the kit, the passphrase and the store.
#[test]
fn a_rescue_needs_the_kit_and_nothing_of_this_host() {
    let world = World::new();
    assert!(world.run(&["vault", "create", "--yes"]).status.success());
    fs::remove_file(world.path("farshore.toml")).expect("removed");
    fs::remove_dir_all(world.path("state")).expect("removed");
    let mut told = world.told(&["rescue"]);
    told += &world.told(&["rescue", "--kit", "kit.toml"]);
    told += &world.told(&["rescue", "--kit", "kit.toml", "--passphrase-file", "passphrase"]);
    told += &world.told(&["rescue", "--kit", "kit.toml", "--passphrase-file", "passphrase", "shop", "--to", "out"]);
    told += &world.told(&["rescue", "--kit", "kit.toml", "--vault", "ftp://x", "shop"]);
    told += &world.told(&["rescue", "--kit", "kit.toml", "--option", "secret-access-key=hunter2"]);
    told += &world.told(&["rescue", "--to", "out"]);
    expect("rescue", &told);
    assert!(!world.path("state").exists(), "nothing was left behind");
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
    expect("nobody-to-ask", &world.told(&["vault", "create", "--yes"]));
}

#[test]
fn a_passphrase_file_that_is_empty() {
    let world = World::new();
    world.write("passphrase", "\n");
    expect("empty-passphrase-file", &world.told(&["vault", "create", "--yes"]));
}

#[test]
fn a_kit_that_nobody_confirms_or_names() {
    let world = World::new();
    expect("kit-not-confirmed", &world.told(&["vault", "create"]));
    world.write("farshore.toml", &CONFIGURATION.replace("kit-file = \"kit.toml\"", ""));
    expect("no-kit-named", &world.told(&["vault", "create", "--yes"]));
    assert!(!world.path("vault").exists() && !world.path("kit.toml").exists(), "nothing was made");
    world.write("kit.toml", "mine\n");
    let taken = world.run(&["vault", "create", "--yes", "--kit", "kit.toml"]);
    assert!(!taken.status.success() && String::from_utf8_lossy(&taken.stderr).contains("exists already"));
    assert_eq!(fs::read_to_string(world.path("kit.toml")).expect("readable"), "mine\n");
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
    assert!(world.run(&["vault", "create", "--yes"]).status.success());
    expect("vault-exists", &world.told(&["vault", "create", "--yes"]));
    expect("no-points", &world.told(&["restore", "shop", "--to", "disk.raw"]));
    expect("no-such-run", &world.told(&["run", "show", "0123"]));
    expect("empty-vault-points", &world.told(&["points"]));
    expect("empty-vault-runs", &world.told(&["run", "list"]));
    world.write("passphrase", "another\n");
    expect("wrong-passphrase", &world.told(&["restore", "shop", "--to", "disk.raw"]));
    let json = world.run(&["--json", "restore", "shop", "--to", "disk.raw"]);
    assert!(json.stdout.is_empty());
    let error: serde_json::Value = serde_json::from_slice(&json.stderr).expect("one JSON object");
    assert_eq!(error["code"], "FS1003");
    assert!(error["message"].is_string() && error["causes"].is_array() && error["advice"].is_string(), "{error}");
}

#[test]
fn a_platform_that_does_not_answer_is_one_clear_error() {
    let world = World::new();
    assert!(world.run(&["vault", "create", "--yes"]).status.success());
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
    let world = World::new();
    fs::set_permissions(world.path("passphrase"), fs::Permissions::from_mode(0o644)).expect("opened");
    assert!(world.run(&["vault", "create", "--yes"]).status.success());
    expect("open-passphrase-file", &world.told(&["restore", "shop", "--to", "disk.raw"]));
}

/// Two hosts and a vault that both reach: the second joins with a file, and each does what its powers allow.
#[test]
fn a_host_that_joins_can_do_what_it_was_invited_for() {
    let (office, shelter) = (World::new(), World::new());
    let made: serde_json::Value =
        serde_json::from_str(&success(office.run(&["vault", "create", "--yes", "--json"]))).expect("JSON");
    let vault = made["id"].as_str().expect("an id").to_owned();
    for file in ["kit.toml", &format!("state/credentials/{vault}.toml")] {
        let mode = fs::metadata(office.path(file)).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    // The shelter has neither kit nor passphrase.
    let address = format!("file:{}", office.path("vault").display());
    let configuration = CONFIGURATION.replace("file:[FOLDER]/vault", &address);
    shelter.write(
        "farshore.toml",
        &configuration.replace("kit-file = \"kit.toml\"\n", "").replace("passphrase-file = \"passphrase\"\n", ""),
    );
    expect("nothing-opens", &shelter.told(&["points"]));

    let powers = "--powers=recoverer,controller";
    success(office.run(&["vault", "join", "create", "shelter", powers, "--output", "shelter.join"]));
    let again = office.run(&["vault", "join", "create", "shelter", powers, "--output", "other.join"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("FS1022") && !office.path("other.join").exists());
    fs::copy(office.path("shelter.join"), shelter.path("shelter.join")).expect("brought over");
    let joined = success(shelter.run(&["vault", "join", "accept", "shelter.join"]));
    assert!(joined.contains("farshore vault join approve shelter"), "{joined}");
    expect("not-approved", &shelter.told(&["run", "list"]));
    let waiting = success(office.run(&["vault", "join", "list"]));
    assert!(waiting.contains("waits for approval"), "{waiting}");
    success(office.run(&["vault", "join", "approve", "shelter"]));
    success(shelter.run(&["run", "list"]));
    let info = success(shelter.run(&["vault", "info"]));
    assert!(info.contains("as a host that is recoverer and controller"), "{info}");
    expect("not-a-replicator", &shelter.told(&["replicate", "shop", "--once"]));
    let stolen = World::new();
    stolen.write("farshore.toml", &configuration);
    fs::copy(office.path("shelter.join"), stolen.path("shelter.join")).expect("copied");
    expect("join-file-used", &stolen.told(&["vault", "join", "accept", "shelter.join"]));
    let left: Vec<_> = fs::read_dir(stolen.path("state/credentials")).expect("a folder").collect();
    assert!(left.is_empty(), "keys that were let in nowhere are gone: {left:?}");
    expect("join-withdraw-too-late", &office.told(&["vault", "join", "withdraw", "shelter"]));

    // The kit, by its words.
    let sheet = success(office.run(&["vault", "kit", "print", "--json"]));
    let words: Vec<String> = serde_json::from_str(&sheet).expect("words");
    success(office.run(&["vault", "kit", "check"]));
    let mut typing = office.command(&["vault", "kit", "type", "--output", "again.toml"]);
    let mut typing = typing.stdin(std::process::Stdio::piped()).spawn().expect("started");
    std::io::Write::write_all(&mut typing.stdin.take().expect("piped"), words.join("\n").as_bytes()).expect("typed");
    assert!(typing.wait().expect("ended").success());
    success(office.run(&["vault", "kit", "check", "--kit", "again.toml"]));
}
