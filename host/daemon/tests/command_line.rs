//! Help, codes, the configurations that we ship, and signals.

mod support;

use std::{fs, io::BufRead as _, path::Path, process::Stdio};

use support::{World, expect};

#[test]
fn every_command_has_help() {
    let world = World::new();
    let commands: [&[&str]; 55] = [
        &[],
        &["vault"],
        &["vault", "create"],
        &["vault", "info"],
        &["vault", "check"],
        &["vault", "prove"],
        &["vault", "repair"],
        &["vault", "prune"],
        &["vault", "pin"],
        &["vault", "pin", "list"],
        &["vault", "pin", "release"],
        &["vault", "join"],
        &["vault", "join", "create"],
        &["vault", "join", "accept"],
        &["vault", "join", "approve"],
        &["vault", "join", "withdraw"],
        &["vault", "join", "revoke"],
        &["vault", "join", "list"],
        &["vault", "kit"],
        &["vault", "kit", "print"],
        &["vault", "kit", "check"],
        &["vault", "kit", "type"],
        &["vault", "slots"],
        &["vault", "slots", "list"],
        &["vault", "slots", "add"],
        &["vault", "slots", "remove"],
        &["vault", "rotate"],
        &["vault", "rotate", "passphrase"],
        &["vault", "rotate", "kit"],
        &["vault", "rotate", "epoch"],
        &["vault", "lock"],
        &["vault", "lock", "show"],
        &["vault", "lock", "set"],
        &["vault", "lock", "extend"],
        &["vault", "unhide"],
        &["vault", "policy"],
        &["machine"],
        &["machine", "discover"],
        &["replicate"],
        &["points"],
        &["restore"],
        &["capsule"],
        &["capsule", "list"],
        &["capsule", "extract"],
        &["rescue"],
        &["drill"],
        &["failover"],
        &["failover", "unplanned"],
        &["run"],
        &["run", "list"],
        &["run", "show"],
        &["config"],
        &["config", "check"],
        &["explain"],
        &["demo"],
    ];
    for command in commands {
        let arguments: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
        let output = world.run(&arguments);
        assert!(output.status.success(), "{arguments:?}");
        let help = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(help.contains("Usage: farshore") && help.contains("--json"), "{help}");
    }
    let help = String::from_utf8(world.run(&["--help"]).stdout).expect("UTF-8");
    assert!(help.contains("Exit statuses:"), "{help}");
}

#[test]
fn every_code_that_is_listed_can_be_explained() {
    let world = World::new();
    let list: serde_json::Value = serde_json::from_slice(&world.run(&["--json", "explain"]).stdout).expect("JSON");
    let codes = list.as_array().expect("a list");
    assert!(codes.len() > 50, "{} codes", codes.len());
    for area in [1, 2, 3, 4, 5, 6] {
        let of_area = format!("FS{area}");
        let code = codes.iter().filter_map(|code| code["code"].as_str()).find(|code| code.starts_with(&of_area));
        let output = world.run(&["explain", code.expect("each area has codes")]);
        let page = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(output.status.success() && page.contains("What to do"), "{page}");
    }
}

#[test]
fn a_right_configuration_is_shown_with_what_it_allows() {
    let world = World::new();
    let told = world.told(&["config", "check"]);
    // The digest is that of the component of this build.
    let told: String = told
        .split_inclusive('\n')
        .map(|line| match line.split_once("blake3:") {
            Some((before, _)) => format!("{before}blake3:[DIGEST]\n"),
            None => line.to_owned(),
        })
        .collect();
    expect("config-check", &told);
    let json = world.run(&["--json", "config", "check"]);
    let summary: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let grants = summary["sites"][0]["grants"].as_array().expect("grants");
    assert!(grants.iter().all(|grant| grant["trusted"] == true && grant["kind"] == "unix"), "{summary}");
}

#[test]
fn the_configurations_that_we_ship_are_right() {
    for name in ["minimal.toml", "qemu-to-aws.toml"] {
        let world = World::new();
        let text = fs::read_to_string(Path::new("../../examples/config").join(name)).expect("it is there");
        // What is left out for being the other way round is right, too.
        let (head, other_way) = text.split_once("# The other way round").unwrap_or((&text, ""));
        let other_way: String =
            other_way.lines().skip(1).map(|line| format!("{}\n", line.trim_start_matches(['#', ' ']))).collect();
        // Only the cache cannot be where the example has it: a test may not write there.
        world.write("farshore.toml", &format!("host.cache-folder = \"cache\"\n{head}{other_way}"));
        let output = world.run(&["config", "check"]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {told}");
        assert!(!told.contains("a drill at site"), "{name}: {told}");
    }
}

/// What a component asks in drills and in failovers, and is granted in one of them only, would be missed on the worst day.
#[test]
fn an_endpoint_that_only_drills_are_granted_is_warned_of() {
    let text = fs::read_to_string("../../examples/config/qemu-to-aws.toml").expect("it is there");
    let granted = |mode: &str, text: &str| {
        let mut is_here = false;
        let line = |line: &str| {
            is_here = line.starts_with('[') && line.contains(mode) || is_here && !line.starts_with('[');
            if is_here { line.replace("# servicequotas", "servicequotas") + "\n" } else { format!("{line}\n") }
        };
        text.lines().map(line).collect::<String>()
    };
    let for_drills = granted("grants.drill.endpoints", &text);
    let for_both = granted("grants.live.endpoints", &for_drills);
    let for_failovers = granted("grants.live.endpoints", &text);
    assert!(text != for_drills && for_drills != for_both);
    for (text, lacking) in [(text, None), (for_drills, Some("live")), (for_failovers, Some("drill")), (for_both, None)]
    {
        let world = World::new();
        world.write("farshore.toml", &format!("host.cache-folder = \"cache\"\n{text}"));
        let output = world.run(&["config", "check"]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        let warning =
            |mode| format!("the adapter asks the endpoint servicequotas in mode {mode} too, which is not granted it");
        for mode in ["drill", "live"] {
            assert_eq!(told.contains(&warning(mode)), lacking == Some(mode), "{told}");
        }
    }
}

/// The keys of a credential are not read before they are needed; certificates are, so that a wrong path is found in good time.
#[test]
fn certificates_of_an_endpoint_are_read_when_the_configuration_is_checked() {
    let world = World::new();
    let endpoint = "\n[sites.shelter.grants.live.endpoints.ec2]\naddress = \"https://ec2.example.org\"\n\
                    certificates = \"authorities.pem\"\ncredential = \"live\"\nservice = \"ec2\"\n\
                    [sites.shelter.credentials.live]\nscheme = \"sigv4\"\nregion = \"a\"\n\
                    access-key-id = { file = \"no-such-id\" }\nsecret-access-key = { env = \"NO_SUCH_KEY\" }\n";
    let (head, groups) = support::CONFIGURATION.split_once("[groups.shop]").expect("it has a group");
    let aws = head.replace("[sites.shelter]\nadapter = \"qemu\"", "[sites.shelter]\nadapter = \"aws\"");
    world.write("farshore.toml", &format!("{aws}{endpoint}[groups.shop]{groups}"));
    let check = || {
        let output = world.run(&["config", "check"]);
        (output.status.success(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    let line = 1 + fs::read_to_string(world.path("farshore.toml"))
        .expect("a file")
        .lines()
        .position(|line| line.starts_with("certificates"))
        .expect("a line");
    for (content, part) in [
        (None, "authorities.pem cannot be read: No such file"),
        (Some("x".repeat((4 << 20) + 1)), "larger than 4 MiB"),
        (Some("no certificate".to_owned()), "certificate"),
    ] {
        if let Some(content) = content {
            world.write("authorities.pem", &content);
        }
        let (success, told) = check();
        assert!(!success && told.contains(part) && told.contains(&format!("farshore.toml:{line}:")), "{part}: {told}");
    }
    let authority = rcgen::generate_simple_self_signed(["ec2.example.org".to_owned()]).expect("a certificate");
    world.write("authorities.pem", &authority.cert.pem());
    let (success, told) = check();
    assert!(success, "{told}");
}

#[test]
fn a_signal_ends_watching_in_order() {
    let world = World::new();
    assert!(world.run(&["vault", "create", "--yes"]).status.success());
    for (signal, status) in [("-INT", 130), ("-TERM", 143)] {
        let mut child = world
            .command(&["--json", "replicate", "--watch"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        // The first line says that the platform does not answer, and that it will be asked again.
        let mut line = String::new();
        let mut lines = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
        lines.read_line(&mut line).expect("a line");
        let told: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&told["group"], &told["failures_in_a_row"]), (&"shop".into(), &1.into()), "{told}");
        assert!(told["next_try_in_milliseconds"].is_u64(), "{told}");
        let pid = child.id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().expect("kill").success());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(status));
        // The adapter's warnings come before it, each a line of its own.
        let told = String::from_utf8(output.stderr).expect("UTF-8");
        let last = told.lines().last().expect("a line");
        let error: serde_json::Value = serde_json::from_str(last).expect("a JSON object");
        assert_eq!(error["code"], "FS6011");
    }
}
