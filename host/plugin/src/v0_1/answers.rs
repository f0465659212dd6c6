//! What a component answers is checked against the limits that `wit/platform` documents before anybody sees it.
//!
//! These are limits of form: lengths, counts, characters, numbers. Whether the answer makes sense (a disk that shrank,
//! extents that overlap) is judged where the question is known.

use wasmtime::component::Resource;

use super::abi::{
    Allocation, Block, BlockPage, CaptureEnd, CaptureReport, CaptureStatus, CaptureStep, CapturedDisk,
    CapturedDiskPage, Changes, Description, Disk, DiskStatus, DiskStep, Done, Finding, FindingPage, Machine,
    MachinePage, MachineStatus, MachineStep, NetworkInterface, Owned, OwnedPage, Pending, PlatformError, PowerStatus,
    PowerStep, Property, Readiness,
};
use crate::{
    TransportGrant,
    bound::Answer,
    limits::{
        CURSOR_BYTES_MAX, DOING_BYTES_MAX, ID_BYTES_MAX, LIST_BYTES_MAX, MACHINE_DISKS_MAX,
        MACHINE_NETWORK_INTERFACES_MAX, NOTE_BYTES_MAX, NUMBER_END, PAGE_BLOCKS_MAX, PAGE_ITEMS_MAX,
        POLL_AFTER_MILLISECONDS_MAX, PROPERTIES_MAX, PROPERTY_NAME_BYTES_MAX, PROPERTY_VALUE_BYTES_MAX,
        SENTENCE_BYTES_MAX, STATE_BYTES_MAX, TOKEN_BYTES_MAX,
    },
    state::CallState,
};

type Checked = Result<(), String>;

/// A text of at most so many bytes. It may have line ends and tabs, but no other control characters: it is shown on a
/// terminal.
fn text(what: &str, text: &str, bytes_max: usize) -> Checked {
    if text.len() > bytes_max {
        return Err(format!("{what} has {} bytes; {bytes_max} are allowed", text.len()));
    }
    if text.chars().any(|character| character.is_control() && !matches!(character, '\n' | '\t')) {
        return Err(format!("{what} has a control character"));
    }
    Ok(())
}

/// A name that a platform gives: printable, not empty.
fn id(what: &str, value: &str) -> Checked {
    if value.is_empty() {
        return Err(format!("{what} is empty"));
    }
    text(what, value, ID_BYTES_MAX)?;
    if value.contains(['\n', '\t']) { Err(format!("{what} has a control character")) } else { Ok(()) }
}

fn word(what: &str, value: &str, bytes_max: usize) -> Checked {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if value.is_empty() || value.len() > bytes_max || !value.bytes().all(allowed) {
        let shown: String = value.chars().take(64).collect();
        return Err(format!("{what} is {shown:?}, not 1 to {bytes_max} of a-z, 0-9 and -"));
    }
    Ok(())
}

fn count(what: &str, found: usize, items_max: usize) -> Checked {
    if found > items_max {
        return Err(format!("there are {found} {what}; {items_max} are allowed"));
    }
    Ok(())
}

fn number(what: &str, value: u64) -> Checked {
    if value >= NUMBER_END { Err(format!("{what} is {value}, not below 2^53")) } else { Ok(()) }
}

/// A size of a disk.
fn disk_size(what: &str, size_bytes: u64) -> Checked {
    number(what, size_bytes)?;
    if size_bytes.is_multiple_of(512) { Ok(()) } else { Err(format!("{what} is {size_bytes}, not a multiple of 512")) }
}

fn state(state: &[u8]) -> Checked {
    if state.len() > STATE_BYTES_MAX {
        return Err(format!("the state has {} bytes; {STATE_BYTES_MAX} are allowed", state.len()));
    }
    Ok(())
}

fn cursor(next: Option<&String>) -> Checked {
    next.map_or(Ok(()), |next| text("the cursor", next, CURSOR_BYTES_MAX))
}

/// Names that must not occur twice.
fn unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Checked {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(format!("there are two {what} with the id {name:?}"));
        }
    }
    Ok(())
}

/// Whether an error of a component's can be shown.
pub(crate) fn check_error(error: &PlatformError) -> Checked {
    let (PlatformError::Settings(sentence)
    | PlatformError::NotFound(sentence)
    | PlatformError::Unreachable(sentence)
    | PlatformError::Conflict(sentence)
    | PlatformError::CaptureBroken(sentence)
    | PlatformError::Unsupported(sentence)
    | PlatformError::Failed(sentence)) = error;
    text("the error's sentence", sentence, SENTENCE_BYTES_MAX)
}

fn properties(properties: &[Property]) -> Checked {
    count("properties of one thing", properties.len(), PROPERTIES_MAX)?;
    unique("properties", properties.iter().map(|property| property.name.as_str()))?;
    properties.iter().try_for_each(|Property { name, value }| {
        word("a property's name", name, PROPERTY_NAME_BYTES_MAX)?;
        text("a property's value", value, PROPERTY_VALUE_BYTES_MAX)
    })
}

fn pending(Pending { doing, poll_after_milliseconds }: &Pending) -> Checked {
    text("what is being waited for", doing, DOING_BYTES_MAX)?;
    if *poll_after_milliseconds > POLL_AFTER_MILLISECONDS_MAX {
        return Err(format!("the wait is {poll_after_milliseconds} ms; {POLL_AFTER_MILLISECONDS_MAX} are allowed"));
    }
    Ok(())
}

fn note(what: &str, note: &str) -> Checked {
    text(what, note, NOTE_BYTES_MAX)
}

fn machine(machine: &Machine) -> Checked {
    let Machine { id: machine_id, name, memory_bytes, disks, network_interfaces, properties: of_machine, .. } = machine;
    id("a machine's id", machine_id)?;
    id("a machine's name", name)?;
    number("a machine's memory", *memory_bytes)?;
    count("disks of one machine", disks.len(), MACHINE_DISKS_MAX)?;
    unique("disks", disks.iter().map(|disk| disk.id.as_str()))?;
    for Disk { id: disk_id, size_bytes, properties: of_disk, .. } in disks {
        id("a disk's id", disk_id)?;
        disk_size("a disk's size", *size_bytes)?;
        properties(of_disk)?;
    }
    count("network interfaces of one machine", network_interfaces.len(), MACHINE_NETWORK_INTERFACES_MAX)?;
    unique("network interfaces", network_interfaces.iter().map(|interface| interface.id.as_str()))?;
    network_interfaces.iter().try_for_each(network_interface)?;
    properties(of_machine)
}

fn network_interface(interface: &NetworkInterface) -> Checked {
    let NetworkInterface { id: interface_id, mac, network, properties: of_interface } = interface;
    id("a network interface's id", interface_id)?;
    if let Some(mac) = mac {
        let pair = |pair: &str| {
            pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        if mac.split(':').count() != 6 || !mac.split(':').all(pair) {
            return Err("a mac is not six pairs of lower-case hexadecimal digits with colons".to_owned());
        }
    }
    if let Some(network) = network {
        id("a network's name", network)?;
    }
    properties(of_interface)
}

fn captured_disk(disk: &CapturedDisk) -> Checked {
    let CapturedDisk { machine, disk: disk_id, size_bytes, token, changes, allocation } = disk;
    id("a machine's id", machine)?;
    id("a disk's id", disk_id)?;
    disk_size("a disk's size", *size_bytes)?;
    if let Some(token) = token {
        text("a token", token, TOKEN_BYTES_MAX)?;
    }
    match changes {
        Changes::Unknown(reason) => text("the reason why changes are unknown", reason, SENTENCE_BYTES_MAX)?,
        Changes::Context(context) => context_name(context)?,
        Changes::Listed => {}
    }
    match allocation {
        Allocation::Unknown | Allocation::Listed => Ok(()),
        Allocation::Context(context) => context_name(context),
    }
}

fn block_page(BlockPage { blocks, told_to }: &BlockPage) -> Checked {
    count("blocks in a page", blocks.len(), PAGE_BLOCKS_MAX)?;
    number("the offset up to which blocks are told", *told_to)?;
    let mut before = None;
    for Block { index, key } in blocks {
        number("a block's number", *index)?;
        if before.is_some_and(|before| before >= *index) {
            return Err(format!("block {index} is not told in ascending order"));
        }
        before = Some(*index);
        if let Some(key) = key {
            text("a block's key", key, TOKEN_BYTES_MAX)?;
        }
    }
    Ok(())
}

/// The name of a block-status context; NBD allows 4,096 bytes.
fn context_name(context: &str) -> Checked {
    if context.is_empty() {
        return Err("the name of a block-status context is empty".to_owned());
    }
    text("the name of a block-status context", context, 4_096)
}

/// Implements [`Answer`] for records that the caller gets as they are.
macro_rules! answers {
    ($($type:ident $answer:pat => $check:expr;)*) => {$(
        impl Answer for $type {
            type Checked = Self;

            fn check(self, _: &mut CallState) -> Result<Self, String> {
                let $answer = &self;
                $check?;
                Ok(self)
            }
        }
    )*};
}

answers! {
    Description Self { name, version, settings_schema } => {
        word("the component's name", name, 64)
            .and_then(|()| id("the component's version", version))
            .and_then(|()| text("the schema of the settings", settings_schema, LIST_BYTES_MAX))
    };
    MachinePage Self { machines, next } => {
        count("machines in a page", machines.len(), PAGE_ITEMS_MAX)
            .and_then(|()| unique("machines", machines.iter().map(|machine| machine.id.as_str())))
            .and_then(|()| machines.iter().try_for_each(machine))
            .and_then(|()| cursor(next.as_ref()))
    };
    CaptureStep Self { state: of_capture, status } => state(of_capture).and_then(|()| match status {
        CaptureStatus::Pending(waits) => pending(waits),
        CaptureStatus::Ready(CaptureReport { held_microseconds, note: of_report, .. }) => {
            number("the time that a guest was held", *held_microseconds).and_then(|()| note("the note", of_report))
        }
    });
    CapturedDiskPage Self { disks, next } => {
        count("disks in a page", disks.len(), PAGE_ITEMS_MAX)
            .and_then(|()| disks.iter().try_for_each(captured_disk))
            .and_then(|()| cursor(next.as_ref()))
    };
    BlockPage page => block_page(page);
    CaptureEnd Self { note: of_capture } => note("the note", of_capture);
    PowerStep Self { state: of_stop, status } => state(of_stop).and_then(|()| match status {
        PowerStatus::Pending(waits) => pending(waits),
        PowerStatus::Off(proof) => text("the proof", proof, SENTENCE_BYTES_MAX),
    });
    DiskStep Self { state: of_disk, status } => state(of_disk).and_then(|()| match status {
        DiskStatus::Pending(waits) => pending(waits),
        DiskStatus::Ready(done) => note("the note", &done.note),
    });
    MachineStep Self { state: of_machine, status } => state(of_machine).and_then(|()| match status {
        MachineStatus::Pending(waits) => pending(waits),
        MachineStatus::Ready(done) => note("the note", &done.note),
    });
    Done Self { note: of_work } => note("the note", of_work);
    FindingPage Self { findings, next } => {
        count("findings in a page", findings.len(), PAGE_ITEMS_MAX)
            .and_then(|()| findings.iter().try_for_each(|Finding { problem, .. }| {
                text("a finding", problem, SENTENCE_BYTES_MAX)
            }))
            .and_then(|()| cursor(next.as_ref()))
    };
    Readiness Self { evidence, .. } => note("the evidence", evidence);
    OwnedPage Self { items, next } => {
        count("items in a page", items.len(), PAGE_ITEMS_MAX)
            .and_then(|()| items.iter().try_for_each(owned))
            .and_then(|()| cursor(next.as_ref()))
    };
}

fn owned(item: &Owned) -> Checked {
    let Owned { id: item_id, owner, run, description, state: of_item, .. } = item;
    text("an owned thing's id", item_id, ID_BYTES_MAX)?;
    text("an owner tag", owner, ID_BYTES_MAX)?;
    if let Some(run) = run {
        text("a run's id", run, ID_BYTES_MAX)?;
    }
    text("a description", description, NOTE_BYTES_MAX)?;
    state(of_item)
}

impl Answer for Resource<TransportGrant> {
    type Checked = TransportGrant;

    fn check(self, state: &mut CallState) -> Result<TransportGrant, String> {
        state.table.delete(self).map_err(|error| format!("the transport is not one of this instance's: {error}"))
    }
}
