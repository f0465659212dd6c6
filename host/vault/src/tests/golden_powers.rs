//! T16 at the vault's own interface: every verb, by everybody who has one power only, in a group that the caller began and in one
//! that another did. The table below is what succeeds; nothing else does. And what a pruner has decrypts no frame.

use std::fmt::Write as _;

use farshore_core::{RunId, Sequence};

use super::{
    whole::{RUN, Whole, lines, orders, whole},
    *,
};
use crate::{CheckDepth, Error, Grace, HostCredential, Power, keys::boxes, map::leaf_slots, pack};

/// `+` it succeeds, `-` it is refused for want of a power or key, `.` there is no such case. Where there are two signs, the first is
/// for a group that the caller may have begun itself (that is the replicator's and the administrator's), the second for another's.
const TABLE: &str = "\
verb                  replicator  recoverer  controller  pruner  administrator
info                  +           +          +           +       +
usage                 +           +          +           +       +
hosts                 +           +          +           +       +
create_lineage        +           -          -           -       +
lineage               +-          .+         .+          .+      ++
head                  +-          .+         .+          .+      ++
points                +-          .+         .+          .+      ++
point                 +-          .+         .+          .+      ++
read_disk             --          .+         .-          .-      ++
commit_point          +-          .-         .-          .-      ++
raise_generation      --          .-         .+          .-      ++
pin                   --          .-         .+          .-      ++
unpin                 --          .-         .+          .-      ++
plan_prune            --          .-         .-          .+      ++
prune                 --          .-         .-          .+      ++
check_structure       +           +          +           +       +
check_full            -           +          -           -       +
runs                  -           +          +           -       +
run_entries           -           +          +           -       +
create_run            -           -          +           -       +
append_run            -           -          +           -       +
invite                -           -          -           -       +
approve               -           -          -           -       +
withdraw              -           -          -           -       +
";

/// Whether it was refused for want of a power or a key, or succeeded; anything else is neither.
fn sign<T>(verb: &str, outcome: Result<T>) -> char {
    match outcome {
        Ok(_) => '+',
        Err(Error::PowerMissing { .. } | Error::NoKey { .. } | Error::NotAdministrator { .. }) => '-',
        Err(error) => panic!("{verb}: {error}"),
    }
}

fn name(text: &str) -> farshore_core::HostName {
    farshore_core::HostName::new(text).expect("a good name")
}

async fn join(administrator: &Vault, objects: &Arc<InMemory>, power: Power) -> HostCredential {
    let far = Timestamp::from_unix_milliseconds(9_000_000_000_000);
    let join = administrator.invite(&name(&format!("only-{power}")), &[power], far).await.expect("invited");
    let credential = HostCredential::new(&join, &SystemEntropy);
    credential.enrol(&store(objects), &join, &context()).await.expect("joined");
    // A replicator is not approved: it has the keys of what it begins itself.
    if power.needs_approval() {
        administrator.approve(join.name()).await.expect("approved");
    }
    credential
}

/// The verbs of a group, each on a store of its own, so that none disturbs another.
async fn try_group(vault: &Vault, group: &GroupName) -> Vec<(&'static str, char)> {
    let opened = vault.lineage(group).await;
    let mut signs = vec![("lineage", sign("lineage", opened.as_ref().map(|_| ()).map_err(Clone::clone)))];
    let rest = [
        "head",
        "points",
        "point",
        "read_disk",
        "commit_point",
        "raise_generation",
        "pin",
        "unpin",
        "plan_prune",
        "prune",
    ];
    let Ok(Some(lineage)) = opened else {
        // Without the group's key there is nothing to call a verb of.
        signs.extend(rest.map(|verb| (verb, '-')));
        return signs;
    };
    let head = lineage.head().await;
    signs.push(("head", sign("head", head.as_ref().map_err(Clone::clone))));
    let head = head.expect("who has the group's key follows it");
    signs.push(("points", sign("points", lineage.points(None, 9).await)));
    let newest = head.newest_point.expect("it has a point");
    let point = lineage.point(newest).await;
    signs.push(("point", sign("point", point.as_ref().map_err(Clone::clone))));
    let point = point.expect("who has the group's key follows it");
    signs.push(("read_disk", sign("read_disk", restore(&lineage, &point).await)));
    let more = lines(7, usize::try_from(point.size_bytes()).expect("small") / CHUNK);
    signs.push(("commit_point", sign("commit_point", commit_disk(&lineage, &more).await)));
    let head = lineage.head().await.expect("readable");
    let raised = lineage.raise_generation(&head.active_site, "a test", &head).await;
    signs.push(("raise_generation", sign("raise_generation", raised)));
    let run = RunId::from_bytes([5; 16]);
    signs.push(("pin", sign("pin", lineage.pin(run, newest).await)));
    signs.push(("unpin", sign("unpin", lineage.unpin(run).await)));
    let plan = lineage.plan_prune(&KEEP_ALL, Grace::default()).await;
    signs.push(("plan_prune", sign("plan_prune", plan.as_ref().map(|_| ()).map_err(Clone::clone))));
    signs.push(match plan {
        Ok(plan) => ("prune", sign("prune", lineage.prune(plan).await)),
        // There is no plan to be had; one that another has made is refused as well.
        Err(_) => ("prune", sign("prune", lineage.prune(foreign_plan(&lineage).await).await)),
    });
    signs
}

/// A plan that somebody else has made, of the same group.
async fn foreign_plan(lineage: &Lineage) -> crate::PrunePlan {
    let whole = whole().await;
    let administrator = whole.administrator.reopen(lineage.0.store.clone(), context());
    let theirs = administrator.lineage(lineage.group()).await.expect("readable").expect("there");
    theirs.plan_prune(&KEEP_ALL, Grace::default()).await.expect("planned")
}

async fn try_vault(vault: &Vault, group: &GroupName) -> Vec<(&'static str, char)> {
    let own = RunId::from_bytes([6; 16]);
    let far = Timestamp::from_unix_milliseconds(9_000_000_000_000);
    let mut signs = vec![
        ("info", sign("info", vault.info().await)),
        ("usage", sign("usage", vault.usage().await)),
        ("hosts", sign("hosts", vault.hosts().await)),
        ("create_lineage", sign("create_lineage", vault.create_lineage(group, &site("a")).await)),
        ("check_structure", sign("check_structure", vault.check(CheckDepth::Structure, &|_| {}).await)),
        ("check_full", sign("check_full", vault.check(CheckDepth::Full, &|_| {}).await)),
        ("runs", sign("runs", vault.runs(9).await)),
        ("run_entries", sign("run_entries", vault.run_entries(RUN).await)),
        ("create_run", sign("create_run", vault.create_run(own, b"x").await)),
        ("append_run", sign("append_run", vault.append_run(RUN, 3, b"x").await)),
    ];
    signs.push(("invite", sign("invite", vault.invite(&name("more"), &[Power::Pruner], far).await)));
    signs.push(("withdraw", sign("withdraw", vault.withdraw(&name("more")).await)));
    signs.push(("approve", sign("approve", vault.approve(&name("keeper")).await)));
    signs
}

async fn column(whole: &Whole, power: Option<Power>) -> Vec<(&'static str, String)> {
    let objects = whole.with(&[]).await;
    let administrator = whole.administrator.reopen(store(&objects), context());
    let vault = match power {
        Some(power) => {
            let credential = join(&administrator, &objects, power).await;
            whole.open(store(&objects), &credential).await.expect("opened")
        }
        None => administrator,
    };
    let own = GroupName::new("own").expect("a good name");
    // First its own group and a point in it, so that a check has something to check.
    let began = match vault.create_lineage(&own, &site("a")).await {
        Ok(lineage) => commit_disk(&lineage, &lines(5, 2)).await.map(|_| true).expect("its own"),
        Err(_) => false,
    };
    let mut cells: Vec<_> =
        try_vault(&vault, &own).await.into_iter().map(|(verb, sign)| (verb, sign.to_string())).collect();
    let of_own = if began { Some(try_group(&vault, &own).await) } else { None };
    for (number, (verb, other)) in try_group(&vault, &orders()).await.into_iter().enumerate() {
        let own = of_own.as_ref().map_or('.', |own| own[number].1);
        cells.push((verb, format!("{own}{other}")));
    }
    cells
}

#[tokio::test]
async fn each_verb_succeeds_for_those_for_whom_it_is_and_for_nobody_else() {
    let whole = whole().await;
    let mut columns = Vec::new();
    for power in Power::ALL.into_iter().map(Some).chain([None]) {
        columns.push(column(whole, power).await);
    }
    let mut lines = TABLE.lines();
    let mut found = format!("{}\n", lines.next().expect("a heading"));
    for verb in lines.filter_map(|line| line.split(' ').next()) {
        let cell = |column: &Vec<(&str, String)>| {
            column.iter().find(|(name, _)| *name == verb).map_or("?".to_owned(), |(_, sign)| sign.clone())
        };
        let cells: Vec<String> = columns.iter().map(cell).collect();
        let [a, b, c, d, e] = cells.as_slice() else { panic!("five columns") };
        writeln!(found, "{verb:<22}{a:<12}{b:<11}{c:<12}{d:<8}{e}").expect("memory");
    }
    assert_eq!(found, TABLE, "\n{found}");
    let verbs = TABLE.lines().count() - 1;
    assert!(columns.iter().all(|column| column.len() == verbs), "every verb that is tried has its line");
}

/// Every key that a pruner has, tried on every session's secret: none opens, so that no frame can be decrypted; and nothing tells
/// it what a chunk's identity means.
#[tokio::test]
async fn the_keys_of_a_pruner_decrypt_no_frame() {
    let whole = whole().await;
    let objects = whole.with(&[]).await;
    let administrator = whole.administrator.reopen(store(&objects), context());
    let credential = join(&administrator, &objects, Power::Pruner).await;
    let vault = whole.open(store(&objects), &credential).await.expect("opened");
    let access = &vault.0.access;
    let keys = access.private_keys();
    assert!(keys.len() >= 2, "its own, and the graph key");
    let mut sessions = 0;
    for known in &whole.points {
        let theirs = administrator.lineage(&known.group).await.expect("readable").expect("there");
        let own = vault.lineage(&known.group).await.expect("readable").expect("there");
        assert!(own.0.keys.content.is_none() && own.0.secrets.content.is_none(), "it cannot identify chunks");
        let point = own.point(known.sequence).await.expect("it follows references");
        let root = point.machines[0].disks[0].map;
        let mut leaf = 0;
        while let Some((number, page)) = own.0.maps.next_leaf(root, leaf, 64).await.expect("it follows maps") {
            leaf = number + 1;
            for slot in leaf_slots(&page).iter().flatten() {
                // The pruner sees the directory; the administrator could open the frames in it.
                let Ok(bytes) = read_object(&objects, &slot.pack.key(own.id())).await else { continue };
                let header = &bytes[..usize::try_from(slot.pack.header_bytes).expect("64 bits")];
                let open = |lineage: &Lineage, access| {
                    let shared = &lineage.0;
                    pack::Directory::open(access, &shared.keys, shared.id, slot.pack.pack, slot.pack.base, header)
                };
                let directory = open(&own, access).expect("it opens the directory");
                assert!(directory.session.is_none(), "it has no key to a session");
                assert!(open(&theirs, &administrator.0.access).expect("it opens").session.is_some());
                sessions += 1;
                let sealed = &header[16 + 16 + 16 + 8..][..80];
                let session = farshore_core::SessionId::from_bytes(header[32..48].try_into().expect("16 bytes"));
                let purpose = |epoch| crate::seal::BoxPurpose::Session { lineage: own.id(), session, epoch };
                for key in &keys {
                    let opened = key.open(&access.member, purpose(farshore_core::Epoch::FIRST), sealed);
                    assert!(opened.is_none(), "a key of the pruner opens a session");
                }
            }
        }
        // Nor does one of its keys open a box in the first commit that holds the content secret.
        let first = read_object(&objects, &crate::commit::commit_key(own.id(), Sequence::FIRST)).await.expect("there");
        let (found, _) = boxes::decode("first", &first[16..]).expect("whole");
        for found in found.iter().filter(|found| found.recipient.gets_content()) {
            for key in &keys {
                let opened = key.open(&access.member, found.recipient.purpose(own.id()), &found.sealed);
                assert!(opened.is_none(), "a key of the pruner opens the content secret");
            }
        }
    }
    assert!(sessions > 200, "{sessions} slots were looked at");
}

async fn read_object(objects: &InMemory, key: &str) -> object_store::Result<Bytes> {
    let path = object_store::path::Path::from(format!("v/{key}"));
    object_store::ObjectStoreExt::get(objects, &path).await?.bytes().await
}
