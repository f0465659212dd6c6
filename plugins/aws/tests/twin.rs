//! The adapter and the twin of EC2 and EBS direct, which checks what it is asked and goes wrong as it is told.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::FileExt as _,
    time::Duration,
};

use farshore_adapter_aws::{
    bindings::exports::farshore::platform::{
        ownership::Kind,
        power::{Manner, PowerStatus},
        source::{Allocation, CaptureRequest, CaptureStatus, Changes, Outcome},
        source_blocks::BlockSet,
        target_disks::DiskRequest,
    },
    bindings::farshore::platform::model::Disk,
    blocks, capture,
    error::PlatformError,
    ownership, power, target_disks, target_machines,
};
use farshore_twin_ebs::Fault;
use support::{BLOCK, Death, OWNER, Scene, discovered, disk_request, end, machine, tokens, wanted};

const MACHINE: &str = "00000000000000000000000000000001";

fn capture_id(number: u32) -> String {
    format!("{number:0>32x}")
}

fn content(pairs: &[(u64, u8)]) -> BTreeMap<u64, u8> {
    pairs.iter().copied().collect()
}

/// The guest writes a block.
fn write(scene: &Scene, instance: &str, device: &str, index: u64, byte: u8) {
    let file = std::fs::File::options().write(true).open(scene.volume(instance, device)).expect("a volume");
    file.write_all_at(&vec![byte; BLOCK], index * BLOCK as u64).expect("a write");
}

/// What a capture has on a disk.
fn all(scene: &Scene, state: &[u8], instance: &str, disk: &str) -> BTreeMap<u64, u8> {
    let listed = scene.blocks(state, instance, disk, BlockSet::Allocated).expect("blocks");
    let place = blocks::place(state, instance, disk).expect("a place");
    scene.read(&place, &listed).expect("bytes").into_iter().filter(|(_, byte)| *byte != 0).collect()
}

#[test]
fn a_machine_is_made_of_what_was_written_and_goes_with_everything() {
    let scene = Scene::new(|options| options.faults.unseen = Duration::from_millis(300));
    let (boot, data) = (content(&[(0, 1), (7, 2), (2_047, 3)]), content(&[(5, 9)]));
    let (instance, state) = scene.run(MACHINE, &[&boot, &data]).expect("a machine");
    assert_eq!(scene.snapshots().len(), 2);
    // As it is discovered, a moment later.
    while discovered(&scene).iter().all(|machine| machine.disks.len() < 2) {
        support::pause();
    }
    let found = discovered(&scene).remove(0);
    assert_eq!((found.id.as_str(), found.name.as_str(), found.cpus), (instance.as_str(), "Orders", 2));
    assert_eq!((found.memory_bytes, found.disks.len()), (8_192 << 20, 2));
    let disks: Vec<_> = found.disks.iter().map(|disk| (disk.id.as_str(), disk.size_bytes, disk.boot)).collect();
    assert_eq!(disks, [("sda1", 1 << 30, true), ("sdb", 1 << 30, false)]);
    assert!(found.network_interfaces[0].mac.is_some());
    // What is on it, as a capture sees it.
    let captured = scene.capture(&wanted(&capture_id(1), &instance, &[])).expect("a capture");
    assert_eq!((all(&scene, &captured, &instance, "sda1"), all(&scene, &captured, &instance, "sdb")), (boot, data));
    end(&scene, &captured, Outcome::Abandoned).expect("it ends");
    // Started again it is the same one; so is what was defined.
    let again = scene.settle_machine(target_machines::start(&scene, &state).expect("a start")).expect("it runs");
    assert_eq!(scene.twin.seen().instances.len(), 1);
    target_machines::remove(&scene, &again).expect("it goes");
    target_machines::remove(&scene, &again).expect("it is gone");
    let seen = scene.twin.seen();
    assert!(seen.snapshots.is_empty() && seen.images.is_empty() && seen.volumes.is_empty(), "{seen:?}");
    assert!(seen.instances.is_empty(), "{seen:?}");
}

#[test]
fn a_disk_begins_as_another_was_sealed_whatever_a_machine_wrote_since() {
    let scene = Scene::new(|_| {});
    let (boot, other) = (machine(1).disks.remove(0), "00000000000000000000000000000002");
    let base = scene.disk(&capture_id(7), &boot, &content(&[(0, 1), (7, 2), (9, 4)])).expect("a disk");
    let (first, first_state) = scene.run_of(MACHINE, vec![base.clone()]).expect("a machine");
    write(&scene, &first, "sda1", 7, 0xEE);

    // The answer to the first question is lost.
    scene.twin.fail_next("ebs:StartSnapshot", Fault::Lost);
    let changed = content(&[(7, 5), (9, 0), (2_047, 3)]);
    let next = scene.disk_from(&capture_id(8), &boot, &base, &changed).expect("a disk");
    assert_eq!(scene.snapshots().len(), 2, "asked again, EBS begins no second one");
    // The base goes, and with it the machine that has it.
    target_machines::remove(&scene, &first_state).expect("it goes");
    let (second, _) = scene.run_of(other, vec![next]).expect("a machine");
    let captured = scene.capture(&wanted(&capture_id(1), &second, &[])).expect("a capture");
    assert_eq!(all(&scene, &captured, &second, "sda1"), content(&[(0, 1), (7, 5), (2_047, 3)]));
}

#[test]
fn what_was_begun_from_a_disk_that_is_gone_can_be_removed() {
    let scene = Scene::new(|_| {});
    let boot = machine(1).disks.remove(0);
    let base = scene.disk(&capture_id(7), &boot, &content(&[(0, 1)])).expect("a disk");
    // The answer is lost, and the base goes before anybody asks again.
    for (id, is_begun) in [(capture_id(8), true), (capture_id(9), false)] {
        scene.twin.fail_next("ebs:StartSnapshot", if is_begun { Fault::Lost } else { Fault::Failing });
        let step = target_disks::begin_from(&scene, &disk_request(&id, &boot), &base).expect("a step");
        if is_begun {
            target_disks::discard(&scene, &step.state).expect("it goes");
            assert_eq!(scene.snapshots().len(), 1, "only the base is left");
        } else {
            target_disks::discard(&scene, &base).expect("it goes");
            target_disks::discard(&scene, &step.state).expect("there is none");
            assert!(scene.snapshots().is_empty());
        }
    }
}

#[test]
fn an_address_that_is_still_in_use_is_waited_for() {
    let mut scene = Scene::new(|_| {});
    let address = r#"{"instance-type": "t3.large", "subnet": "subnet-0live", "security-groups": ["sg-0live"],
        "machines": {"orders": {"address": "10.0.1.9"}}}"#;
    scene.settings = address.to_owned();
    let boot = content(&[(0, 1)]);
    let (_, first) = scene.run(MACHINE, &[&boot]).expect("a machine");
    target_machines::remove(&scene, &first).expect("it ends");
    scene.run("00000000000000000000000000000002", &[&boot]).expect("the address is free in a moment");
}

#[test]
fn a_disk_begins_from_no_other_that_does_not_fit() {
    let scene = Scene::new(|_| {});
    let boot = machine(1).disks.remove(0);
    let base = scene.disk(&capture_id(7), &boot, &content(&[(0, 1)])).expect("a disk");
    let larger = Disk { size_bytes: 2 << 30, ..boot.clone() };
    let others = DiskRequest { owner: "farshore-other".to_owned(), ..disk_request(&capture_id(8), &boot) };
    for request in [disk_request(&capture_id(8), &larger), others] {
        let error = target_disks::begin_from(&scene, &request, &base).expect_err("it does not fit");
        assert!(
            matches!(&error, PlatformError::Failed(text) if text.contains("cannot begin from another")),
            "{error:?}"
        );
    }
    target_disks::discard(&scene, &base).expect("it goes");
    let error = scene.disk_from(&capture_id(8), &boot, &base, &content(&[])).expect_err("it is gone");
    assert!(format!("{error:?}").contains("beginning the snapshot"), "{error:?}");
    assert!(scene.snapshots().is_empty(), "nothing was made");
}

#[test]
fn changes_are_told_from_the_committed_point_and_nothing_else_stays() {
    let scene = Scene::new(|options| options.faults.short_pages = 300);
    let boot: BTreeMap<u64, u8> = (0..400).map(|index| (index * 3, 1 + (index % 200) as u8)).collect();
    let data = content(&[(5, 9)]);
    let (instance, _) = scene.run(MACHINE, &[&boot, &data]).expect("a machine");
    let restored = scene.snapshots();
    let first = scene.capture(&wanted(&capture_id(1), &instance, &[])).expect("a capture");
    for disk in capture::list_disks(&first, None).expect("disks").disks {
        assert!(matches!(disk.changes, Changes::Unknown(_)) && disk.allocation == Allocation::Listed);
    }
    assert_eq!(all(&scene, &first, &instance, "sda1"), boot);
    capture::verify(&scene, &first).expect("it holds");
    end(&scene, &first, Outcome::Committed).expect("it ends");
    assert!(
        ownership::list(&scene, Kind::Capture, OWNER, None).expect("a list").items.is_empty(),
        "the base is nobody's"
    );

    let mut base = tokens(&first);
    for round in 2..5_u32 {
        // A cycle that is given up in between changes nothing.
        let tracked: Vec<_> = base.iter().map(|(disk, token)| (disk.as_str(), token.as_str())).collect();
        let gone = scene.capture(&wanted(&capture_id(round * 10), &instance, &tracked)).expect("a capture");
        end(&scene, &gone, Outcome::Abandoned).expect("it ends");
        end(&scene, &gone, Outcome::Abandoned).expect("it has ended");
        capture::verify(&scene, &gone).expect_err("it is gone");

        let changed: BTreeMap<u64, u8> =
            (0..20).map(|index| (index * 90 + u64::from(round), 200 + round as u8)).collect();
        changed.iter().for_each(|(index, byte)| write(&scene, &instance, "sda1", *index, *byte));
        let state = scene.capture(&wanted(&capture_id(round), &instance, &tracked)).expect("a capture");
        for disk in capture::list_disks(&state, None).expect("disks").disks {
            assert_eq!(disk.changes, Changes::Listed, "{}", disk.disk);
        }
        let listed = scene.blocks(&state, &instance, "sda1", BlockSet::Changed).expect("changes");
        let place = blocks::place(&state, &instance, "sda1").expect("a place");
        assert_eq!(scene.read(&place, &listed).expect("bytes"), changed, "what changed, and no more");
        assert!(scene.blocks(&state, &instance, "sdb", BlockSet::Changed).expect("changes").is_empty());
        end(&scene, &state, Outcome::Committed).expect("it ends");
        base = tokens(&state);
        let stays: BTreeSet<String> = restored.iter().chain(base.values()).cloned().collect();
        assert_eq!(scene.snapshots(), stays, "one snapshot of each volume");
    }
}

#[test]
fn a_machine_that_is_not_captured_keeps_its_base() {
    let scene = Scene::new(|_| {});
    let (web, _) = scene.run(MACHINE, &[&content(&[(0, 1)])]).expect("a machine");
    let (db, _) = scene.run("00000000000000000000000000000002", &[&content(&[(0, 2)])]).expect("a machine");
    let restored = scene.snapshots();
    let of_both = |number: u32, machines: &[&String], tracked: &[(&String, &str)]| CaptureRequest {
        machines: machines.iter().map(|machine| (*machine).clone()).collect(),
        tracked: tracked.iter().flat_map(|(machine, token)| wanted("", machine, &[("sda1", token)]).tracked).collect(),
        ..wanted(&capture_id(number), &web, &[])
    };
    let token_of = |state: &[u8], machine: &String| {
        let disks = capture::list_disks(state, None).expect("disks").disks;
        disks.into_iter().find(|disk| disk.machine == *machine).and_then(|disk| disk.token).expect("a token")
    };
    let first = scene.capture(&of_both(1, &[&web, &db], &[])).expect("a capture");
    end(&scene, &first, Outcome::Committed).expect("it ends");
    let (mut web_base, db_base) = (token_of(&first, &web), token_of(&first, &db));
    for number in 2..4 {
        let state = scene.capture(&of_both(number, &[&web], &[(&web, &web_base), (&db, &db_base)])).expect("a capture");
        let outcome = if number == 2 { Outcome::Abandoned } else { Outcome::Committed };
        end(&scene, &state, outcome).expect("it ends");
        if outcome == Outcome::Committed {
            web_base = token_of(&state, &web);
        }
        let stays: BTreeSet<String> = restored.iter().chain([&web_base, &db_base]).cloned().collect();
        assert_eq!(scene.snapshots(), stays, "{outcome:?}");
    }
    write(&scene, &db, "sda1", 7, 70);
    let state = scene.capture(&of_both(4, &[&web, &db], &[(&web, &web_base), (&db, &db_base)])).expect("a capture");
    let listed = scene.blocks(&state, &db, "sda1", BlockSet::Changed).expect("changes");
    let place = blocks::place(&state, &db, "sda1").expect("a place");
    assert_eq!(scene.read(&place, &listed).expect("bytes"), content(&[(7, 70)]), "what changed since, and no more");
    end(&scene, &state, Outcome::Committed).expect("it ends");
    // It leaves the group: nothing leads from its base any more.
    let last = scene.capture(&of_both(5, &[&web], &[(&web, &token_of(&state, &web))])).expect("a capture");
    end(&scene, &last, Outcome::Committed).expect("it ends");
    let stays: BTreeSet<String> = restored.iter().cloned().chain([token_of(&last, &web)]).collect();
    assert_eq!(scene.snapshots(), stays);
}

#[test]
fn what_cannot_be_compared_is_read_whole() {
    let scene = Scene::new(|_| {});
    let (instance, _) = scene.run(MACHINE, &[&content(&[(0, 1)])]).expect("a machine");
    let first = scene.capture(&wanted(&capture_id(1), &instance, &[])).expect("a capture");
    end(&scene, &first, Outcome::Committed).expect("it ends");
    let token = tokens(&first).remove("sda1").expect("a token");
    // One that somebody has removed, and one that is another's.
    for tracked in ["snap-0000000000000000f", "nonsense"] {
        let state = scene.capture(&wanted(&capture_id(2), &instance, &[("sda1", tracked)])).expect("a capture");
        let disk = capture::list_disks(&state, None).expect("disks").disks.remove(0);
        assert!(matches!(disk.changes, Changes::Unknown(_)), "{:?}", disk.changes);
        assert_eq!(all(&scene, &state, &instance, "sda1"), content(&[(0, 1)]));
        end(&scene, &state, Outcome::Abandoned).expect("it ends");
    }
    assert!(!scene.snapshots().contains(&token), "what no committed point relies on goes with the next capture");
}

#[test]
fn a_lost_answer_makes_no_second_set_and_leaves_nothing() {
    for fault in [Fault::Lost, Fault::Failing, Fault::Throttled] {
        let scene = Scene::new(|options| options.faults.unseen = Duration::from_millis(200));
        let (instance, _) = scene.run(MACHINE, &[&content(&[(0, 1)]), &content(&[(1, 2)])]).expect("a machine");
        while discovered(&scene).iter().all(|machine| machine.disks.len() < 2) {
            support::pause();
        }
        let restored = scene.snapshots();
        scene.twin.fail_next("ec2:CreateSnapshots", fault);
        let outcome = scene.capture(&wanted(&capture_id(1), &instance, &[]));
        match (fault, outcome) {
            // Nothing was made, and nobody can know: after a while it is given up.
            (Fault::Failing, outcome) => {
                let error = outcome.expect_err("no snapshot");
                assert!(
                    matches!(&error, PlatformError::Unreachable(text) if text.contains("none can be seen")),
                    "{error:?}"
                );
                assert_eq!(scene.snapshots(), restored);
            }
            (_, outcome) => {
                let state = outcome.expect("a capture");
                assert_eq!(scene.snapshots().len(), restored.len() + 2, "{fault:?}");
                assert_eq!(all(&scene, &state, &instance, "sdb"), content(&[(1, 2)]));
                end(&scene, &state, Outcome::Abandoned).expect("it ends");
                assert_eq!(scene.snapshots(), restored, "{fault:?}");
            }
        }
    }
}

#[test]
fn what_nobody_sees_yet_goes_when_a_capture_is_given_up() {
    let scene = Scene::new(|options| {
        options.faults.unseen = Duration::from_millis(600);
        options.settle = Duration::from_secs(1);
    });
    let (instance, _) = scene.run(MACHINE, &[&content(&[(0, 1)])]).expect("a machine");
    while discovered(&scene).iter().all(|machine| machine.disks.is_empty()) {
        support::pause();
    }
    let restored = scene.snapshots();
    for number in 1..5 {
        let step = capture::begin(&scene, &wanted(&capture_id(number), &instance, &[])).expect("a capture");
        assert!(matches!(step.status, CaptureStatus::Pending(_)), "it is not complete");
        assert_eq!(scene.snapshots().len(), restored.len() + 1);
        end(&scene, &step.state, Outcome::Abandoned).expect("it ends");
        assert_eq!(scene.snapshots(), restored);
    }
}

#[test]
fn what_is_gone_is_removed_also_when_nobody_is_allowed_to_ask() {
    let scene = Scene::new(|options| options.missing_is_denied = true);
    let disk = scene.disk(&capture_id(1), &machine(1).disks[0], &content(&[(1, 1)])).expect("a disk");
    for _ in 0..2 {
        target_disks::discard(&scene, &disk).expect("it is gone");
    }
    assert_eq!(scene.snapshots(), BTreeSet::new());
}

#[test]
fn an_answer_to_a_seal_that_was_lost_makes_no_failure_of_it() {
    for completes_again in [true, false] {
        let scene = Scene::new(|options| {
            options.completes_again = completes_again;
            options.settle = Duration::from_millis(200);
        });
        scene.twin.fail_next("ebs:CompleteSnapshot", Fault::Lost);
        scene.disk(&capture_id(1), &machine(1).disks[0], &content(&[(1, 1)])).expect("a disk");
        let sealed = |call: &&farshore_twin_ebs::Call| call.action == "ebs:CompleteSnapshot";
        assert!(scene.twin.calls().iter().filter(sealed).count() > 1, "it was asked again");
    }
}

/// One cycle as a host makes it that journals what it is told: the capture, its bytes, its end.
fn cycle(scene: &Scene, request: &CaptureRequest) -> Result<BTreeMap<String, String>, PlatformError> {
    let state = scene.capture(request)?;
    let instance = &request.machines[0];
    let listed = scene.blocks(&state, instance, "sda1", BlockSet::Allocated)?;
    scene.read(&blocks::place(&state, instance, "sda1")?, &listed)?;
    capture::verify(scene, &state)?;
    end(scene, &state, Outcome::Committed)?;
    Ok(tokens(&state))
}

#[test]
fn a_host_that_dies_at_any_request_of_a_cycle_leaves_nothing_behind() {
    let mut scene = Scene::new(|_| {});
    let (instance, _) = scene.run(MACHINE, &[&content(&[(0, 1)])]).expect("a machine");
    let restored = scene.snapshots();
    let mut base = cycle(&scene, &wanted(&capture_id(1), &instance, &[])).expect("a cycle");
    let mut number = 2;
    for at in 0.. {
        let mut is_over = false;
        for death in [Death::Before(at), Death::After(at)] {
            let tracked: Vec<_> = base.iter().map(|(disk, token)| (disk.as_str(), token.as_str())).collect();
            scene.die(Some(death));
            let outcome = cycle(&scene, &wanted(&capture_id(number), &instance, &tracked));
            number += 1;
            scene.die(None);
            // Nothing is known of the dead host's cycle: it was not committed.
            is_over = outcome.is_ok();
            base = cycle(&scene, &wanted(&capture_id(number), &instance, &tracked)).expect("the next cycle");
            number += 1;
            let stays: BTreeSet<String> = restored.iter().chain(base.values()).cloned().collect();
            assert_eq!(scene.snapshots(), stays, "{death:?}");
        }
        if is_over {
            assert!(at > 8, "a cycle of {at} requests is none");
            return;
        }
    }
}

#[test]
fn a_host_that_dies_at_any_request_of_a_run_leaves_nothing_that_is_not_found() {
    for at in 0.. {
        let mut is_over = false;
        for death in [Death::Before(at), Death::After(at)] {
            let mut scene = Scene::new(|_| {});
            scene.die(Some(death));
            let outcome = scene.run(MACHINE, &[&content(&[(0, 1)]), &content(&[(3, 4)])]);
            scene.die(None);
            is_over = outcome.is_ok();
            scene.release_all(&[Kind::Machine, Kind::Disk]);
            let seen = scene.twin.seen();
            assert!(
                seen.snapshots.is_empty() && seen.images.is_empty() && seen.volumes.is_empty(),
                "{death:?}: {seen:?}"
            );
            assert!(seen.instances.is_empty(), "{death:?}: {seen:?}");
        }
        if is_over {
            assert!(at > 10, "a run of {at} requests is none");
            return;
        }
    }
}

#[test]
fn storms_are_waited_out_and_the_bytes_are_right() {
    for seed in 1..4 {
        let scene = Scene::new(|options| {
            options.settle = Duration::from_millis(100);
            let faults = &mut options.faults;
            (faults.seed, faults.throttled, faults.failing, faults.lost) = (seed, 20, 100, 100);
            (faults.short_pages, faults.over_reported, faults.unseen) = (300, 20, Duration::from_millis(100));
        });
        let boot: BTreeMap<u64, u8> = (0..30).map(|index| (index * 50, 1 + index as u8)).collect();
        let (instance, machine) = scene.run(MACHINE, &[&boot]).expect("a machine");
        let mut attempts = 0;
        let state = loop {
            attempts += 1;
            // What was asked for and not made is given up, and the host's next turn tries again.
            match scene.capture(&wanted(&capture_id(attempts), &instance, &[])) {
                Ok(state) => break state,
                Err(error) => assert!(attempts < 10, "{error:?}"),
            }
        };
        assert_eq!(all(&scene, &state, &instance, "sda1"), boot, "seed {seed}");
        end(&scene, &state, Outcome::Abandoned).expect("it ends");
        target_machines::remove(&scene, &machine).expect("it goes");
        scene.release_all(&[Kind::Machine, Kind::Disk, Kind::Capture]);
        let seen = scene.twin.seen();
        assert!(
            seen.snapshots.is_empty() && seen.images.is_empty() && seen.volumes.is_empty(),
            "seed {seed}: {seen:?}"
        );
    }
}

#[test]
fn what_was_written_otherwise_is_no_disk_and_can_be_discarded() {
    let scene = Scene::new(|_| {});
    let disk = &machine(1).disks[0];
    let state = scene.disk(&capture_id(1), disk, &content(&[(1, 1)])).expect("a disk");
    target_disks::discard(&scene, &state).expect("it goes");
    target_disks::discard(&scene, &state).expect("it is gone");
    assert!(scene.snapshots().is_empty());
    target_disks::seal(&scene, &state, None).expect_err("nothing is said of what was written");
    let too_large =
        farshore_adapter_aws::bindings::farshore::platform::model::Disk { size_bytes: 65_537 << 30, ..disk.clone() };
    let error = scene.disk(&capture_id(2), &too_large, &content(&[])).expect_err("too large");
    assert!(matches!(error, PlatformError::Unsupported(_)), "{error:?}");
}

#[test]
fn what_stands_in_the_way_is_found_before_anything_is_made() {
    let mut scene = Scene::new(|_| {});
    let problems = |scene: &Scene, machine| {
        let findings = target_machines::check(scene, &machine).expect("findings").findings;
        findings.into_iter().map(|finding| (finding.blocking, finding.problem)).collect::<Vec<_>>()
    };
    assert_eq!(problems(&scene, machine(2)), []);
    let mut large = machine(27);
    large.memory_bytes = 1 << 40;
    large.disks[1].size_bytes = 1 << 50;
    let told = problems(&scene, large);
    for (blocking, part) in
        [(true, "has 27 disks"), (true, "larger than 65536 GiB: vd1"), (false, "set `instance-type`")]
    {
        assert!(told.iter().any(|(blocks, problem)| *blocks == blocking && problem.contains(part)), "{part}: {told:?}");
    }
    for (settings, part) in [
        (r#"{}"#, "`security-groups` is needed"),
        (r#"{"instance-type":"x9.tiny","subnet":"subnet-0live","security-groups":["sg-0live"]}"#, "x9.tiny"),
        (
            r#"{"instance-type":"t3.large","subnet":"subnet-0none","security-groups":["sg-0live"]}"#,
            "no subnet subnet-0none",
        ),
        (r#"{"instance-type":"t3.large","subnet":"subnet-0live","security-groups":["sg-0none"]}"#, "sg-0none"),
        (
            r#"{"instance-type":"t3.large","subnet":"subnet-0live","security-groups":["sg-0live"],"machines":{"orders":{"address":"10.0.2.9"}}}"#,
            "10.0.2.9 of machine Orders is not in subnet-0live",
        ),
    ] {
        scene.settings = settings.to_owned();
        let told = problems(&scene, machine(1));
        assert!(told.iter().any(|(blocks, problem)| *blocks && problem.contains(part)), "{part}: {told:?}");
    }
    assert_eq!(scene.snapshots().len(), 0);
}

#[test]
fn a_machine_is_off_when_ec2_says_so() {
    let scene = Scene::new(|_| {});
    let (instance, _) = scene.run(MACHINE, &[&content(&[(0, 1)])]).expect("a machine");
    for manner in [Manner::Graceful, Manner::Forced] {
        let mut polls = 0;
        let proof = loop {
            match power::stop_machine(&scene, &instance, manner).expect("an answer").status {
                PowerStatus::Off(proof) => break proof,
                PowerStatus::Pending(_) => polls += 1,
            }
            assert!(polls < 200);
            support::pause();
        };
        assert!(proof.contains("with the state `stopped`"), "{proof}");
    }
    let error = power::stop_machine(&scene, "i-0000000000000000f", Manner::Forced).expect_err("nobody knows");
    assert!(matches!(&error, PlatformError::Unreachable(text) if text.contains("no proof")), "{error:?}");
}
