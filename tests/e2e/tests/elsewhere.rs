//! Programs in another language, with other libraries, that know the format from its documents alone: they compute the vectors of
//! CRYPTO.md again, and refuse some of what FORMAT.md wants refused.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

fn python(arguments: &[&PathBuf]) -> Output {
    let python = farshore_e2e::installed("vault-reader/python/bin/python");
    Command::new(python).arg("-B").args(arguments).output().expect("Python runs")
}

fn in_tree(path: &str) -> PathBuf {
    fs::canonicalize(path).expect("it is in the tree")
}

#[test]
fn the_vectors_come_out_the_same_elsewhere() {
    let (program, vectors) = (in_tree("../compat/vectors.py"), in_tree("../../host/vault/vectors.json"));
    let run = |vectors: &PathBuf| python(&[&program, vectors]);
    let output = run(&vectors);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    // One digit of one vector is noticed.
    let folder = tempfile::tempdir().expect("a folder");
    let changed = folder.path().join("vectors.json");
    let text = fs::read_to_string(&vectors).expect("readable");
    let at = text.find("\"sealed\": \"").expect("something is sealed") + 30;
    let other = if text.as_bytes()[at] == b'0' { "1" } else { "0" };
    fs::write(&changed, format!("{}{other}{}", &text[..at], &text[at + 1..])).expect("written");
    assert!(!run(&changed).status.success(), "a vector that was changed");
}

#[test]
fn what_an_author_may_not_claim_is_refused() {
    for golden in ["../compat/golden-1", "../compat/golden-2"] {
        let output = python(&[&in_tree("../compat/refusals.py"), &in_tree(golden)]);
        assert!(output.status.success(), "{golden}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
