use super::*;

#[test]
fn a_star_stays_in_its_name() {
    let matches = |pattern: &str, path: &str| {
        pattern.parse::<PathPattern>().expect("a pattern").matches(std::path::Path::new(path))
    };
    for (pattern, path) in [
        ("/run/vms/*.qmp", "/run/vms/a.qmp"),
        ("/run/vms/*.qmp", "/run/vms/.qmp"),
        ("/run/*/x", "/run/vm/x"),
        ("/run/a*b*c", "/run/aXbYbZc"),
        ("/run/*", "/run/anything"),
        ("/run/plain", "/run/plain"),
    ] {
        assert!(matches(pattern, path), "{pattern} {path}");
    }
    for (pattern, path) in [
        ("/run/vms/*.qmp", "/run/vms/deep/a.qmp"),
        ("/run/vms/*.qmp", "/run/vms/a.qmp2"),
        ("/run/*/x", "/run/x"),
        ("/run/ab*ba", "/run/aba"),
        ("/run/*", "/run"),
        ("/run/plain", "/run/plain/more"),
    ] {
        assert!(!matches(pattern, path), "{pattern} {path}");
    }
}

#[test]
fn grants_come_from_toml_and_refuse_what_they_do_not_know() {
    let text = r#"
        [protect]
        unix = ["/run/vms/*.qmp"]
        tcp = ["Vcenter.example.org:443", "[::1]:80"]
        nbd = ["unix:/run/farshore/*.nbd", "tcp:host:10809"]
        files = [{ folder = "/var//lib/x/", access = "read-write" }]
    "#;
    let grants: SiteGrants = toml::from_str(text).expect("good grants");
    let protect = grants.for_mode(Mode::Protect);
    assert_eq!(
        protect.tcp.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["vcenter.example.org:443", "[::1]:80"]
    );
    assert_eq!(protect.files.first().map(|grant| grant.folder.clone()), Some(PathBuf::from("/var/lib/x")));
    assert_eq!(grants.for_mode(Mode::Drill), &Grants::default());

    for (text, wanted) in [
        ("[protect]\nunix = [\"run/x\"]", "it is not absolute"),
        ("[protect]\nunix = [\"/run/../x\"]", ". or .."),
        ("[protect]\ntcp = [\"host\"]", "expected host:port"),
        ("[protect]\ntcp = [\"host:0\"]", "the port is 0"),
        ("[protect]\ntcp = [\"::1:80\"]", "in brackets"),
        ("[protect]\nnbd = [\"/run/x\"]", "unix:/path or tcp:host:port"),
        ("[protect]\nfiles = [{ folder = \"/x\", access = \"write\" }]", "unknown variant"),
        ("[protect]\nhttp = []", "unknown field"),
        ("[test]\nunix = []", "unknown field"),
    ] {
        let error = toml::from_str::<SiteGrants>(text).expect_err(text).to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}
