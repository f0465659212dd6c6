//! Embeds the components that we ship. They are built by `cargo xtask components`, because they need another target.

use std::path::Path;

fn main() {
    // A build script runs in its package's folder. The folder of build time would be another checkout's, where two share
    // a target folder.
    let component = Path::new("../../target/components/qemu.wasm");
    println!("cargo::rerun-if-changed={}", component.display());
    match component.canonicalize() {
        Ok(path) => println!("cargo::rustc-env=FARSHORE_COMPONENT_QEMU={}", path.display()),
        Err(_) => {
            println!("cargo::error=target/components/qemu.wasm is not there: run `cargo xtask components` first.");
        }
    }
}
