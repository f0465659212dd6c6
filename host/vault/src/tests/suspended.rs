//! A machine that is not captured stays in the points as it was, and each says how old what it has of it is.

use farshore_core::Sequence;

use super::*;
use crate::{Error, MachineBehind};

const BYTES: usize = 256 * 1024;

fn other() -> MachineId {
    MachineId::new("vm-2").expect("a good name")
}

/// A point of both machines, or of the first alone while the other is suspended. Each disk that is given is written.
async fn commit(lineage: &Lineage, at: i64, first: &[u8], second: Option<&[u8]>) -> Point {
    let (_, writer) = begin_next(lineage).await.expect("the site is active");
    let (one, two) = (machine_id(), other());
    let mut machines: Vec<(&MachineId, &[&str])> = vec![(&one, &["d"])];
    let disk = writer.add_disk(&one, &disk_id("d"), BYTES as u64).await.expect("added");
    write_all(&disk, first).await.expect("accepted");
    if let Some(content) = second {
        let disk = writer.add_disk(&two, &disk_id("d"), BYTES as u64).await.expect("added");
        write_all(&disk, content).await.expect("accepted");
        machines.push((&two, &["d"]));
    }
    let suspended = if second.is_some() { vec![] } else { vec![two.clone()] };
    let captured_at = Timestamp::from_unix_milliseconds(at);
    writer.commit(PointDetails { captured_at, suspended, ..details(&machines) }).await.expect("committed")
}

/// What a point has of the other machine.
async fn held(lineage: &Lineage, point: &Point) -> Vec<u8> {
    let reader = lineage.open_point(point.sequence).await.expect("readable");
    let disk = reader.disk(&other(), &disk_id("d")).expect("it is there");
    let pieces: Vec<_> = disk.pieces().try_collect().await.expect("readable");
    let mut content = vec![0; BYTES];
    for piece in pieces {
        let start = usize::try_from(piece.offset).expect("small");
        content[start..start + piece.data.len()].copy_from_slice(&piece.data);
    }
    content
}

#[tokio::test]
async fn what_is_not_captured_stays_and_says_its_age() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let (at, then) = (|point: &Point| point.oldest_part().as_unix_milliseconds(), noise(2, BYTES));
    let first = commit(&lineage, 1_000, &noise(1, BYTES), Some(&then)).await;
    assert_eq!((at(&first), first.behind().count()), (1_000, 0));

    let mut newest = first.clone();
    for number in 2..4 {
        newest = commit(&lineage, number * 1_000, &noise(10 + number.unsigned_abs(), BYTES), None).await;
        let behind: Vec<_> = newest.behind().collect();
        let captured_at = Timestamp::from_unix_milliseconds(1_000);
        assert_eq!(behind, [MachineBehind { machine: other(), captured_at }], "it is as old as when it was captured");
        assert_eq!(at(&newest), 1_000);
        assert_eq!(newest.machine(&other()).expect("there").disks, first.machine(&other()).expect("there").disks);
        assert!(held(&lineage, &newest).await == then);
        // Nobody but a reader of this process has made it.
        assert_eq!(lineage.point(newest.sequence).await.expect("readable"), newest);
    }
    assert!(read_pieces(&lineage.open_point(newest.sequence).await.expect("readable"), "d").await.is_ok());

    let now = [noise(3, BYTES / 2), then[BYTES / 2..].to_vec()].concat();
    let back = commit(&lineage, 9_000, &noise(20, BYTES), Some(&now)).await;
    assert_eq!((at(&back), back.behind().count()), (9_000, 0));
    assert_eq!(back.stats.bytes_changed, (BYTES + BYTES / 2) as u64, "the rest is as its last part has it");
    assert!(held(&lineage, &back).await == now);
}

#[tokio::test]
async fn only_what_the_point_before_has_can_be_suspended() {
    let objects = Arc::new(InMemory::new());
    let vault = vault_on(store(&objects), context()).await;
    let lineage = lineage(&vault).await;
    let one = machine_id();
    let refused = async |suspended: Vec<MachineId>, expected: &str| {
        let (_, writer) = begin_next(&lineage).await.expect("the site is active");
        writer.add_disk(&one, &disk_id("d"), BYTES as u64).await.expect("added");
        let error = writer.commit(PointDetails { suspended, ..details(&[(&one, &["d"])]) }).await;
        let error = error.expect_err("it cannot be true");
        assert!(matches!(error, Error::InvalidRequest { .. }) && error.to_string().contains(expected), "{error}");
    };
    refused(vec![other()], "the point before has nothing of it").await;
    commit(&lineage, 1_000, &noise(1, BYTES), Some(&noise(2, BYTES))).await;
    refused(vec![one.clone()], "names the machine vm-1 twice").await;
    refused(vec![other(), other()], "names the machine vm-2 twice").await;
    refused(vec![MachineId::new("vm-3").expect("a good name")], "the point before has nothing of it").await;
    assert_eq!(
        lineage.head().await.expect("readable").newest_point.map(Sequence::get),
        Some(2),
        "nothing was committed"
    );
}
