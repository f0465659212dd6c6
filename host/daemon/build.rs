//! Says what to do if the components that we embed are not there. They are built by `cargo xtask components`, because they
//! need another target.

use std::path::Path;

fn main() {
    // The path is relative, here and where the component is embedded: what a build script prints is kept in the target
    // folder, and another checkout that shares it would embed the component of this one.
    let component = "../../target/components/qemu.wasm";
    println!("cargo::rerun-if-changed={component}");
    if !Path::new(component).is_file() {
        println!("cargo::error=target/components/qemu.wasm is not there: run `cargo xtask components` first.");
    }
}
