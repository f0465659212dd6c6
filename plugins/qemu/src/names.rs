//! The names of everything that the adapter makes inside a QEMU process or a storage daemon, and how they are recognised
//! again.
//!
//! QEMU keeps no tags, so that the names are the tags. A block node's name has at most 31 characters: it begins with 40
//! bits of a hash of the owner tag and the last 40 bits of the capture's id. A bitmap's name has room for both in full:
//!
//! | what | name |
//! | --- | --- |
//! | block node, export, job | `fs` owner-hash `-` capture-tail `-` disk-index role |
//! | recording bitmap, which is also the token | owner `.` capture `.` disk-index |
//! | frozen bitmap | owner `.` capture `.` disk-index `.frozen` |
//!
//! In a QEMU process the recording bitmap is made first and removed last, on the disk's own node: whoever finds a node of ours in front of
//! a disk learns from that bitmap which node the disk's own is.

/// What a block node, export or job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The fleece file.
    File,
    /// The limit over the fleece file.
    Limit,
    /// The fleece's format.
    Fleece,
    /// The way between device and disk that is switched, for all disks of a machine at once.
    Switch,
    /// The filter that copies before the guest writes.
    Filter,
    /// The frozen view.
    View,
    /// Says that this guest is being held by us.
    HoldMarker,
    /// Says that this guest's file systems are being frozen by us.
    FreezeMarker,
    /// The export of the view.
    Export,
    /// The job that makes the fleece.
    Job,
    /// The image of a machine that is off, in its storage daemon.
    Image,
}

const ROLES: [(Role, char); 11] = [
    (Role::File, 'f'),
    (Role::Limit, 'l'),
    (Role::Fleece, 'q'),
    (Role::Switch, 's'),
    (Role::Filter, 'c'),
    (Role::View, 'v'),
    (Role::HoldMarker, 'h'),
    (Role::FreezeMarker, 'z'),
    (Role::Export, 'e'),
    (Role::Job, 'j'),
    (Role::Image, 'i'),
];

impl Role {
    fn letter(self) -> char {
        ROLES.iter().find(|(role, _)| *role == self).map_or('?', |(_, letter)| *letter)
    }
}

/// 40 bits of FNV-1a, as ten hexadecimal digits.
pub(crate) fn hash(text: &str) -> String {
    let mut value = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        value = (value ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    format!("{:010x}", (value ^ (value >> 40)) & 0xff_ffff_ffff)
}

/// Whose a capture is, as far as a node's name can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The owner tag in full.
    pub owner: String,
    /// The capture's id in full.
    pub capture: String,
}

impl Names {
    /// The names of a capture.
    pub fn new(owner: &str, capture: &str) -> Self {
        Self { owner: owner.into(), capture: capture.into() }
    }

    /// The name of a node, export or job of the disk with this index.
    pub fn node(&self, index: usize, role: Role) -> String {
        format!("fs{}-{}-{index:x}{}", hash(&self.owner), tail(&self.capture), role.letter())
    }

    /// The bitmap that records what changes after the instant of this capture.
    pub fn recording(&self, index: usize) -> String {
        format!("{}.{}.{index:x}", self.owner, self.capture)
    }

    /// The bitmap of what changed before it.
    pub fn frozen(&self, index: usize) -> String {
        format!("{}.frozen", self.recording(index))
    }

    /// The fleece file of a disk, without its folder.
    pub fn fleece_file(&self, machine: &str, index: usize) -> String {
        format!("fs{}-{}-{machine}-{index:x}.fleece", hash(&self.owner), tail(&self.capture))
    }
}

/// The part of a capture's id that a node's name has room for.
pub fn tail(capture: &str) -> &str {
    capture.len().checked_sub(10).and_then(|start| capture.get(start..)).unwrap_or(capture)
}

/// Of whose captures something is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope<'s> {
    /// The owner tag.
    pub owner: &'s str,
    /// One capture of it, or all.
    pub capture: Option<&'s str>,
}

impl Scope<'_> {
    /// Whether a node, export or job belongs here.
    pub fn has_node(&self, node: &NodeName<'_>) -> bool {
        node.owner_hash == hash(self.owner) && self.capture.is_none_or(|capture| tail(capture) == node.capture_tail)
    }

    /// Whether a bitmap belongs here.
    pub fn has_bitmap(&self, bitmap: &BitmapName<'_>) -> bool {
        bitmap.owner == self.owner && self.capture.is_none_or(|capture| tail(capture) == tail(bitmap.capture))
    }

    /// Whether a file in the fleece folder belongs here.
    pub fn has_fleece_file(&self, name: &str) -> bool {
        let prefix = match self.capture {
            Some(capture) => format!("fs{}-{}-", hash(self.owner), tail(capture)),
            None => format!("fs{}-", hash(self.owner)),
        };
        name.starts_with(&prefix) && name.ends_with(".fleece")
    }
}

/// A name of ours, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeName<'n> {
    /// The hash of its owner's tag.
    pub owner_hash: &'n str,
    /// The end of its capture's id.
    pub capture_tail: &'n str,
    /// The disk's index in its machine.
    pub index: usize,
    /// What it is for.
    pub role: Role,
}

impl<'n> NodeName<'n> {
    /// Takes a name apart; none if it is not one of Farshore's.
    pub fn parse(name: &'n str) -> Option<Self> {
        let mut parts = name.strip_prefix("fs")?.split('-');
        let (owner_hash, capture_tail, last) = (parts.next()?, parts.next()?, parts.next()?);
        let hexadecimal = |text: &str| text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if parts.next().is_some() || !hexadecimal(owner_hash) || !hexadecimal(capture_tail) {
            return None;
        }
        let letter = last.chars().last()?;
        let (role, _) = ROLES.iter().find(|(_, known)| *known == letter)?;
        let index = usize::from_str_radix(last.strip_suffix(letter)?, 16).ok()?;
        Some(Self { owner_hash, capture_tail, index, role: *role })
    }

    /// Whether a bitmap belongs to the same disk of the same capture.
    pub fn goes_with(&self, bitmap: &BitmapName<'_>) -> bool {
        hash(bitmap.owner) == self.owner_hash && tail(bitmap.capture) == self.capture_tail && bitmap.index == self.index
    }
}

/// The name of a bitmap of ours, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitmapName<'n> {
    /// The owner tag.
    pub owner: &'n str,
    /// The capture's id.
    pub capture: &'n str,
    /// The disk's index in its machine.
    pub index: usize,
    /// It is the throw-away copy.
    pub frozen: bool,
}

impl<'n> BitmapName<'n> {
    /// Takes a name apart; none if it is not one of Farshore's.
    pub fn parse(name: &'n str) -> Option<Self> {
        let mut parts = name.split('.');
        let (owner, capture, index) = (parts.next()?, parts.next()?, parts.next()?);
        let frozen = match (parts.next(), parts.next()) {
            (None, None) => false,
            (Some("frozen"), None) => true,
            _ => return None,
        };
        if owner.is_empty() || capture.len() != 32 || !capture.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        Some(Self { owner, capture, index: usize::from_str_radix(index, 16).ok()?, frozen })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: &str = "farshore-ababababab-1212121212";
    const CAPTURE: &str = "019342aabbcc00112233445566778899";

    #[test]
    fn names_fit_into_qemu_and_come_back() {
        let names = Names::new(OWNER, CAPTURE);
        for (role, _) in ROLES {
            let name = names.node(255, role);
            assert!(name.len() <= 31, "{name}");
            let parsed = NodeName::parse(&name).expect("our own name");
            assert_eq!((parsed.index, parsed.role), (255, role));
            assert!(Scope { owner: OWNER, capture: Some(CAPTURE) }.has_node(&parsed));
            assert!(Scope { owner: OWNER, capture: None }.has_node(&parsed));
            assert!(!Scope { owner: "farshore-other", capture: None }.has_node(&parsed));
            let other = "019342aabbcc00112233445566778800";
            assert!(!Scope { owner: OWNER, capture: Some(other) }.has_node(&parsed));
            let recording = names.recording(255);
            assert!(parsed.goes_with(&BitmapName::parse(&recording).expect("our own bitmap")));
            assert!(!parsed.goes_with(&BitmapName::parse(&names.recording(254)).expect("another disk's")));
        }
        assert!(Scope { owner: OWNER, capture: None }.has_fleece_file(&names.fleece_file("orders", 0)));
        assert!(!Scope { owner: "x", capture: None }.has_fleece_file(&names.fleece_file("orders", 0)));
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        for name in
            ["disk0", "#block123", "fs-0-0f", "fs0123456789-0123456789-0", "fsx-y-0f", "fs0123456789-0123456789-0f-1"]
        {
            assert_eq!(NodeName::parse(name), None, "{name}");
        }
        for name in
            ["libvirt-1", "a.b.c", "a.019342aabbcc00112233445566778899", "a.019342aabbcc00112233445566778899.0.x"]
        {
            assert_eq!(BitmapName::parse(name), None, "{name}");
        }
    }
}
