//! What is said of locks and of the store's policy, word by word.

mod support;

use support::{CONFIGURATION, World, expect};

#[test]
fn a_vault_that_cannot_be_locked_and_one_that_is_not() {
    let world = World::new();
    assert!(world.run(&["vault", "create", "--yes"]).status.success());
    let mut told = world.told(&["vault", "lock", "show"]);
    told += &world.told(&["vault", "lock", "set", "--span", "14d", "--mode", "compliance"]);
    told += &world.told(&["vault", "lock", "set", "--span", "soon", "--mode", "compliance"]);
    told += &world.told(&["vault", "lock", "set", "--span", "1h", "--mode", "governance"]);
    told += &world.told(&["vault", "lock", "set", "--span", "14d", "--mode", "strict"]);
    told += &world.told(&["vault", "lock", "extend"]);
    told += &world.told(&["vault", "unhide", "--dry-run"]);
    told += &world.told(&["vault", "policy", "--pruner", "arn:aws:iam::123456789012:role/pruner"]);
    expect("lock-refused", &told);
}

#[test]
fn the_policy_of_a_bucket() {
    let world = World::new();
    let address = CONFIGURATION.lines().find(|line| line.starts_with("address = \"file:")).expect("an address");
    world.write("farshore.toml", &CONFIGURATION.replace(address, "address = \"s3://recovery/farshore\""));
    let role = |name: &str| format!("arn:aws:iam::123456789012:role/{name}");
    let (replicator, pruner) = (role("replicator"), role("pruner"));
    let mut told = world.told(&["vault", "policy"]);
    told += &world.told(&["vault", "policy", "--replicator", "me"]);
    told += &world.told(&["vault", "policy", "--replicator", &replicator, "--pruner", &pruner, "--locked"]);
    expect("bucket-policy", &told);
}
