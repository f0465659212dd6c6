use std::time::SystemTime;

use wasmparser::{Parser, Payload};

use super::*;

/// The smallest world that a module can implement: no imports, one exported function.
const WIT: &str = "package farshore:tests@0.1.0;\nworld tiny { export run: func(); }\n";

/// A core module as a compiler would make it, with its WIT in a custom section.
fn core_module() -> Vec<u8> {
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_str("tiny.wit", WIT).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let mut module = {
        use wasm_encoder::{
            CodeSection, ExportKind, ExportSection, Function, FunctionSection, Instruction, Module, TypeSection,
        };
        let mut types = TypeSection::new();
        types.ty().function([], []);
        let mut functions = FunctionSection::new();
        functions.function(0);
        let mut exports = ExportSection::new();
        exports.export("run", ExportKind::Func, 0);
        let mut body = Function::new([]);
        body.instruction(&Instruction::End);
        let mut code = CodeSection::new();
        code.function(&body);
        let mut module = Module::new();
        module.section(&types).section(&functions).section(&exports).section(&code);
        module.finish()
    };
    wit_component::embed_component_metadata(&mut module, &resolve, world, wit_component::StringEncoding::UTF8, false)
        .unwrap();
    module
}

fn manifests(component: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for payload in Parser::new(0).parse_all(component) {
        if let Payload::CustomSection(section) = payload.unwrap()
            && section.name() == MANIFEST_SECTION
        {
            found.push(section.data().to_vec());
        }
    }
    found
}

#[test]
fn a_module_becomes_a_component_that_carries_its_manifest() {
    let manifest = "name = \"tiny\"\n# ä\n".as_bytes();
    let component = assemble(&core_module(), manifest).unwrap();
    assert_eq!(manifests(&component), [manifest]);
    wasmparser::Validator::new().validate_all(&component).unwrap();
    assert!(Parser::is_component(&component));
    assert_eq!(component, assemble(&core_module(), manifest).unwrap(), "the same inputs make the same bytes");
}

#[test]
fn what_is_no_module_or_no_manifest_is_refused() {
    let error = assemble(b"\0asm\x01\0\0\0", b"").unwrap_err();
    assert!(error.to_string().contains("exports nothing"), "{error}");
    assert!(assemble(b"no wasm at all", b"").is_err());
    let error = assemble(&core_module(), &[0xff, 0xfe]).unwrap_err();
    assert!(error.to_string().contains("not UTF-8"), "{error}");
}

#[test]
fn a_file_is_replaced_only_when_its_bytes_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("below/qemu.wasm");
    assert!(replace(&path, b"one").unwrap());
    let old = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    assert!(!replace(&path, b"one").unwrap());
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), old, "cargo would build the daemon again");
    assert!(replace(&path, b"two").unwrap());
    assert_ne!(fs::metadata(&path).unwrap().modified().unwrap(), old);
    let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["qemu.wasm"]);
}

#[test]
fn cargos_messages_name_the_module() {
    let manifest = Path::new("/checkout/plugins/qemu/Cargo.toml");
    let messages = r#"
{"reason":"compiler-artifact","manifest_path":"/registry/serde/Cargo.toml","filenames":["/t/libserde.rlib","/t/serde.wasm"]}
{"reason":"compiler-artifact","manifest_path":"/checkout/plugins/qemu/Cargo.toml","filenames":["/t/qemu.wasm","/t/libqemu.rlib"]}
{"reason":"build-script-executed","package_id":"x"}
{"reason":"build-finished","success":true}
"#;
    assert_eq!(find_module(messages, manifest).unwrap(), PathBuf::from("/t/qemu.wasm"));
    let error = find_module(messages, Path::new("/checkout/plugins/other/Cargo.toml")).unwrap_err();
    assert!(error.to_string().contains("cdylib"), "{error}");
    let twice = messages.replace("/t/libqemu.rlib", "/t/second.wasm");
    assert!(find_module(&twice, manifest).is_err());
}

#[test]
fn names_select_and_unknown_ones_are_told_what_there_is() {
    assert_eq!(select(COMPONENTS, &[]).unwrap().len(), COMPONENTS.len());
    assert_eq!(select(COMPONENTS, &["hostile".into()]).unwrap()[0].folder, "tests/components/hostile");
    let error = select(COMPONENTS, &["quemu".into()]).unwrap_err().to_string();
    assert!(error.contains("there is no component quemu; there are: aws, qemu, echo-rust, hostile"), "{error}");
}

#[test]
fn the_tables_names_are_different_and_serve_as_file_names() {
    let mut names: Vec<&str> = COMPONENTS.iter().map(|component| component.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), COMPONENTS.len());
    assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '-')));
}

#[test]
fn the_tables_crates_are_there_with_their_manifests() {
    let root = Path::new("../..");
    for component in COMPONENTS {
        for file in ["Cargo.toml", "manifest.toml"] {
            assert!(root.join(component.folder).join(file).is_file(), "{} has no {file}", component.folder);
        }
    }
}

#[test]
fn every_input_of_a_component_changes_its_fingerprint() {
    let folder = tempfile::tempdir().unwrap();
    let checkout = Checkout::at(folder.path().to_path_buf(), folder.path().join("cache"));
    let component = Component { name: "tiny", folder: "plugins/tiny" };
    let write = |path: &str, text: &str| {
        let path = checkout.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let active = Compiler::Active("rustc 1.95.0".into());
    let now = |compiler: &Compiler| inputs(&checkout, component, compiler).unwrap();
    write("plugins/tiny/src/lib.rs", "");
    let mut seen = vec![
        now(&active),
        now(&Compiler::Debian("rustc 1.95.0".into())),
        now(&Compiler::Active("rustc 1.96.0".into())),
    ];
    for (path, text) in [
        ("plugins/tiny/src/lib.rs", "//! Changed."),
        ("plugins/tiny/manifest.toml", "name = \"tiny\""),
        ("wit/host/host.wit", "package farshore:host;"),
        ("plugins/Cargo.lock", "version = 4"),
    ] {
        write(path, text);
        seen.push(now(&active));
    }
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), count, "some input does not count");
    write("plugins/other/src/lib.rs", "//! Another component.");
    assert!(seen.contains(&now(&active)), "another component's sources do not count");
}
