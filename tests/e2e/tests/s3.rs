//! Stories: the vault is in a bucket of an S3 server, of moto and in a long run of MinIO too. Points go there and come back, who may commit is decided there, what
//! retention gives up is deleted there, and a server that is gone is said to be gone.

use std::{fs, time::Duration};

use farshore_core::{Clock as _, SystemClock};
use farshore_e2e::{Finished, S3Kind, S3Server, World};
use serde_json::{Value, json};

#[expect(clippy::disallowed_methods, reason = "this test waits for the machine's own time")]
fn pause(length: Duration) {
    std::thread::sleep(length);
}

fn code(finished: &Finished) -> Value {
    assert!(!finished.status.success(), "`{}` should have failed: {}", finished.command, finished.output);
    finished.failure().unwrap_or_else(|| panic!("an error as JSON, not {:?}", finished.errors))["code"].clone()
}

#[test]
fn points_go_to_the_bucket_and_come_back() {
    S3Server::all().into_iter().for_each(story);
}

fn story(server: S3Server) {
    server.call("create_bucket", &json!({ "Bucket": "recovery" })).expect("a bucket");
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.protect("orders", &["orders"]).expect("a group");
    server.keep(&world, "s3://recovery/farshore");
    assert_eq!(code(&world.run(&["points"]).expect("ran")), "FS1001", "there is no vault yet");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    assert_eq!(
        code(&world.run(&["vault", "create", "--yes"]).expect("ran")),
        "FS1002",
        "the server decides who was first"
    );

    world.succeed(&["replicate", "--once"]).expect("the first copy");
    world.guest("orders").start_workload("writer 16 512").expect("a writer");
    world.succeed(&["replicate", "--once"]).expect("a delta");
    world.guest("orders").stop_workload("writer").expect("stopped");
    let mut control = world.guest("orders").control().expect("QEMU answers");
    control.execute("stop", serde_json::json!({})).expect("held");
    drop(control);
    // So that the points before are older than what is kept of all points.
    pause(Duration::from_secs(6));
    let reports = world.succeed(&["replicate", "--once"]).expect("another delta");
    assert_eq!(reports[0]["point"]["machines"][0]["disks"][0]["basis"], "tracked");
    world.succeed(&["vault", "check", "--full"]).expect("whole");

    let retention = "\n[groups.orders.retention]\nall = \"5s\"\n";
    let file = world.site.configuration_file();
    let text = fs::read_to_string(&file).expect("the configuration");
    fs::write(&file, text + retention).expect("written");
    let planned = world.succeed(&["vault", "prune", "--dry-run"]).expect("planned");
    assert_eq!(planned[0]["planned"]["dropped"].as_array().map(Vec::len), Some(2), "{planned}");
    // What a writer left that was interrupted before the points: no point needs it.
    let info = world.succeed(&["vault", "info"]).expect("told");
    let lineage = info["groups"][0]["lineage"].as_str().expect("an id");
    let orphan = format!("farshore/lineages/{lineage}/packs/{:020}/{}", 1, "0123456789abcdef".repeat(2));
    let put = json!({ "Bucket": "recovery", "Key": orphan, "Body": "left behind" });
    server.call("put_object", &put).expect("an orphan");
    let packs = |world: &World| {
        let info = world.succeed(&["vault", "info"]).expect("told");
        info["usage"]["kinds"]["data packs"]["objects"].as_u64().expect("a number")
    };
    let before = packs(&world);
    for objects_deleted in [false, true] {
        let done = world.succeed(&["vault", "prune", "--grace", "none"]).expect("pruned");
        let deleted = done[0]["done"]["deleted"]["objects"].as_u64().expect("a report");
        assert_eq!(deleted > 0, objects_deleted, "{done}");
        assert_eq!(packs(&world) < before, objects_deleted, "{done}");
    }
    world.succeed(&["vault", "check", "--full"]).expect("whole");
    let points = world.succeed(&["points"]).expect("points");
    assert_eq!(points[0]["points"].as_array().map(Vec::len), Some(1), "{points}");

    let restored = world.folder().join("restored.raw");
    let file = restored.to_string_lossy().into_owned();
    world.succeed(&["restore", "orders", "--machine", "orders", "--to", &file]).expect("a restore");
    world.guest_mut("orders").kill();
    assert!(world.identical("orders", 0, &restored).expect("compared"), "byte for byte");

    drop(server);
    assert_eq!(code(&world.run(&["points"]).expect("ran")), "FS1008", "the server is gone");
}

/// Key and version of all that the bucket has below a prefix, delete markers left out.
fn versions(server: &S3Server, prefix: &str) -> Vec<(String, String)> {
    let listed = server.call("list_object_versions", &json!({ "Bucket": "locked", "Prefix": prefix })).expect("listed");
    assert_eq!(listed["IsTruncated"], false, "few enough for one answer");
    let text = |version: &Value, name: &str| version[name].as_str().expect("a text").to_owned();
    let versions = listed["Versions"].as_array().cloned().unwrap_or_default();
    versions.iter().map(|version| (text(version, "Key"), text(version, "VersionId"))).collect()
}

#[test]
fn what_is_locked_cannot_be_destroyed_and_what_was_hidden_comes_back() {
    S3Server::all().into_iter().for_each(locked_story);
}

fn locked_story(server: S3Server) {
    let bucket = json!({ "Bucket": "locked", "ObjectLockEnabledForBucket": true });
    server.call("create_bucket", &bucket).expect("a bucket");
    // moto lets an empty bucket be set only.
    let rule = json!({ "DefaultRetention": { "Mode": "COMPLIANCE", "Days": 2 } });
    let lock = json!({ "ObjectLockEnabled": "Enabled", "Rule": rule });
    let retained = json!({ "Bucket": "locked", "ObjectLockConfiguration": lock });
    server.call("put_object_lock_configuration", &retained).expect("it locks");
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.protect("orders", &["orders"]).expect("a group");
    server.keep(&world, "s3://locked/farshore");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    let set = ["vault", "lock", "set", "--span", "1d", "--mode", "compliance"];
    world.succeed(&set).expect("locked");
    world.succeed(&["replicate", "--once"]).expect("a point");
    world.guest("orders").start_workload("writer 16 512").expect("a writer");
    world.succeed(&["replicate", "--once"]).expect("a delta");
    world.guest("orders").stop_workload("writer").expect("stopped");
    world.succeed(&["vault", "lock", "extend"]).expect("extended");

    // Somebody with all rights.
    let stored = versions(&server, "farshore/lineages/");
    assert!(stored.len() >= 6, "{stored:?}");
    let mut hidden = 0;
    let in_an_hour = SystemClock.now().as_unix_milliseconds() / 1_000 + 3_600;
    for (key, version) in &stored {
        let one = json!({ "Bucket": "locked", "Key": key, "VersionId": version });
        assert!(server.call("delete_object", &one).is_err(), "{key} is locked");
        if server.kind == S3Kind::Minio {
            let shorter = json!({ "Bucket": "locked", "Key": key, "VersionId": version,
                "Retention": { "Mode": "COMPLIANCE", "RetainUntilDate": in_an_hour } });
            assert!(server.call("put_object_retention", &shorter).is_err(), "{key}: a lock gets no shorter");
        }
        let hide = json!({ "Bucket": "locked", "Key": key });
        hidden += usize::from(server.call("delete_object", &hide).is_ok());
    }
    assert_eq!(hidden, stored.len(), "a delete marker hides what cannot be destroyed");
    let restored = world.folder().join("restored.raw");
    let restore = ["restore", "orders", "--machine", "orders", "--to", &restored.to_string_lossy()];
    assert!(!world.run(&restore).expect("ran").status.success(), "nothing is seen");
    world.succeed(&["vault", "unhide"]).expect("shown again");
    world.succeed(&["vault", "check", "--full"]).expect("whole");
    world.succeed(&restore).expect("restored");
    let left = versions(&server, "farshore/lineages/");
    assert!(stored.iter().all(|version| left.contains(version)), "nothing was lost");
}
