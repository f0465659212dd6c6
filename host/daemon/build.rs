//! Embeds the components that we ship. They are built by `cargo xtask components`, because they need another target.

use std::path::Path;

fn main() {
    let component = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/components/qemu.wasm");
    println!("cargo::rerun-if-changed={}", component.display());
    match component.canonicalize() {
        Ok(path) => println!("cargo::rustc-env=FARSHORE_COMPONENT_QEMU={}", path.display()),
        Err(_) => {
            println!("cargo::error=target/components/qemu.wasm is not there: run `cargo xtask components` first.");
        }
    }
}
