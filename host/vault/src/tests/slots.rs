//! Slots and epochs: who can open the vault, after what was changed, and after a change that was killed anywhere.

use super::{
    faulty::{Fault, FaultyStore},
    powers::World,
    *,
};
use crate::{
    Error, KdfParameters, Power, SlotRequest,
    keys::{EpochSecrets, epochs},
};

fn request<'a>(passphrase: &'a Passphrase, same_words_as: Option<&'a Kit>) -> SlotRequest<'a> {
    SlotRequest { passphrase, kdf: KdfParameters::FLOOR, same_words_as, label: "ops" }
}

async fn add_slot(vault: &Vault, passphrase: &str) -> Kit {
    let passphrase = Passphrase::new(passphrase);
    let draft = vault.draft_slot(request(&passphrase, None)).await.expect("drafted");
    let kit = draft.kit().clone();
    draft.commit(None).await.expect("made");
    kit
}

#[tokio::test]
async fn two_administrators_share_neither_kit_nor_passphrase() {
    let objects = Arc::new(InMemory::new());
    let (first, kit) = make(store(&objects), "first").await.expect("made");
    let before = objects_of(&objects).await;
    let passphrase = Passphrase::new("second");
    let draft = first.draft_slot(request(&passphrase, None)).await.expect("drafted");
    assert_eq!(objects_of(&objects).await, before, "a draft writes nothing");
    let other_kit = draft.kit().clone();
    let refused = open_with(store(&objects), &other_kit, "second").await.expect_err("it is not a slot yet");
    assert!(matches!(refused, Error::KitRetired { .. }), "{refused}");
    draft.commit(None).await.expect("made");

    let second = open_with(store(&objects), &other_kit, "second").await.expect("opened");
    for (kit, wrong) in [(&kit, "second"), (&other_kit, "first")] {
        let refused = open_with(store(&objects), kit, wrong).await.expect_err("the other's passphrase");
        assert!(matches!(refused, Error::WrongPassphrase { .. }), "{refused}");
    }
    let slots = second.slots().await.expect("listed");
    assert_eq!(slots.iter().map(|slot| slot.id).collect::<Vec<_>>(), [kit.slot(), other_kit.slot()]);
    assert_eq!(slots.iter().map(|slot| slot.is_own).collect::<Vec<_>>(), [false, true]);
    assert_eq!(slots[1].label, "ops");
    // Whoever has all powers reads what the other's hosts wrote.
    let content = noise(1, 3 * CHUNK);
    let point = commit_disk(&lineage(&first).await, &content).await.expect("committed");
    assert!(restore(&lineage(&second).await, &point).await.expect("read") == content);

    let refused = second.remove_slot(other_kit.slot()).await.expect_err("nobody locks himself out");
    assert!(matches!(refused, Error::InvalidRequest { .. }), "{refused}");
    second.remove_slot(kit.slot()).await.expect("removed");
    second.remove_slot(kit.slot()).await.expect("it is gone already");
    let refused = open_with(store(&objects), &kit, "first").await.expect_err("its slot was taken out");
    assert!(matches!(refused, Error::KitRetired { .. }), "{refused}");
    // And a process that still has it open changes nothing any more.
    let refused = commit_disk(&lineage(&first).await, &content).await.expect_err("its slot was taken out");
    assert!(matches!(refused, Error::KitRetired { .. }), "{refused}");
    commit_disk(&lineage(&second).await, &content).await.expect("the other goes on");
}

/// Each takes the other's slot out, without a look at the ring in between.
#[tokio::test]
async fn two_administrators_cannot_lock_each_other_out() {
    let objects = Arc::new(InMemory::new());
    let (first, kit) = make(store(&objects), "first").await.expect("made");
    let other_kit = add_slot(&first, "second").await;
    let second = open_with(store(&objects), &other_kit, "second").await.expect("opened");
    let outcomes = tokio::join!(first.remove_slot(other_kit.slot()), second.remove_slot(kit.slot()));
    assert!(outcomes.0.is_err() || outcomes.1.is_err(), "{outcomes:?}");
    let left =
        [open_with(store(&objects), &kit, "first").await, open_with(store(&objects), &other_kit, "second").await];
    assert_eq!(left.iter().filter(|opened| opened.is_ok()).count(), 1);
}

async fn objects_of(objects: &InMemory) -> Vec<(String, u64)> {
    self::objects(objects).await
}

#[tokio::test]
async fn a_new_passphrase_keeps_the_words_of_the_sheet() {
    let objects = Arc::new(InMemory::new());
    let (vault, kit) = make(store(&objects), "old").await.expect("made");
    let passphrase = Passphrase::new("new");
    let draft = vault.draft_slot(request(&passphrase, Some(&kit))).await.expect("drafted");
    let new_kit = draft.kit().clone();
    assert_eq!(*new_kit.words(), *kit.words());
    draft.commit(Some(kit.slot())).await.expect("changed");

    let opened = open_with(store(&objects), &new_kit, "new").await.expect("opened");
    assert_eq!(opened.slots().await.expect("listed").len(), 1);
    let refused = open_with(store(&objects), &kit, "old").await.expect_err("replaced");
    assert!(matches!(refused, Error::KitRetired { .. }), "{refused}");
    let words = kit.words().join(" ");
    let typed = Vault::kit_from_words(store(&objects), &words, &passphrase, context()).await.expect("made again");
    assert_eq!(typed.slot(), new_kit.slot());
    let refused = Vault::kit_from_words(store(&objects), &words, &Passphrase::new("old"), context()).await;
    assert!(matches!(refused, Err(Error::KitRetired { .. })), "the old passphrase says that it is old");

    // The new kit does not take its own place, as when a command is given again after the configuration was changed.
    let again = opened.resume_slot(new_kit.clone(), &passphrase, "").await.expect("it fits");
    let refused = again.commit(Some(new_kit.slot())).await.expect_err("it would take itself out");
    assert!(matches!(refused, Error::InvalidRequest { .. }), "{refused}");
    open_with(store(&objects), &new_kit, "new").await.expect("opened");

    // A kit of another vault lends no words.
    let (_, foreign) = make(store(&Arc::default()), "old").await.expect("made");
    let refused = opened.draft_slot(request(&passphrase, Some(&foreign))).await.expect_err("another vault's");
    assert!(matches!(refused, Error::OtherVault { .. }), "{refused}");
    let bad = SlotRequest { label: &"x".repeat(129), ..request(&passphrase, None) };
    assert!(matches!(opened.draft_slot(bad).await, Err(Error::LimitExceeded { .. })));
}

/// T11: at each step of a change of kit one of the two kits opens the vault, and trying again with the file of the new kit
/// finishes it.
#[tokio::test]
async fn a_change_of_kit_that_is_killed_anywhere_goes_on_with_the_file_it_left() {
    let objects = Arc::new(InMemory::new());
    let (vault, kit) = make(store(&objects), "old").await.expect("made");
    let passphrase = Passphrase::new("new");
    let new_kit = vault.draft_slot(request(&passphrase, None)).await.expect("drafted").kit().clone();
    let mut interrupted = 0;
    for operation in 0.. {
        for fault in [Fault::Before, Fault::After] {
            let what = format!("operation {operation}, {fault:?}");
            let copy = copy(&objects).await;
            let faulty = Arc::new(FaultyStore::new(&copy, operation, fault, true));
            let dying = vault.reopen(wrap(faulty), context());
            let outcome = match dying.resume_slot(new_kit.clone(), &passphrase, "").await {
                Ok(draft) => draft.commit(Some(kit.slot())).await,
                Err(error) => Err(error),
            };
            let is_done = outcome.is_ok();
            interrupted += usize::from(!is_done);
            let by_old = open_with(store(&copy), &kit, "old").await;
            let by_new = open_with(store(&copy), &new_kit, "new").await;
            assert_ne!(by_old.is_ok(), by_new.is_ok(), "{what}: exactly one of the kits opens the vault");
            if let Ok(vault) = by_old {
                assert!(!is_done, "{what}");
                let draft = vault.resume_slot(new_kit.clone(), &passphrase, "").await.expect(&what);
                draft.commit(Some(kit.slot())).await.expect(&what);
                open_with(store(&copy), &new_kit, "new").await.expect(&what);
            }
            if is_done {
                assert!(interrupted >= 6, "only {interrupted} places were tried");
                return;
            }
        }
    }
}

async fn copy(objects: &Arc<InMemory>) -> Arc<InMemory> {
    Arc::new(objects.fork())
}

/// A vault with two slots, one that was taken out, and hosts of each power; all of them have it open.
struct Rotating {
    world: World,
    other_kit: Kit,
    retired_kit: Kit,
    writer: Vault,
    readers: Vec<Vault>,
}

impl Rotating {
    async fn new() -> Self {
        let world = World::new().await;
        let other_kit = add_slot(&world.administrator, "other").await;
        let retired_kit = add_slot(&world.administrator, "retired").await;
        world.administrator.remove_slot(retired_kit.slot()).await.expect("removed");
        let writer = world.open(&world.host("writer", &[Power::Replicator]).await).await.expect("opened");
        let reader = world.open(&world.host("reader", &[Power::Recoverer]).await).await.expect("opened");
        let other = open_with(store(&world.objects), &other_kit, "other").await.expect("opened");
        let readers = vec![reader, other, world.administrator.clone()];
        Self { world, other_kit, retired_kit, writer, readers }
    }
}

#[tokio::test]
async fn what_comes_after_an_epoch_began_opens_for_todays_slots_and_hosts_alone() {
    let rotating = Rotating::new().await;
    let Rotating { world, other_kit, retired_kit, writer, readers } = &rotating;
    let (old, new) = (noise(1, 5 * CHUNK), noise(2, 5 * CHUNK));
    let before = commit_disk(&lineage(writer).await, &old).await.expect("committed");
    let pruner = world.open(&world.host("pruner", &[Power::Pruner]).await).await.expect("opened");

    let administrator = &world.administrator;
    let plan = administrator.plan_epoch().await.expect("planned");
    assert_eq!(plan.epoch.get(), 2);
    assert_eq!(plan.hosts.iter().map(|host| host.as_str()).collect::<Vec<_>>(), ["reader", "pruner"]);
    assert_eq!(plan.slots.len(), 2);
    administrator.begin_epoch(&plan).await.expect("begun");
    let stale = administrator.begin_epoch(&plan).await.expect_err("the plan has been executed");
    assert!(matches!(stale, Error::RingRace { .. }), "{stale}");

    // Another administrator's rotation was overtaken after it had granted its keys: they never came into use.
    let ring = administrator.0.access.ring();
    let mut overtaken = administrator.0.access.bundle("for a test").expect("the administrator's");
    *overtaken.epochs.last_mut().expect("two") = EpochSecrets::random(plan.epoch, &SystemEntropy);
    for invited in ring.hosts.iter().filter(|invited| plan.hosts.contains(&invited.name)) {
        let enrolment = administrator.0.access.enrolment(invited).await.expect("readable").expect("it has joined");
        administrator.grant(&overtaken, invited, &enrolment).await.expect("granted");
    }

    // The writer was not started anew, and yet seals to the new epoch.
    let after = commit_disk(&lineage(writer).await, &new).await.expect("committed");
    let sessions = sealed_epochs(&world.objects).await;
    assert_eq!(sessions, [1, 2], "epochs that data packs are sealed to");
    // Nor were the readers.
    for reader in readers {
        let lineage = reader.lineage(&group()).await.expect("readable").expect("there");
        for (point, content) in [(&before, &old), (&after, &new)] {
            assert!(restore(&lineage, point).await.expect("read") == *content);
        }
    }
    let opened = open_with(store(&world.objects), other_kit, "other").await.expect("opened");
    assert!(restore(&lineage(&opened).await, &after).await.expect("read") == new);
    // A group that begins now is open to who follows references, and was granted the new keys.
    let second = GroupName::new("invoices").expect("a good name");
    writer.create_lineage(&second, &site("a")).await.expect("begun");
    pruner.0.access.refresh().await.expect("read");
    assert!(pruner.lineage(&second).await.expect("readable").is_some());

    // The kit that was taken out before opens nothing new, whatever its holder does with the ring.
    let slot = crate::keys::Slot::parse("its slot", retired_kit.slot_object()).expect("whole");
    let (bundle, receiving) =
        slot.open(&Passphrase::new("retired"), retired_kit.secret()).expect("derived").expect("opened");
    assert_eq!(bundle.epochs.len(), 1);
    let access = &administrator.0.access;
    let ring = access.ring();
    let of = ring.epochs.last().expect("there is one");
    let read = epochs::read(&administrator.0.store, &access.member, of, (retired_kit.slot(), &receiving)).await;
    assert!(matches!(read, Err(Error::Damaged { .. })), "there is no box for it");
    let read = epochs::read(&administrator.0.store, &access.member, of, (other_kit.slot(), &receiving)).await;
    assert!(matches!(read, Err(Error::Damaged { .. })), "the boxes of others stay closed");
    // A slot that is made now holds the keys of all epochs.
    let kit = add_slot(&opened, "third").await;
    let third = open_with(store(&world.objects), &kit, "third").await.expect("opened");
    assert!(restore(&lineage(&third).await, &after).await.expect("read") == new);
}

/// The epochs to which the sessions of all data packs are sealed.
async fn sealed_epochs(objects: &InMemory) -> Vec<u64> {
    let mut epochs = Vec::new();
    for (key, _) in objects_of(objects).await.iter().filter(|(key, _)| key.contains("/packs/")) {
        let read = object_store::ObjectStoreExt::get(objects, &key.as_str().into()).await.expect("there");
        let bytes = read.bytes().await.expect("there");
        epochs.push(u64::from_le_bytes(bytes[48..56].try_into().expect("eight bytes")));
    }
    epochs.sort_unstable();
    epochs
}

/// T11: a rotation that is killed anywhere leaves the vault open to all who could open it, and the next one succeeds.
#[tokio::test]
async fn an_epoch_whose_begin_is_killed_anywhere_locks_nobody_out() {
    let rotating = Rotating::new().await;
    let old = noise(1, 3 * CHUNK);
    let before = commit_disk(&lineage(&rotating.writer).await, &old).await.expect("committed");
    let reader = rotating.world.host("second-reader", &[Power::Recoverer]).await;
    let mut interrupted = 0;
    for operation in 0.. {
        for (fault, stays_dead) in [(Fault::Before, true), (Fault::After, true), (Fault::After, false)] {
            let what = format!("operation {operation}, {fault:?}, stays dead: {stays_dead}");
            let copy = copy(&rotating.world.objects).await;
            let faulty = Arc::new(FaultyStore::new(&copy, operation, fault, stays_dead));
            let dying = rotating.world.administrator.reopen(wrap(Arc::clone(&faulty) as _), context());
            let outcome = match dying.plan_epoch().await {
                Ok(plan) => dying.begin_epoch(&plan).await,
                Err(error) => Err(error),
            };
            interrupted += usize::from(outcome.is_err());
            let sound = || store(&copy);
            let administrator = rotating.world.administrator.reopen(sound(), context());
            let other = rotating.readers[1].reopen(sound(), context());
            let open_reader = || super::powers::open_as(&copy, &reader);
            for round in 0..2 {
                let content = noise(10 + round, 3 * CHUNK);
                let point = commit_disk(&lineage(&other).await, &content).await.expect(&what);
                for vault in [&administrator, &other, &open_reader().await.expect(&what)] {
                    let lineage = vault.lineage(&group()).await.expect(&what).expect("there");
                    assert!(restore(&lineage, &before).await.expect(&what) == old, "{what}");
                    assert!(restore(&lineage, &point).await.expect(&what) == content, "{what}");
                }
                let plan = administrator.plan_epoch().await.expect(&what);
                administrator.begin_epoch(&plan).await.expect(&what);
            }
            if faulty.operations() <= operation {
                assert!(outcome.is_ok(), "{what}");
                assert!(interrupted >= 20, "only {interrupted} interruptions");
                return;
            }
        }
    }
}

#[tokio::test]
async fn keys_of_an_epoch_that_are_gone_hurt_only_what_needs_them() {
    let rotating = Rotating::new().await;
    let Rotating { world, writer, .. } = &rotating;
    let (old, new) = (noise(1, 5 * CHUNK), noise(2, 5 * CHUNK));
    let before = commit_disk(&lineage(writer).await, &old).await.expect("committed");
    let plan = world.administrator.plan_epoch().await.expect("planned");
    world.administrator.begin_epoch(&plan).await.expect("begun");
    let after = commit_disk(&lineage(writer).await, &new).await.expect("committed");
    let keys = objects_of(&world.objects).await;
    let (key, _) = keys.iter().find(|(key, _)| key.contains("keys/epochs")).expect("there");
    let path = object_store::path::Path::from(key.as_str());
    object_store::ObjectStoreExt::delete(&*world.objects, &path).await.expect("deleted");

    let opened = open_with(store(&world.objects), &world.kit, "p").await.expect("opened");
    let lineage = lineage(&opened).await;
    assert!(restore(&lineage, &before).await.expect("read") == old);
    let refused = restore(&lineage, &after).await.expect_err("its keys are gone");
    assert!(matches!(&refused, Error::ObjectMissing { object, .. } if key.ends_with(object)), "{refused}");
    // And no slot is made that would lack them.
    let passphrase = Passphrase::new("x");
    let refused = opened.draft_slot(request(&passphrase, None)).await.expect_err("keys are missing");
    assert!(matches!(refused, Error::ObjectMissing { .. }), "{refused}");
}
