//! Targets: the files that people keep, and the words of a kit.

use super::World;
use crate::{Error, HostCredential, JoinFile, Kit, Result, keys::Slot};

fn text(input: &[u8]) -> Option<&str> {
    str::from_utf8(input).ok()
}

/// That a file is refused as such; its text must not be in the message.
fn refused_or<T>(outcome: Result<T>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(Error::KeyFile { .. }) => None,
        Err(error) => panic!("refused, and not as a file: {error}"),
    }
}

pub(super) fn kit(_: &World, _: u8, input: &[u8]) {
    let Some(kit) = text(input).map(Kit::parse).and_then(refused_or) else { return };
    let again = Kit::parse(&kit.to_text()).expect("its own text");
    assert_eq!(*again.to_text(), *kit.to_text());
    let words = kit.words();
    assert!(kit.accepts(&kit.asked_words().map(|number| words[number - 1].as_str())));
    // What a kit holds is looked at when it is used.
    if let Ok(slot) = Slot::parse("kit", kit.slot_object()) {
        let again = Kit::from_words(&words.join(" "), "", kit_time(), kit.admin(), &slot, kit.slot_object().to_vec());
        assert_eq!(again.expect("its own words").secret().expose(), kit.secret().expose());
    }
}

fn kit_time() -> farshore_core::Timestamp {
    farshore_core::Timestamp::from_unix_milliseconds(0)
}

pub(super) fn kit_words(world: &World, _: u8, input: &[u8]) {
    let Some(text) = text(input) else { return };
    let slot = Slot::parse("kit", world.kit.slot_object()).expect("its slot");
    let made = Kit::from_words(text, "", kit_time(), world.kit.admin(), &slot, Vec::new());
    let Some(kit) = refused_or(made) else { return };
    let again = Kit::from_words(&kit.words().join(" "), "", kit_time(), world.kit.admin(), &slot, Vec::new());
    assert_eq!(again.expect("its own words").secret().expose(), kit.secret().expose());
}

pub(super) fn join_file(_: &World, _: u8, input: &[u8]) {
    let Some(file) = text(input).map(JoinFile::parse).and_then(refused_or) else { return };
    assert_eq!(*JoinFile::parse(&file.to_text()).expect("its own text").to_text(), *file.to_text());
}

pub(super) fn credential(_: &World, _: u8, input: &[u8]) {
    let Some(file) = text(input).map(HostCredential::parse).and_then(refused_or) else { return };
    assert_eq!(*HostCredential::parse(&file.to_text()).expect("its own text").to_text(), *file.to_text());
}
