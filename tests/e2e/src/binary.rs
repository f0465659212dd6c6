//! Finding the `farshore` binary that cargo built.

use std::path::PathBuf;

use farshore_demo::DemoError;

/// Names another binary than the one beside the tests.
const BINARY_VARIABLE: &str = "FARSHORE_BINARY";

/// The binary: what `FARSHORE_BINARY` names, or `farshore` in the folder of cargo's that this test was built into.
///
/// # Errors
/// There is none. Cargo builds the binary of another package only when it is asked: `cargo build -p farshore`.
pub fn binary() -> Result<PathBuf, DemoError> {
    if let Some(named) = std::env::var_os(BINARY_VARIABLE) {
        return Ok(PathBuf::from(named));
    }
    let test = std::env::current_exe().map_err(|source| DemoError::File {
        doing: "find",
        path: "the running test".into(),
        source,
    })?;
    // A test is `debug/deps/NAME-HASH`, an example `debug/examples/NAME`, a program `debug/NAME`.
    let beside = test.ancestors().skip(1).take(2).map(|folder| folder.join("farshore")).find(|path| path.is_file());
    beside.ok_or_else(|| DemoError::File {
        doing: "find (run `cargo build -p farshore` first)",
        path: test.with_file_name("farshore"),
        source: std::io::ErrorKind::NotFound.into(),
    })
}
