//! The small vaults in `tests/compat`: what a version has written, every later one reads.

use std::{fs, num::NonZeroUsize, path::Path};

use aws_lc_rs::digest::{Context as Digest, SHA256};
use farshore_core::{DiskId, GroupName, MachineId, Passphrase, Sequence};
use farshore_vault::{
    Address, CheckDepth, Context, HostCredential, Kit, Opener, Power, Store, StoreOptions, Vault, Workers,
};

const GOLDEN: &str = "../../tests/compat/golden-1";

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(GOLDEN).join(name)).expect("a golden vault has its files")
}

async fn open(opener: &Opener) -> Vault {
    let folder = fs::canonicalize(Path::new(GOLDEN).join("vault")).expect("the golden vault");
    let address: Address = format!("file:{}", folder.display()).parse().expect("an address");
    let store = Store::open(&address, &StoreOptions::default()).expect("a store");
    let context = Context { workers: Workers::threads(NonZeroUsize::MIN), ..Context::system() };
    Vault::open(store, opener, context).await.expect("it opens")
}

/// Reads every disk of every point, and compares it with what was noted when the vault was made; how many there are.
async fn compare(vault: &Vault) -> usize {
    let expected: serde_json::Value = serde_json::from_str(&read("expected.json")).expect("JSON");
    let mut disks = 0;
    for (group, points) in expected.as_object().expect("groups") {
        let group = GroupName::new(group.clone()).expect("a name");
        let lineage = vault.lineage(&group).await.expect("readable").expect("there");
        for (point, machines) in points.as_object().expect("points") {
            let reader = lineage.open_point(Sequence::new(point.parse().expect("a number"))).await.expect("readable");
            for (machine, of_machine) in machines.as_object().expect("machines") {
                for (disk, expected) in of_machine.as_object().expect("disks") {
                    let (machine, disk) = (MachineId::new(machine.clone()), DiskId::new(disk.clone()));
                    let reader = reader.disk(&machine.expect("a name"), &disk.expect("a name")).expect("there");
                    assert_eq!(expected["bytes"], reader.size_bytes());
                    let mut digest = Digest::new(&SHA256);
                    digest.update(&reader.read(0, reader.size_bytes()).await.expect("readable"));
                    let found: String = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                    assert_eq!(expected["sha256"], found, "point {point}");
                    disks += 1;
                }
            }
        }
    }
    disks
}

#[tokio::test]
async fn a_golden_vault_is_read_with_its_kit_and_passphrase() {
    let kit = Kit::parse(&read("kit.toml")).expect("a kit");
    let vault = open(&Opener::Kit(Box::new(kit), Passphrase::new(read("passphrase")))).await;
    assert_eq!(compare(&vault).await, 6);
    let report = vault.check(CheckDepth::Full, &|_| {}).await.expect("checked");
    assert_eq!((report.points_checked, report.findings), (3, Vec::new()));
    assert_eq!(vault.hosts().await.expect("readable").len(), 1);
}

#[tokio::test]
async fn a_golden_vault_is_read_by_its_host() {
    let credential = HostCredential::parse(&read("host.toml")).expect("a credential");
    let vault = open(&Opener::Host(Box::new(credential))).await;
    assert_eq!(vault.powers(), Power::ALL);
    assert_eq!(compare(&vault).await, 6);
}
