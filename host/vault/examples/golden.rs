//! Makes the small vault that `tests/compat` keeps, so that every later version is seen to read it.
//!
//! `cargo run --package farshore-vault --example golden -- FOLDER`
//!
//! FOLDER, which must not be there, gets the vault itself, `kit.toml`, `passphrase`, `host.toml` (the credential of a host
//! that may do everything), and `expected.json`: for each point the length and SHA-256 of each disk, and of each item of its
//! capsule.

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use farshore_core::{
    Basis, Consistency, DiskId, Entropy, Firmware, GroupName, HostName, Instant, Machine, MachineId, Passphrase,
    PowerState, RunId, SeededEntropy, Sequence, SiteName, Timestamp,
};
use farshore_vault::{
    Address, CapsuleDraft, Context, CreateOptions, Grace, HostCredential, KdfParameters, Lineage, Opener, PointDetails,
    PointDiskDraft, PointMachineDraft, Power, Retention, SlotRequest, Store, StoreOptions, Vault, Workers,
};

const PASSPHRASE: &str = "caf\u{e9} at the harbour";
const CHUNK: usize = 65_536;

/// What travels with each point.
const ITEM: &str = "configuration/harbour";
const CONFIGURATION: &[u8] = b"[vault]\naddress = \"file:/golden/vault\"\n";

/// How many small points follow the large ones, so that a prune has packs to collect.
const SMALL_POINTS: usize = 24;

/// The content of the disks at each of the large points: zeros, noise, text, repeated chunks, an end within a chunk, a change,
/// growth.
fn contents() -> Vec<[Vec<u8>; 2]> {
    let noise = |seed: u64, length: usize| {
        let mut bytes = vec![0; length];
        SeededEntropy::new(seed).fill(&mut bytes);
        bytes
    };
    let mut system = vec![0; 140 * CHUNK];
    system[..3 * CHUNK].copy_from_slice(&noise(1, 3 * CHUNK));
    let text: Vec<u8> =
        b"every disk tells a story, and most of it compresses. ".iter().copied().cycle().take(20 * CHUNK).collect();
    system[40 * CHUNK..60 * CHUNK].copy_from_slice(&text);
    system.copy_within(0..CHUNK, 139 * CHUNK);
    let data = noise(2, 5 * CHUNK + 512);
    let first = [system, data];
    let mut second = first.clone();
    second[0][45 * CHUNK..45 * CHUNK + 9].copy_from_slice(b"a change.");
    second[0][..CHUNK].fill(0);
    second[1].extend_from_slice(&noise(3, 2 * CHUNK));
    vec![first, second]
}

async fn commit(lineage: &Lineage, disks: &[Vec<u8>; 2]) -> Result<u64, Box<dyn Error>> {
    let head = lineage.head().await?;
    let writer = lineage.begin_point(head.generation, &head.active_site).await?;
    let (machine, names) = (MachineId::new("shop")?, ["system", "data"]);
    for (name, content) in names.iter().zip(disks) {
        let disk = writer.add_disk(&machine, &DiskId::new(*name)?, content.len() as u64).await?;
        for (number, piece) in content.chunks(1 << 20).enumerate() {
            disk.write((number << 20) as u64, Bytes::copy_from_slice(piece)).await?;
        }
    }
    let details = BTreeMap::from([("written-by".to_owned(), "the harbour".to_owned())]);
    writer.add_item(&CapsuleDraft::new(ITEM, "configuration", details, CONFIGURATION)?).await?;
    let draft = |name: &&str| {
        Ok::<_, Box<dyn Error>>(PointDiskDraft { disk: DiskId::new(*name)?, basis: Basis::Full, tracking_token: None })
    };
    let details = PointDetails {
        capture: None,
        captured_at: Timestamp::from_unix_milliseconds(1_795_000_000_000),
        instant: Instant::Group,
        consistency: Consistency::Crash,
        machines: vec![PointMachineDraft {
            machine: Machine {
                id: machine,
                name: "shop".to_owned(),
                cpus: 2,
                memory_bytes: 1 << 30,
                firmware: Firmware::Bios,
                power: PowerState::Running,
                disks: Vec::new(),
                network_interfaces: Vec::new(),
                properties: BTreeMap::new(),
            },
            disks: names.iter().map(draft).collect::<Result<_, _>>()?,
        }],
        suspended: Vec::new(),
        label: None,
        note: String::new(),
    };
    Ok(writer.commit(details).await?.sequence.get())
}

/// Who has another kit and another passphrase than the vault was made with: those that are kept.
async fn second_administrator(
    first: &Vault,
    store: &Store,
    context: &Context,
    folder: &Path,
) -> Result<Vault, Box<dyn Error>> {
    let passphrase = Passphrase::new(PASSPHRASE);
    let kdf = KdfParameters::FLOOR;
    let request = SlotRequest { passphrase: &passphrase, kdf, same_words_as: None, label: "the harbour's" };
    let draft = first.draft_slot(request).await?;
    let kit = draft.kit().clone();
    draft.commit(None).await?;
    // Where it was made is nobody's business, and a note only.
    fs::write(folder.join("kit.toml"), kit.to_text().replace(store.address(), "file:/golden/vault"))?;
    fs::write(folder.join("passphrase"), PASSPHRASE)?;
    Ok(Vault::open(store.clone(), &Opener::Kit(Box::new(kit), passphrase), context.clone()).await?)
}

/// Lets a host in, with these powers.
async fn join(
    administrator: &Vault,
    store: &Store,
    context: &Context,
    (name, powers): (&str, &[Power]),
) -> Result<HostCredential, Box<dyn Error>> {
    let (name, year_2255) = (HostName::new(name)?, Timestamp::from_unix_milliseconds(9_000_000_000_000));
    let join = administrator.invite(&name, powers, year_2255).await?;
    let credential = HostCredential::new(&join, &*context.entropy);
    credential.enrol(store, &join, context).await?;
    administrator.approve(&name).await?;
    Ok(credential)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("name a folder that is not there")?);
    fs::create_dir(&folder)?;
    let address: Address = format!("file:{}", fs::canonicalize(&folder)?.join("vault").display()).parse()?;
    let store = Store::open(&address, &StoreOptions::default())?;
    let context = Context { workers: Workers::inline(), ..Context::system() };
    let options = CreateOptions { kdf: KdfParameters::FLOOR };
    let draft = Vault::draft(store.clone(), &Passphrase::new("the first one"), options, context.clone()).await?;
    let first_slot = draft.kit().slot();
    let first = draft.create().await?;
    let administrator = second_administrator(&first, &store, &context, &folder).await?;
    administrator.remove_slot(first_slot).await?;
    let keeper = join(&administrator, &store, &context, ("keeper", &Power::ALL)).await?;
    fs::write(folder.join("host.toml"), keeper.to_text().as_bytes())?;
    let vault = Vault::open(store.clone(), &Opener::Host(Box::new(keeper)), context.clone()).await?;
    let (group, site) = (GroupName::new("harbour")?, SiteName::new("here")?);
    let lineage = vault.create_lineage(&group, &site).await?;
    // One who leaves: what it wrote stands, and is read.
    let leaving = join(&administrator, &store, &context, ("leaving", &[Power::Replicator])).await?;
    let leaving = Vault::open(store, &Opener::Host(Box::new(leaving)), context.clone()).await?;
    let its_lineage = leaving.create_lineage(&group, &site).await?;
    let mut points = BTreeMap::new();
    let note = |points: &mut BTreeMap<u64, serde_json::Value>, sequence: u64, disks: &[Vec<u8>; 2]| {
        let disk = |content: &Vec<u8>| serde_json::json!({ "bytes": content.len(), "sha256": hexadecimal(digest(&SHA256, content).as_ref()) });
        let shop = serde_json::json!({ "system": disk(&disks[0]), "data": disk(&disks[1]) });
        let capsule = serde_json::json!({ ITEM.replace('/', "."): disk(&CONFIGURATION.to_vec()) });
        points.insert(sequence, serde_json::json!({ "shop": shop, "(capsule)": capsule }));
    };
    let mut content = None;
    for (number, disks) in contents().into_iter().enumerate() {
        let sequence = commit(if number == 0 { &its_lineage } else { &lineage }, &disks).await?;
        note(&mut points, sequence, &disks);
        content = Some(disks);
        if number == 0 {
            administrator.revoke(&administrator.plan_revocation(&HostName::new("leaving")?).await?).await?;
            administrator.begin_epoch(&administrator.plan_epoch().await?).await?;
            let head = lineage.head().await?;
            lineage.raise_generation(&SiteName::new("there")?, "a golden vault has one", &head).await?;
            lineage.pin(RunId::random(&*context.entropy), Sequence::new(sequence)).await?;
        }
    }
    // Then many points that change little: a prune gives most of them up, and moves what they leave together.
    let mut disks = content.ok_or("there are large points")?;
    for number in 0..SMALL_POINTS {
        let at = (60 + 3 * number) * CHUNK;
        disks[0][at..at + 11].copy_from_slice(b"small point");
        let sequence = commit(&lineage, &disks).await?;
        note(&mut points, sequence, &disks);
    }
    let retention = Retention { all_seconds: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 };
    for _ in 0..4 {
        let plan = lineage.plan_prune(&retention, Grace { seconds: 0, commits: 0 }).await?;
        lineage.prune(plan).await?;
    }
    disks[0][50 * CHUNK..50 * CHUNK + 10].copy_from_slice(b"not moved.");
    let sequence = commit(&lineage, &disks).await?;
    note(&mut points, sequence, &disks);
    let stand: Vec<u64> = lineage.points(None, usize::MAX).await?.iter().map(|point| point.sequence.get()).collect();
    points.retain(|sequence, _| stand.contains(sequence));
    fs::write(folder.join("expected.json"), serde_json::to_vec_pretty(&serde_json::json!({ "harbour": points }))?)?;
    Ok(())
}
