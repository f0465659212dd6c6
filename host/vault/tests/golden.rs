//! The small vaults in `tests/compat`: what a version has written, every later one reads.

use std::{fs, num::NonZeroUsize, path::Path};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use farshore_core::{DiskId, GroupName, MachineId, Passphrase, Sequence};
use farshore_vault::{
    Address, CheckDepth, Context, HostCredential, Kit, Opener, PointReader, Power, Store, StoreOptions, Vault, Workers,
};

/// A vault that is kept, and how many points and hosts it has.
struct Golden {
    folder: &'static Path,
    points: usize,
    hosts: usize,
}

/// The first was pruned. The second has been opened with a second kit since, in a second epoch, without one of its hosts; and its
/// points have capsules.
fn golden() -> [Golden; 2] {
    let at = |folder| Path::new(folder);
    [
        Golden { folder: at("../../tests/compat/golden-1"), points: 3, hosts: 1 },
        Golden { folder: at("../../tests/compat/golden-2"), points: 3, hosts: 2 },
    ]
}

impl Golden {
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).expect("a golden vault has its files")
    }

    async fn open(&self, opener: &Opener) -> Vault {
        let folder = fs::canonicalize(self.folder.join("vault")).expect("the golden vault");
        let address: Address = format!("file:{}", folder.display()).parse().expect("an address");
        let store = Store::open(&address, &StoreOptions::default()).expect("a store");
        let context = Context { workers: Workers::threads(NonZeroUsize::MIN), ..Context::system() };
        Vault::open(store, opener, context).await.expect("it opens")
    }

    /// Reads everything of every point, and compares it with what was noted when the vault was made; how many points there are.
    async fn compare(&self, vault: &Vault) -> usize {
        let expected: serde_json::Value = serde_json::from_str(&self.read("expected.json")).expect("JSON");
        let mut compared = 0;
        for (group, points) in expected.as_object().expect("groups") {
            let group = GroupName::new(group.clone()).expect("a name");
            let lineage = vault.lineage(&group).await.expect("readable").expect("there");
            for (point, machines) in points.as_object().expect("points") {
                let sequence = Sequence::new(point.parse().expect("a number"));
                let reader = lineage.open_point(sequence).await.expect("readable");
                for (machine, parts) in machines.as_object().expect("machines") {
                    for (name, expected) in parts.as_object().expect("disks, or items of the capsule") {
                        let content = read(&reader, machine, name).await;
                        let digest = digest(&SHA256, &content);
                        let found: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                        assert_eq!((&expected["bytes"], &expected["sha256"]), (&content.len().into(), &found.into()));
                    }
                }
                compared += 1;
            }
        }
        compared
    }
}

async fn read(reader: &PointReader, machine: &str, name: &str) -> Bytes {
    if machine == "(capsule)" {
        let items = reader.capsule().expect("it breaks no rule");
        let item = items.iter().find(|item| item.name.replace('/', ".") == name).expect("there");
        return reader.read_item(&item.name).await.expect("readable");
    }
    let (machine, disk) = (MachineId::new(machine).expect("a name"), DiskId::new(name).expect("a name"));
    let disk = reader.disk(&machine, &disk).expect("there");
    disk.read(0, disk.size_bytes()).await.expect("readable")
}

#[tokio::test]
async fn a_golden_vault_is_read_with_its_kit_and_passphrase() {
    for golden in golden() {
        let kit = Kit::parse(&golden.read("kit.toml")).expect("a kit");
        let passphrase = Passphrase::new(golden.read("passphrase"));
        let vault = golden.open(&Opener::Kit(Box::new(kit), passphrase)).await;
        assert_eq!(golden.compare(&vault).await, golden.points);
        let report = vault.check(CheckDepth::Full, &|_| {}).await.expect("checked");
        assert_eq!((report.points_checked, report.findings), (golden.points as u64, Vec::new()));
        assert_eq!(vault.hosts().await.expect("readable").len(), golden.hosts);
    }
}

#[tokio::test]
async fn a_golden_vault_is_read_by_its_host() {
    for golden in golden() {
        let credential = HostCredential::parse(&golden.read("host.toml")).expect("a credential");
        let vault = golden.open(&Opener::Host(Box::new(credential))).await;
        assert_eq!(vault.powers(), Power::ALL);
        assert_eq!(golden.compare(&vault).await, golden.points);
    }
}
