//! The vectors of CRYPTO.md, computed again by a program in another language with other libraries.

use std::{fs, path::PathBuf, process::Command};

#[test]
fn the_vectors_come_out_the_same_elsewhere() {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache"))).expect("a home");
    let python = cache.join("farshore/vault-reader/python/bin/python");
    let [program, vectors] = ["../compat/vectors.py", "../../host/vault/vectors.json"]
        .map(|path| fs::canonicalize(path).expect("it is in the tree"));
    let run = |vectors: &PathBuf| Command::new(&python).arg(&program).arg(vectors).output().expect("Python runs");
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
