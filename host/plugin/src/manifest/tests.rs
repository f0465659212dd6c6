use super::*;

/// A component without anything but custom sections.
pub(crate) fn component_with(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    for (name, data) in sections {
        bytes.extend(custom_section(name, data));
    }
    bytes
}

fn custom_section(name: &str, data: &[u8]) -> Vec<u8> {
    let mut body = leb128(name.len());
    body.extend(name.as_bytes());
    body.extend(data);
    let mut section = vec![0];
    section.extend(leb128(body.len()));
    section.extend(body);
    section
}

fn leb128(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

const GOOD: &str = "name = \"qemu\"\nversion = \"0.1.0\"\nwit = \"0.1.0-draft.5\"\n\n[wants.drill]\nunix = true\nfiles = \
                    \"read-only\"\nprograms = [\"start-machine\"]\n";

#[test]
fn a_manifest_is_read_from_the_component_itself() {
    let bytes = component_with(&[("name", b"x"), (SECTION, GOOD.as_bytes())]);
    let manifest = Manifest::of_component(&bytes).expect("a good manifest");
    assert_eq!(manifest.name, "qemu");
    let drill = manifest.wants.for_mode(Mode::Drill);
    assert!(drill.unix && !drill.tcp && !drill.nbd && drill.programs.contains("start-machine"));
    assert_eq!(drill.files, Some(Access::ReadOnly));
    assert_eq!(manifest.wants.for_mode(Mode::Live), &Wants::default());
}

#[test]
fn a_manifest_inside_a_module_of_the_component_does_not_count() {
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    module.extend(custom_section(SECTION, GOOD.as_bytes()));
    let mut bytes = component_with(&[]);
    bytes.push(1);
    bytes.extend(leb128(module.len()));
    bytes.extend(&module);
    assert!(matches!(Manifest::of_component(&bytes), Err(ManifestError::Missing)));
    bytes.extend(custom_section(SECTION, GOOD.replace("qemu", "outer").as_bytes()));
    assert_eq!(Manifest::of_component(&bytes).expect("its own").name, "outer");
    assert!(matches!(Manifest::of_component(&module), Err(ManifestError::Module)));
}

#[test]
fn what_is_not_a_manifest_is_refused_by_name() {
    let of =
        |section: &[u8]| Manifest::of_component(&component_with(&[(SECTION, section)])).expect_err("not a manifest");
    let cases: [(&[u8], &str); 8] = [
        (b"\xff", "is not UTF-8"),
        (b"name = 1", "the component's manifest is wrong"),
        (b"name = \"Q\"\nversion = \"1\"\nwit = \"1\"", "name is \"Q\""),
        (b"name = \"q\"\nversion = \"\"\nwit = \"1\"", "version is \"\""),
        (b"name = \"q\"\nversion = \"1\"\nwit = \"1\"\nauthor = \"x\"", "unknown field"),
        (b"name = \"q\"\nversion = \"1\"\nwit = \"1\"\n[wants.test]", "unknown field"),
        (b"name = \"q\"\nversion = \"1\"\nwit = \"1\"\n[wants.live]\nhttp = true", "unknown field"),
        (b"name = \"q\"\nversion = \"1\"\nwit = \"1\"\n[wants.live]\nprograms = [\"../x\"]", "programs is"),
    ];
    for (section, wanted) in cases {
        let error = of(section).to_string();
        assert!(error.contains(wanted), "{error}");
    }
    assert!(of(&vec![b' '; MANIFEST_BYTES_MAX + 1]).to_string().contains("larger than 64 KiB"));
    let twice = component_with(&[(SECTION, GOOD.as_bytes()), (SECTION, GOOD.as_bytes())]);
    assert!(matches!(Manifest::of_component(&twice), Err(ManifestError::Several)));
    for bytes in [&b""[..], b"\0as", b"#!/bin/sh\n", &twice[..twice.len() - 1]] {
        assert!(matches!(Manifest::of_component(bytes), Err(ManifestError::NotAComponent(_))), "{bytes:?}");
    }
}
