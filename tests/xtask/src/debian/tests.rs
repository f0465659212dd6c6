use super::*;

fn package(name: &str, brings: &'static str) -> Package {
    Package { name: name.to_owned(), brings, purpose: "a test" }
}

#[test]
fn an_ordinary_plan_costs_nothing() {
    let output = "\
Reading package lists...
Building dependency tree...
Reading state information...
The following additional packages will be installed:
  libnbd0
Recommended packages:
  fuse3
The following NEW packages will be installed:
  libnbd-bin libnbd0
0 upgraded, 2 newly installed, 0 to remove and 12 not upgraded.
Inst libnbd0 (1.14.2-1 Debian:12.11/oldstable [amd64])
Inst libnbd-bin (1.14.2-1 Debian:12.11/oldstable [amd64])
Conf libnbd0 (1.14.2-1 Debian:12.11/oldstable [amd64])
Conf libnbd-bin (1.14.2-1 Debian:12.11/oldstable [amd64])
";
    let expected = Plan { installed: vec!["libnbd0".into(), "libnbd-bin".into()], ..Plan::default() };
    assert_eq!(parse_plan(output), expected);
}

#[test]
fn removals_and_downgrades_are_seen() {
    let output = "\
Reading package lists...
The following additional packages will be installed:
  qemu-system-common qemu-system-data
The following packages will be REMOVED:
  qemu-block-extra*
The following NEW packages will be installed:
  qemu-system-x86
The following packages will be upgraded:
  libc6
The following packages will be DOWNGRADED:
  qemu-system-common qemu-utils
  ipxe-qemu
1 upgraded, 1 newly installed, 3 downgraded, 1 to remove and 0 not upgraded.
Purg qemu-block-extra [1:10.0.2+ds-2~bpo12+1]
Inst qemu-utils [1:10.0.2+ds-2~bpo12+1] (1:7.2+dfsg-7+deb12u18 Debian:12.11/oldstable [amd64])
Remv other:i386 [1.0]
Conf qemu-utils (1:7.2+dfsg-7+deb12u18 Debian:12.11/oldstable [amd64])
";
    let plan = parse_plan(output);
    assert_eq!(plan.removed, ["qemu-block-extra", "other:i386"]);
    assert_eq!(plan.downgraded, ["qemu-system-common", "qemu-utils", "ipxe-qemu"]);
    assert_eq!(plan.installed, ["qemu-utils"]);
}

#[test]
fn the_messages_name_the_packages_and_the_way_out() {
    let stop = Stop::Costs {
        removed: vec!["qemu-block-extra".into()],
        downgraded: vec!["qemu-utils".into()],
        command: "apt-get install --no-install-recommends qemu-system-x86".into(),
    };
    assert_eq!(
        stop.to_string(),
        "apt would remove qemu-block-extra and downgrade qemu-utils\nhint: run the command again with --yes if that is \
         all right; the exact command is: apt-get install --no-install-recommends qemu-system-x86"
    );
    let stop = Stop::OtherSystem { tools: vec!["qemu-img (a test; Debian's package qemu-utils)".into()] };
    assert!(stop.to_string().starts_with("missing on this system: qemu-img (a test; Debian's package qemu-utils)\n"));
}

#[test]
fn only_installed_packages_count() {
    let listing = "qemu-utils installed\nnbdkit config-files\nmtools not-installed\n";
    assert_eq!(parse_installed(listing), BTreeSet::from(["qemu-utils".to_owned()]));
}

#[test]
fn derivatives_are_not_debian() {
    assert!(is_debian("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n"));
    assert!(is_debian("ID=\"debian\"\n"));
    assert!(!is_debian("ID=ubuntu\nID_LIKE=debian\n"));
    assert!(!is_debian("ID_LIKE=debian\n"));
    assert!(!is_debian(""));
}

#[test]
fn elsewhere_the_missing_programs_are_named() {
    let packages =
        [package("coreutils", "/"), package("none", "no-such-program-anywhere"), package("file", "/no/such/file")];
    let error = ensure_tools(&packages).unwrap_err();
    let Some(Stop::OtherSystem { tools }) = error.downcast_ref::<Stop>() else { panic!("{error}") };
    assert_eq!(tools.len(), 2);
    assert!(tools[0].starts_with("no-such-program-anywhere ("), "{tools:?}");
    assert!(tools[1].starts_with("/no/such/file ("), "{tools:?}");
    ensure_tools(&packages[..1]).unwrap();
}
