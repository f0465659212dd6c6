//! Locked vaults with two addresses: both buckets lock, and neither promises or deletes more than the other.

use super::*;

#[tokio::test]
async fn both_addresses_have_to_lock_and_what_is_missing_at_one_ends_no_promise_early() {
    let metadata = LockingBucket::new(LockMode::Compliance, SPAN_DAYS);
    let data = LockingBucket::by(Arc::clone(&metadata.clock), LockMode::Compliance, SPAN_DAYS);
    let both = || metadata.store().with_data(data.store());
    let (vault, _) = made_in(&metadata, both()).await;
    for bucket in [&metadata, &data] {
        let good = bucket.settings.lock().expect("whole").retention.take();
        let refused = vault.set_lock(LOCK, false).await.expect_err("one of them locks nothing");
        assert!(matches!(&refused, Error::BucketUnfit { problem, .. } if problem.contains("no default")), "{refused}");
        bucket.settings.lock().expect("whole").retention = good;
    }
    vault.set_lock(LOCK, false).await.expect("both lock");
    let lineage = lineage(&vault).await;
    for seed in 1..4 {
        commit_disk(&lineage, &noise(seed, 4 * CHUNK)).await.expect("committed");
    }
    let extend = async || lineage.extend(lineage.plan_extension().await?).await;
    metadata.clock.pass(5 * DAY);
    let report = extend().await.expect("extended");
    let commits: Vec<_> = metadata.keys().into_iter().filter(|key| key.contains("/commits/")).collect();
    assert_eq!(commits.len(), 5);
    for key in &commits[..4] {
        for bucket in [&metadata, &data] {
            assert!(bucket.locked_until(key) >= Some(report.locked_until), "{key}");
        }
    }
    // Once their locks are over, somebody deletes one at the data.
    metadata.clock.pass(30 * DAY);
    let version = data.store().versions(&commits[1]).await.expect("listed").remove(&commits[1]).expect("there");
    let first = version.values().find_map(Versions::first).expect("the object").id.clone();
    data.store().delete_version(&commits[1], &first).await.expect("its lock is over");
    let before = lineage.head().await.expect("readable");
    lineage.plan_extension().await.expect("planned");
    let missing = extend().await.expect_err("it is at the metadata only");
    assert!(matches!(&missing, Error::NotAtData { object } if *object == commits[1]), "{missing}");
    assert_eq!(lineage.head().await.expect("readable"), before);
    let plan = vault.plan_repair(None, CheckDepth::Structure).await.expect("planned");
    vault.copy_to_data(&plan).await.expect("copied");
    let report = extend().await.expect("extended");
    assert!(data.locked_until(&commits[1]) >= Some(report.locked_until));
    // The other way round nothing can be copied.
    metadata.clock.pass(30 * DAY);
    let version = metadata.store().versions(&commits[1]).await.expect("listed").remove(&commits[1]).expect("there");
    let first = version.values().find_map(Versions::first).expect("the object").id.clone();
    metadata.store().delete_version(&commits[1], &first).await.expect("its lock is over");
    let missing = lineage.plan_extension().await.expect_err("it is at the data only");
    assert!(matches!(&missing, Error::ObjectMissing { object, .. } if *object == commits[1]), "{missing}");
}

#[tokio::test]
async fn what_the_metadata_does_not_let_go_stays_at_the_data_too() {
    for (at_metadata, at_data) in [(12, 3), (3, 12)] {
        let metadata = LockingBucket::new(LockMode::Compliance, at_metadata);
        let data = LockingBucket::by(Arc::clone(&metadata.clock), LockMode::Compliance, at_data);
        let both = metadata.store().with_data(data.store()).assume_conditions();
        let (commit, pack) = ("lineages/0a/commits/00000000000000000002", "lineages/0a/packs/00000000000000000001/0b");
        for key in [commit, pack] {
            both.create(key, vec![Bytes::from_static(b"some bytes")]).await.expect("created");
        }
        let delete = async || {
            let now = farshore_core::Clock::now(&*metadata.clock);
            both.delete_all_versions(vec![commit.to_owned(), pack.to_owned()], now).await.expect("deleted")
        };
        metadata.clock.pass(4 * DAY);
        let (locked, at_both) = if at_metadata > at_data { (vec![commit], true) } else { (vec![commit, pack], false) };
        assert_eq!(delete().await, locked, "{at_metadata} and {at_data} days");
        assert_eq!(metadata.keys().contains(&commit.to_owned()), at_both);
        assert!(data.keys().contains(&commit.to_owned()), "{at_metadata} and {at_data} days");
        metadata.clock.pass(9 * DAY);
        assert_eq!(delete().await, [""; 0]);
        assert!(metadata.keys().is_empty() && data.keys().is_empty(), "{at_metadata} and {at_data} days");
    }
}

#[tokio::test]
async fn a_locked_vault_with_one_address_gets_metadata_that_are_locked_too() {
    let data = LockingBucket::new(LockMode::Compliance, SPAN_DAYS);
    let (vault, kit) = made(&data).await;
    vault.set_lock(LOCK, false).await.expect("it locks");
    let point = commit_disk(&lineage(&vault).await, &noise(1, 4 * CHUNK)).await.expect("committed");
    data.clock.pass(2 * DAY);
    let metadata = LockingBucket::by(Arc::clone(&data.clock), LockMode::Compliance, SPAN_DAYS - 1);
    let both = metadata.store().with_data(data.store());
    let now = || farshore_core::Clock::now(&*data.clock);
    let refused = both.plan_metadata(now(), &SystemEntropy).await.expect_err("it locks for a shorter time");
    assert!(matches!(&refused, Error::AddressesUnfit { problem, .. } if problem.contains("12 days")), "{refused}");
    let metadata = LockingBucket::by(Arc::clone(&data.clock), LockMode::Compliance, SPAN_DAYS);
    let both = metadata.store().with_data(data.store());
    let plan = both.plan_metadata(now(), &SystemEntropy).await.expect("planned");
    both.make_metadata(&plan, &SystemEntropy).await.expect("made");
    let opener = Opener::Kit(Box::new(kit), Passphrase::new("p"));
    let vault = Vault::open(both, &opener, data.context()).await.expect("opened");
    let lineage = vault.lineage(&group()).await.expect("readable").expect("there");
    let plan = lineage.plan_extension().await.expect("planned");
    let report = lineage.extend(plan).await.expect("extended");
    let first = crate::commit::commit_key(vault.lineage_id(&group()), point.sequence);
    for bucket in [&metadata, &data] {
        for key in [first.as_str(), "vault", "addresses/00000001"] {
            assert!(bucket.locked_until(key) >= Some(report.locked_until), "{key}");
        }
    }
    commit_disk(&lineage, &noise(2, 4 * CHUNK)).await.expect("committed");
    // Somebody hides what an address says of itself: what would be written above it is not what counts.
    let both = metadata.store().with_data(data.store());
    for bucket in [&data, &metadata] {
        bucket.hide("addresses/00000001").await;
        let refused = both.plan_metadata(now(), &SystemEntropy).await.expect_err("it is hidden");
        assert!(matches!(&refused, Error::AddressesUnfit { problem, .. } if problem.contains("unhide")), "{refused}");
        both.unhide(both.plan_unhide().await.expect("planned"), false, now()).await;
        let shown = both.plan_metadata(now(), &SystemEntropy).await.expect_err("nothing is missing");
        assert!(matches!(shown, Error::VaultExists { .. }), "{shown}");
    }
}
