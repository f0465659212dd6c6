//! These run a real guest, so they share one image and one saved guest through the cache.

use farshore_core::{Clock, SystemClock};

use super::*;
use crate::{
    image::{self, GuestImage},
    witness::{Acknowledgement, Witness},
};

const SOON: Duration = Duration::from_secs(60);

fn image() -> GuestImage {
    image::prepare(&image::default_cache(), &mut |line| eprintln!("{line}")).expect("the image")
}

fn options(folder: &Path, disk: GuestDisk) -> GuestOptions {
    let (name, folder) = ("orders".to_owned(), folder.to_owned());
    GuestOptions { name, folder, disks: vec![disk], arguments: Vec::new(), stop: Stop::default() }
}

fn process_exists(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

#[test]
fn a_killed_guest_boots_with_every_row_that_it_acknowledged() {
    let (image, folder) = (image(), tempfile::tempdir().expect("a folder"));
    let disk = disk::copy(&image.disk, &folder.path().join("disk0.qcow2"), DiskFormat::Qcow2).expect("a disk");
    let began = SystemClock.monotonic();
    let (mut guest, report) = Guest::boot(options(&folder.path().join("first"), disk.clone())).expect("it boots");
    eprintln!("cold boot {:.1} s", (SystemClock.monotonic() - began).as_secs_f64());
    assert_eq!((report.boots, report.last_row, report.integrity_ok), (1, Some(0), true), "{}", report.text);
    guest.start_workload("database 50").expect("the load starts");
    let fifth = |line: &crate::Line| Acknowledgement::parse(line).filter(|acknowledgement| acknowledgement.row == 5);
    guest.wait_for("row 5", 0, SOON, fifth).expect("rows come");
    let process = guest.process_id();
    guest.kill();
    assert!(!process_exists(process), "nothing is left of a killed guest");
    guest.console().catch_up(&Stop::default()).expect("the log is read");
    let last = Witness(guest.console()).last().expect("rows were acknowledged").row;

    let (mut again, report) = Guest::boot(options(&folder.path().join("second"), disk)).expect("it boots again");
    assert_eq!((report.boots, report.integrity_ok, report.clean), (2, true, false), "{}", report.text);
    let recovered = report.last_row.expect("the database is readable");
    // The guest may have been killed between a commit and its acknowledgement, never the other way round.
    assert!((last..=last + 1).contains(&recovered), "acknowledged {last}, recovered {recovered}");
    again.shut_down().expect("the power button works");
}

#[test]
fn a_saved_guest_resumes_with_its_own_disk() {
    let (image, folder) = (image(), tempfile::tempdir().expect("a folder"));
    let stop = Stop::default();
    drop(Guest::resume(&image, "first", &folder.path().join("a"), &stop).expect("the first makes it"));
    let began = SystemClock.monotonic();
    let left = Guest::resume(&image, "left", &folder.path().join("b"), &stop).expect("it resumes");
    eprintln!("resume {:.2} s", (SystemClock.monotonic() - began).as_secs_f64());
    let right = Guest::resume(&image, "right", &folder.path().join("c"), &stop).expect("so does a second");
    assert_ne!(left.uuid(), right.uuid());
    left.agent().succeed("echo left > /root/who && sync").expect("it writes");
    let missing = right.agent().shell("cat /root/who").expect("the agent answers");
    assert_ne!(missing.exit_code, Some(0), "guests do not share what they write");
    let (left_disk, right_disk) = (left.disks()[0].clone(), right.disks()[0].clone());
    drop((left, right));
    assert!(!disk::identical(&left_disk, &right_disk).expect("compared"));
}

#[test]
fn a_pair_writes_in_turn_and_remembers() {
    let (image, folder) = (image(), tempfile::tempdir().expect("a folder"));
    let mut guest = Guest::resume(&image, "pair", folder.path(), &Stop::default()).expect("it resumes");
    guest.start_workload("pair").expect("the load starts");
    let mut input = guest.console_input().expect("the console takes input");
    let line = |text: &'static str| move |line: &crate::Line| line.text.starts_with(text).then(|| line.text.clone());
    guest.wait_for("PAIR-READY", 0, SOON, line("PAIR-READY 0")).expect("it begins at 0");
    input.send_line("GO 1").expect("sent");
    guest.wait_for("row 1", 0, SOON, line("ACK 1 ")).expect("row 1");
    input.send_line("GO 3").expect("sent");
    guest.wait_for("a refusal", 0, SOON, line("NOT-IN-TURN 3 after 1")).expect("row 3 is refused");
    input.send_line("GO 2").expect("sent");
    guest.wait_for("row 2", 0, SOON, line("ACK 2 ")).expect("row 2");
    assert_eq!(guest.agent().succeed("pair-row").expect("the agent answers").trim(), "2");
}

#[test]
fn the_writer_writes() {
    let (image, folder) = (image(), tempfile::tempdir().expect("a folder"));
    let mut guest = Guest::resume(&image, "writer", folder.path(), &Stop::default()).expect("it resumes");
    guest.start_workload("writer 8 256").expect("the load starts");
    let wrote = |line: &crate::Line| line.text.strip_prefix("WROTE ").map(str::to_owned);
    guest.wait_for("the writer", 0, SOON, wrote).expect("it says what it wrote");
    guest.stop_workload("writer").expect("it stops");
    assert_ne!(guest.agent().shell("workload nonsense").expect("the agent answers").exit_code, Some(0));
}

#[test]
fn a_qemu_that_cannot_start_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = GuestDisk { path: folder.path().join("no-such-disk"), format: DiskFormat::Raw };
    let error = Guest::start(options(folder.path(), disk)).expect_err("there is no disk");
    assert!(matches!(&error, DemoError::GuestEnded { errors, .. } if errors.contains("no-such-disk")), "{error}");
}

#[test]
fn a_folder_that_is_too_deep_is_refused_by_name() {
    let folder = Path::new("/tmp").join("x".repeat(120));
    let disk = GuestDisk { path: folder.join("disk"), format: DiskFormat::Raw };
    let error = Guest::start(options(&folder, disk)).expect_err("the path is too long");
    assert!(matches!(error, DemoError::PathTooLong { length_bytes: 129, .. }), "{error}");
    fs::remove_dir_all(folder).expect("only the folder was made");
}

#[test]
fn a_uuid_has_its_version() {
    let uuid = random_uuid();
    assert_eq!(uuid.len(), 36);
    assert_eq!(uuid.as_bytes()[14], b'4', "{uuid}");
    assert!(b"89ab".contains(&uuid.as_bytes()[19]), "{uuid}");
}
