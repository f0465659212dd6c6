use super::{
    Examined,
    problem::{LocatedProblem, Severity},
};

fn examine(text: &str) -> Vec<LocatedProblem> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("farshore.toml");
    std::fs::write(&file, text).expect("written");
    Examined::read(&file).expect("readable").located()
}

/// Each problem as `line:column: message | hint`.
fn told(text: &str) -> Vec<String> {
    examine(text)
        .into_iter()
        .map(|problem| {
            let hint = problem.hint.map(|hint| format!(" | {hint}")).unwrap_or_default();
            format!("{}:{}: {}{hint}", problem.line, problem.column, problem.message)
        })
        .collect()
}

const GOOD: &str = r#"
[vault]
address = "file:/srv/vault"
passphrase-file = "passphrase"

[sites.farm]
adapter = "qemu"

[sites.shelter]
adapter = "qemu"

[groups.shop]
site = "farm"
machines = ["web", "db"]
recovery-site = "shelter"
rpo = "5s"
"#;

#[test]
fn a_right_file_has_no_problems() {
    assert_eq!(told(GOOD), Vec::<String>::new());
}

#[test]
fn turns_are_given_by_numbers_and_words_that_mean_something() {
    for (at, line, part) in [
        ("[sites.farm]", "concurrent-cycles = 0", "0 cycles at once are not between 1 and 1024"),
        ("[sites.farm]", "concurrent-cycles = 33", "the host replicates at most 32 groups at once"),
        ("[groups.shop]", "priority = \"urgent\"", "unknown variant `urgent`, expected one of `high`, `normal`, `low`"),
        ("[vault]", "[host]\nconcurrent-cycles = 2000\n[vault]", "2000 cycles at once are not between"),
    ] {
        let line = if line.starts_with('[') { line.to_owned() } else { format!("{at}\n{line}") };
        let told = told(&GOOD.replacen(at, &line, 1));
        assert!(told.iter().any(|problem| problem.contains(part)), "{line}: {told:?}");
    }
    let right = GOOD.replacen("[groups.shop]", "[groups.shop]\npriority = \"low\"", 1);
    assert_eq!(told(&right.replacen("[sites.farm]", "[sites.farm]\nconcurrent-cycles = 32", 1)), Vec::<String>::new());
}

#[test]
fn every_kind_of_mistake_is_found_in_one_reading() {
    let text = r#"
[hosts]
x = 1

[host]
worker-threads = 0
state-folder = 7

[vault]
address = "ftp://somewhere"
passphrase-file = "a"
passphrase-env = "B"

[sites.farm]
adaptor = "qemu"

[sites."Not a name"]
adapter = "qemu"

[sites.other]
adapter = { path = "x.wasm", digest = "sha256:00" }

[sites.third]
adapter = "quemu"

[groups.shop]
site = "frm"
machines = ["web", "web"]
recovery-sit = "shelter"
rpo = "soon"

[groups.empty]
site = "nowhere"
machines = []
rpo = "5s"
stall-limit = "1h"
consistency = "perfect"
"#;
    let told = told(text);
    let expected = [
        "2:2: there is no key `hosts` at the top of the file | did you mean `host`?",
        "6:18: 0 worker threads are not between 1 and 1024",
        "7:16: invalid type: integer `7`, expected path string",
        "10:11: \"ftp://somewhere\" is not the address of a vault",
        "12:1: the passphrase is said to be in two places",
        "15:1: there is no key `adaptor` in [sites.farm] | did you mean `adapter`?",
        "14:1: [sites.farm] has no `adapter` | add a line `adapter = ...`",
        "17:8: \"Not a name\" cannot name a site",
        "21:39: a digest is \"blake3:\" and 64 lower-case hexadecimal digits",
        "24:11: there is no embedded adapter \"quemu\" | did you mean \"qemu\"?",
        "29:1: there is no key `recovery-sit` in [groups.shop] | did you mean `recovery-site`?",
        "30:7: \"soon\" is not a length of time",
        "27:8: there is no site \"frm\" | did you mean \"farm\"?",
        "33:8: there is no site \"nowhere\"",
        "34:12: group empty has no machines",
        "36:15: no guest is held longer than 30s",
        "37:15: unknown variant `perfect`, expected `crash` or `application`",
    ];
    for expected in expected {
        assert!(told.iter().any(|line| line.starts_with(expected)), "{expected}\nnot in\n{}", told.join("\n"));
    }
    assert_eq!(told.len(), expected.len(), "{}", told.join("\n"));
}

#[test]
fn names_that_lead_nowhere_are_found_with_a_suggestion() {
    let text = GOOD.replace("site = \"farm\"", "site = \"frm\"").replace("\"db\"]", "\"web\"]");
    assert_eq!(
        told(&text),
        ["13:8: there is no site \"frm\" | did you mean \"farm\"?", "14:20: machine \"web\" stands here twice",]
    );
}

#[test]
fn a_site_with_a_mistake_still_counts_as_there() {
    let text = GOOD.replace("[sites.farm]\nadapter = \"qemu\"", "[sites.farm]\nadapter = 1");
    let told = told(&text);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(
        told[0].starts_with("7:11: invalid type: integer `1`, expected the name of an embedded adapter"),
        "{told:#?}"
    );
}

#[test]
fn several_mistakes_of_syntax_do_not_hide_the_rest() {
    let text = GOOD.replace("rpo = \"5s\"", "rpo = \"5s\nmachine = []");
    let told = told(&text);
    assert!(told.iter().any(|line| line.starts_with("16:") && line.contains("this is not TOML")), "{told:#?}");
}

#[test]
fn a_literal_secret_is_refused_and_never_shown() {
    let text = r#"
[vault]
address = "s3://bucket/prefix"
passphrase = "hunter2"

[vault.options]
secret_access_key = "hunter2"
region = "eu-west-1"

[vault.secrets]
session-token = "hunter2"
sas = { env = "hunter2 with blanks" }
"#;
    let problems = examine(text);
    let refused =
        problems.iter().filter(|problem| problem.message.contains("a secret never stands in this file")).count();
    assert_eq!(refused, 3, "{problems:#?}");
    assert_eq!(problems.iter().filter(|problem| problem.severity == Severity::Error).count(), 4, "{problems:#?}");
    for problem in &problems {
        let shown = problem.render() + &serde_json::to_string(problem).expect("JSON");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let userinfo = examine("[vault]\naddress = \"s3://KEY:hunter2@bucket\"\n");
    assert!(!format!("{userinfo:?}").contains("hunter2"), "{userinfo:#?}");
}

#[test]
fn a_file_without_a_vault_or_groups_is_told_so() {
    let told = told("");
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].starts_with("1:1: there is no [vault]"), "{told:#?}");
}

#[test]
fn nonsense_of_any_kind_ends_in_problems_and_not_in_a_panic() {
    for text in [
        "\u{0}",
        "[[[",
        "a = [[[[[[",
        "[a]\n[a]\n",
        "[groups]\nx = 1\n",
        "sites = []\n",
        "vault = \"x\"",
        "é = é",
        "[sites.a.b.c]\nx=1",
    ] {
        assert!(!examine(text).is_empty(), "{text:?}");
    }
}

#[test]
fn the_shown_places_are_those_of_the_text() {
    let problems = examine(
        "[vault]\naddress = \"file:/v\"\n\t rpo = 5 # why\n[groups.a]\nsite = 1\nmachines = [\"m\"]\nrpo = \"1s\"\n",
    );
    let shown: String = problems.iter().map(LocatedProblem::render).collect();
    assert!(
        shown.contains(
            "farshore.toml:3:3: error: there is no key `rpo` in [vault]\n  3 | \t rpo = 5 # why\n    | \t ^^^\n"
        ),
        "{shown}"
    );
    assert!(shown.contains("farshore.toml:5:8: error: "), "{shown}");
}

/// `GOOD` with a recovery site whose drills and live runs may use these folders.
fn with_recovery_folders(drill: &str, live: &str) -> String {
    let mode = |mode: &str, folder: &str| {
        format!(
            "[sites.shelter.settings-in.{mode}]\nmachine-folder = {folder:?}\n[sites.shelter.grants.{mode}]\n\
             unix = [\"{folder}/*\"]\nfiles = [{{ folder = {folder:?}, access = \"read-write\" }}]\n"
        )
    };
    let site = "[sites.shelter]\nadapter = \"qemu\"\n";
    GOOD.replace(site, &format!("{site}settings.fleece-limit-mib = 64\n{}{}", mode("drill", drill), mode("live", live)))
}

#[test]
fn what_stands_for_one_mode_replaces_what_stands_for_all() {
    use farshore_plugin::Mode;
    let text = with_recovery_folders("/srv/drill", "/srv/live")
        .replace("settings.fleece", "settings.machine-folder = \"/srv/all\"\nsettings.fleece");
    assert_eq!(told(&text), Vec::<String>::new());
    let document = super::read::read(&text).document;
    let site = &document.sites[&"shelter".parse().expect("a name")];
    for (mode, folder) in [(Mode::Drill, "/srv/drill"), (Mode::Live, "/srv/live"), (Mode::Observe, "/srv/all")] {
        let settings = serde_json::json!({ "machine-folder": folder, "fleece-limit-mib": 64 });
        assert_eq!(serde_json::Value::Object(site.settings_for(mode)), settings, "{mode}");
    }
    // A key is replaced as a whole: nothing of the other value stays.
    let text = "[sites.a]\nadapter = \"qemu\"\nsettings.one = { x = 1, y = 2 }\nsettings-in.drill.one = { x = 3 }\n";
    let document = super::read::read(text).document;
    let site = document.sites.values().next().expect("a site");
    assert_eq!(serde_json::Value::Object(site.settings_for(Mode::Drill)), serde_json::json!({ "one": { "x": 3 } }));
}

#[test]
fn a_mode_that_there_is_none_of_is_refused() {
    let text = GOOD.replace("[groups.shop]", "[sites.farm.settings-in.dril]\nx = 1\n[groups.shop]");
    let expected = "12:25: there is no key `dril` in [sites.farm.settings-in] | did you mean `drill`?";
    assert_eq!(told(&text), [expected]);
    let text = GOOD.replace("[groups.shop]", "[sites.farm.settings-in]\ndrill = 1\n[groups.shop]");
    let told = told(&text);
    assert!(told.len() == 1 && told[0].starts_with("13:9: invalid type: integer `1`, expected a map"), "{told:#?}");
}

#[test]
fn a_drill_that_could_reach_what_a_failover_started_is_warned_of() {
    assert_eq!(told(&with_recovery_folders("/srv/drill", "/srv/live")), Vec::<String>::new());
    let warnings = examine(&with_recovery_folders("/srv/live", "/srv/live"));
    let places: Vec<(usize, usize)> = warnings.iter().map(|problem| (problem.line, problem.column)).collect();
    assert_eq!(places, [(15, 9), (16, 10)], "{warnings:#?}");
    assert!(warnings.iter().all(|problem| problem.severity == Severity::Warning), "{warnings:#?}");
    assert_eq!(
        warnings[0].message,
        "a drill at site shelter could reach what a failover started there: both may use /srv/live/*"
    );
    let hint = warnings[0].hint.as_deref().expect("a hint");
    assert!(hint.contains("[sites.shelter.settings-in.drill]"), "{hint}");
}

/// The keys that a table can have, as serde says them for a key that none has.
fn keys_of(text: &str, table: &[super::places::Part]) -> Vec<String> {
    let mut tree: toml::Table = toml::from_str(text).expect("TOML");
    let mut place = &mut tree;
    for part in table {
        let super::places::Part::Key(key) = part else { panic!("a table") };
        place = place.get_mut(key).and_then(toml::Value::as_table_mut).expect("a table");
    }
    place.insert("no-such-key".to_owned(), toml::Value::Boolean(true));
    let error = match toml::Value::Table(tree).try_into::<super::Document>() {
        Ok(_) => return Vec::new(),
        Err(error) => error.message().to_owned(),
    };
    if error.contains("unknown field `no-such-key`") {
        super::read::known_keys(&error).into_iter().map(str::to_owned).collect()
    } else {
        Vec::new()
    }
}

/// All tables below a path, with what stands in them.
fn tables(value: &toml::Table, path: super::places::Path, found: &mut Vec<(super::places::Path, Vec<String>)>) {
    found.push((path.clone(), value.keys().cloned().collect()));
    for (key, value) in value {
        if let Some(table) = value.as_table() {
            let path = path.iter().cloned().chain([key.as_str().into()]).collect();
            tables(table, path, found);
        }
    }
}

#[test]
fn the_shipped_configurations_are_right_and_the_largest_has_every_key() {
    let folder = std::path::Path::new("../../examples/config");
    for name in ["minimal.toml", "maximal.toml", "qemu-to-aws.toml"] {
        let examined = Examined::read(&folder.join(name)).expect("readable");
        assert_eq!(examined.located(), [], "{name}");
    }
    let text = std::fs::read_to_string(folder.join("maximal.toml")).expect("readable");
    let tree: toml::Table = toml::from_str(&text).expect("TOML");
    let mut found = Vec::new();
    tables(&tree, Vec::new(), &mut found);
    // Tables of one kind have the same keys; a key that stands in one of them is shown.
    let mut kinds: std::collections::BTreeMap<Vec<String>, std::collections::BTreeSet<String>> = Default::default();
    for (path, keys) in found {
        kinds.entry(keys_of(&text, &path)).or_default().extend(keys);
    }
    kinds.remove(&Vec::new());
    assert!(kinds.len() >= 8, "the kinds of tables are found: {kinds:#?}");
    for (known, shown) in kinds {
        for key in known {
            // The other ways to give a passphrase exclude the one that is shown, and stand in its comment.
            let shown = shown.contains(&key) || key == "passphrase-env" && text.contains("`passphrase-env = ");
            // A mode without grants or programs is one that needs none.
            let is_mode = ["observe", "protect", "drill", "live"].contains(&key.as_str());
            assert!(shown || is_mode, "maximal.toml shows {key:?}");
        }
    }
}

#[test]
fn application_consistent_points_have_a_schedule_of_their_own_or_none() {
    let group = |more: &str| told(&GOOD.replace("rpo = \"5s\"", &format!("rpo = \"5s\"\n{more}")));
    assert_eq!(group("application-every = \"1h\""), Vec::<String>::new());
    for (more, part) in [
        (
            "application-every = \"1h\"\nconsistency = \"application\"",
            "all points are application-consistent already | leave",
        ),
        ("application-every = \"4s\"", "more often than they come"),
        ("application-every = \"hourly\"", "is not a length of time"),
        ("verify-within = \"0s\"", "no time at all"),
    ] {
        let problems = group(more);
        assert!(problems.len() == 1 && problems[0].contains(part), "{more}: {problems:?}");
    }
}

#[test]
fn what_the_daemon_goes_by_is_checked() {
    let alert = "\n[alerts.on-call]\nsecret = { env = \"HOOK\" }\nwebhook.address = \"https://hooks.example.org\"\n";
    let mail = "\n[alerts.team]\ngroups = [\"shop\"]\nmail = { server = \"mail.example.org\", from = \"a@b.org\", to = [\"c@d.org\"] }\n";
    let listen =
        "address = \"127.0.0.1:7443\", certificate = \"crt\", key = { file = \"key\" }, token = { env = \"TOKEN\" }";
    let host = format!("[host]\nsites = [\"farm\"]\ndrain-limit = \"5m\"\nlisten = {{ {listen} }}\n");
    let fine = format!("{host}{GOOD}{alert}{mail}");
    assert_eq!(told(&fine), Vec::<String>::new());
    for (from, to, part) in [
        ("sites = [\"farm\"]", "sites = [\"farn\"]", "there is no site \"farn\" | did you mean \"farm\"?"),
        ("\"5m\"", "\"25h\"", "no cycle is waited for longer than 24h"),
        ("{ env = \"TOKEN\" }", "\"hunter2\"", "a secret never stands in this file itself"),
        ("{ env = \"TOKEN\" }", "{ env = \"hunter 2\" }", "cannot be the name of an environment variable"),
        ("127.0.0.1:7443", "localhost", "invalid socket address"),
        ("{ env = \"HOOK\" }", "\"hunter2\"", "a secret never stands in this file itself"),
        ("https://hooks", "http://hooks", "the address has no TLS"),
        ("webhook.address = \"https://hooks.example.org\"\n", "", "webhook"),
        ("groups = [\"shop\"]", "groups = [\"shoo\"]", "there is no group \"shoo\" | did you mean \"shop\"?"),
        ("\"c@d.org\"", "\"nobody\"", "\"nobody\" is no mail address"),
        ("to = [", "user = \"me\", to = [", "the mail server's user has no `secret` beside it"),
        ("[alerts.on-call]", "[alerts.on-call]\nseverity = \"bad\"", "unknown variant `bad`"),
        ("[host]", "[host]\nsocket = \"/[LONG]\"", "the path of a socket has at most 107 bytes"),
    ] {
        let problems = told(&fine.replacen(from, to, 1).replace("[LONG]", &"x".repeat(107)));
        assert!(problems.iter().any(|problem| problem.contains(part)), "{to}: {problems:?}");
        assert!(!problems.iter().any(|problem| problem.contains("hunter")), "{problems:?}");
    }
}

#[test]
fn hours_rates_and_the_collector_of_traces_are_checked() {
    let group =
        GOOD.replace("rpo = \"5s\"", "rpo = \"5s\"\nblackout = [\"mon-fri 08:00-09:00\"]\ncatch-up = \"newest\"");
    let more = "\n[vault.bandwidth]\nlimit = \"20MiB/s\"\nhours = [{ at = \"22:00-06:00\", limit = \"unlimited\" }]\n\
                [telemetry.traces]\nendpoint = \"https://collector.example.org:4318\"\n[telemetry.headers]\n\
                authorization = { file = \"collector-token\" }\n";
    let host = "[host]\ntime-zone = \"Europe/Berlin\"\nspool.limit = \"20GiB\"\n";
    let fine = format!("{host}{group}{more}");
    assert_eq!(told(&fine), Vec::<String>::new());
    assert_eq!(told(&fine.replacen("20GiB", "0", 1)), Vec::<String>::new(), "nothing waits then");
    for (from, to, part) in [
        ("mon-fri 08:00-09:00", "mon-fri 8-9", "are not hours such as"),
        ("mon-fri 08:00-09:00", "mo-fr 08:00-09:00", "are not hours such as"),
        ("\"mon-fri 08:00-09:00\"", "\"08:00-20:00\", \"20:00-08:00\"", "no cycle would ever begin"),
        ("\"newest\"", "\"oldest\"", "unknown variant `oldest`"),
        ("20MiB/s", "20MB/s", "is not a rate such as \"20MiB/s\""),
        ("20MiB/s", "0B/s", "would let nothing through"),
        ("Europe/Berlin", "Berlin", "\"Berlin\" is not a time zone such as \"Europe/Berlin\""),
        ("20GiB", "lots", "is not an amount of bytes"),
        ("https://collector", "http://collector", "the address has no TLS"),
        ("{ file = \"collector-token\" }", "\"Bearer hunter2\"", "a secret never stands in this file itself"),
        ("{ file = \"collector-token\" }", "{ env = \"hunter 2\" }", "cannot be the name of an environment variable"),
        ("authorization = ", "content-type = ", "is written by the exporter itself"),
    ] {
        let problems = told(&fine.replacen(from, to, 1));
        assert!(problems.iter().any(|problem| problem.contains(part)), "{to}: {problems:?}");
        assert!(!problems.iter().any(|problem| problem.contains("hunter")), "{problems:?}");
    }
}

#[test]
fn credentials_and_endpoints_are_checked() {
    let site = |more: &str| {
        GOOD.replace("[sites.shelter]\nadapter = \"qemu\"\n", &format!("[sites.shelter]\nadapter = \"qemu\"\n{more}\n"))
    };
    let keys =
        "scheme = \"sigv4\"\nregion = \"a\"\naccess-key-id = { env = \"ID\" }\nsecret-access-key = { file = \"key\" }";
    let fine = format!(
        "[sites.shelter.credentials.drill]\n{keys}\n[sites.shelter.grants.drill.endpoints.ec2]\naddress = \
         \"https://ec2.example.org\"\ncredential = \"drill\"\nservice = \"ec2\""
    );
    assert_eq!(told(&site(&fine)), Vec::<String>::new());
    let wrong = [
        (
            "credential = \"drill\"",
            "credential = \"dril\"",
            "site shelter has no credential \"dril\" | did you mean \"drill\"?",
        ),
        ("service = \"ec2\"", "", "does not say which service \"drill\" signs for | add `service`"),
        ("https:", "http:", "its address has no TLS"),
        ("ec2.example.org", "name:hunter2@ec2.example.org", "it holds a name or a password"),
        ("ec2.example.org", "ec2.example.org/path", "it has a path or a query"),
        ("{ file = \"key\" }", "\"hunter2\"", "a secret never stands in this file itself"),
        ("{ env = \"ID\" }", "\"hunter2\"", "in [sites.shelter.credentials.drill]"),
        ("{ env = \"ID\" }", "{ env = \"hunter 2\" }", "cannot be the name of an environment variable"),
        ("scheme = \"sigv4\"", "scheme = \"sigv5\"", "unknown variant `sigv5`"),
        ("region = \"a\"", "", "has no `region`"),
        ("service = \"ec2\"", "service = \"ec2\"\nhost = \"b\"", "there is no key `host`"),
    ];
    for (from, to, part) in wrong {
        let problems = told(&site(&fine.replacen(from, to, 1)));
        assert!(problems.iter().any(|problem| problem.contains(part)), "{to}: {problems:?}");
        assert!(!problems.iter().any(|problem| problem.contains("hunter")), "{problems:?}");
    }
    let endpoint = fine.split_once("[sites.shelter.grants").map_or("", |(_, rest)| rest);
    let live = format!("{fine}\n[sites.shelter.grants{}", endpoint.replacen(".drill", ".live", 1));
    let problems = told(&site(&live));
    assert!(problems.iter().any(|problem| problem.contains("both may use the credential \"drill\"")), "{problems:?}");
}
