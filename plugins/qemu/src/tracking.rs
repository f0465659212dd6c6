//! Tokens: what the host remembers of a captured disk, and whether what changed since then is known.
//!
//! | token | the disk is as it was then, but for |
//! | --- | --- |
//! | owner `.` capture `.` disk-index | what the bitmap of this name has recorded since (`names.rs`) |
//! | `off:` image | nothing, as long as the machine is off and its image has this [`Stamp`] |
//! | `off:` image `+` owner `.` capture `.` disk-index | nothing, or else what the bitmap has recorded |
//!
//! The first is a running machine's. The others are those of a machine that is off: nothing may be written to its images,
//! so that no bitmap can be begun in them. A bitmap that an image has kept is not dropped by the points that are made while
//! the machine is off: when it runs again, the bitmap tells what changed since the last point before it was turned off,
//! which is more than what changed since the newest point, and never less. That holds for an image that QEMU and its tools
//! go on writing. Whoever puts a copy of an image in its place, bitmaps and all, takes back what the points in between
//! have without a trace; the host's rolling verification finds it.

use serde::{Deserialize, Serialize};

use crate::{
    bindings::exports::farshore::platform::source::TrackedDisk,
    error::{PlatformError, Result, sentence},
    graph::Node,
    names::{self, BitmapName},
    ports::Host,
};

/// Bytes for each bit of a bitmap: a chunk of the host's.
pub(crate) const GRANULARITY_BYTES: u64 = 64 * 1024;
const OFF_PREFIX: &str = "off:";
const MICROSECONDS_PER_SECOND: u64 = 1_000_000;
/// Longer than a kernel's tick, which is the step in which times of files go on.
const FINE_STEP_MILLISECONDS: u32 = 50;
/// Longer than the two seconds of the coarsest file systems.
const COARSE_STEP_MILLISECONDS: u32 = 2_050;

/// A token, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'t> {
    /// The image that it stands for, as [`Stamp::token`] writes it.
    pub(crate) image: Option<&'t str>,
    /// The bitmap that records since then. Whether it is one of ours is not looked at.
    pub(crate) bitmap: Option<&'t str>,
}

impl<'t> Token<'t> {
    pub(crate) fn parse(token: &'t str) -> Self {
        if !token.starts_with(OFF_PREFIX) {
            return Self { image: None, bitmap: Some(token) };
        }
        let (image, bitmap) = token.split_once('+').map_or((token, None), |(image, bitmap)| (image, Some(bitmap)));
        Self { image: Some(image), bitmap }
    }
}

/// Whether a node's bitmap has seen every write since the instant of a token: its name, or why not.
pub(crate) fn follow(
    owner: &str,
    disk: &str,
    node: &Node,
    tracked: Option<&TrackedDisk>,
) -> std::result::Result<String, String> {
    let token = &tracked.ok_or("there is no earlier point of this disk")?.token;
    let Some(name) = Token::parse(token).bitmap else {
        return Err(format!(
            "the machine was off when disk {disk} was captured last, and has been started since: nothing took note of what changed"
        ));
    };
    if BitmapName::parse(name).is_none_or(|bitmap| bitmap.owner != owner || bitmap.frozen) {
        return Err(format!("the tracking of disk {disk} was not begun by this site and group"));
    }
    let bitmap = node.bitmap(name).ok_or_else(|| {
        format!(
            "QEMU no longer tracks changes of disk {disk}: it has ended and the image kept no bitmap, or something removed the bitmap"
        )
    })?;
    match bitmap {
        bitmap if bitmap.inconsistent => {
            Err(format!("QEMU ended without saving what it tracked of disk {disk}: its bitmap is inconsistent"))
        }
        bitmap if !bitmap.recording => Err(format!("the bitmap of disk {disk} was switched off for a time")),
        bitmap if bitmap.busy => Err(format!("something else is using the bitmap of disk {disk}")),
        bitmap if bitmap.granularity != GRANULARITY_BYTES => Err(format!("the bitmap of disk {disk} is not ours")),
        _ => Ok(name.to_owned()),
    }
}

/// What an image file was like when it was looked at: two equal stamps say that nobody wrote to the file in between.
///
/// The time of the last change (`ctime`) cannot be set by programs, and every write sets it. But it goes on in steps: a
/// write that follows another within the same step leaves no trace. So whoever takes a stamp first waits for
/// [`Stamp::settles_after_milliseconds`], which is longer than a step, and only then reads the image. What was written
/// within the step of the stamp is in what is read, and whatever is written later has another time. Nothing is compared
/// with the clock of the adapter, which has none that tells the time of day. (A clock that is put back could make a write
/// have the very microsecond of an earlier one; that is taken for impossible.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stamp {
    /// A hash of its path: files that are made together may share all the rest.
    path: String,
    size_bytes: u64,
    changed_microseconds: u64,
}

impl Stamp {
    /// Looks at an image; the error says what cannot be done with `what`.
    ///
    /// # Errors
    /// `unsupported` for a block device: nobody could tell later whether it was written. Otherwise what the host said, as
    /// `failed`.
    pub(crate) fn take(host: &dyn Host, what: &str, path: &str) -> Result<Self> {
        let file = host.inspect_file(path).map_err(|error| {
            PlatformError::Failed(format!("{what}, {path}, cannot be looked at: {}", sentence(&error)))
        })?;
        let changed_microseconds = file.changed_microseconds.ok_or_else(|| {
            PlatformError::Unsupported(format!(
                "{what}, {path}, is no file, so that nobody could tell whether it is written while it is read: a machine that is off is captured from files only"
            ))
        })?;
        Ok(Self { path: names::hash(path), size_bytes: file.size_bytes, changed_microseconds })
    }

    /// How long after the stamp was taken the image may be read: a write from then on has another time. A file system
    /// that counts in seconds is known by a time of whole seconds.
    pub(crate) fn settles_after_milliseconds(&self) -> u32 {
        if self.changed_microseconds.is_multiple_of(MICROSECONDS_PER_SECOND) {
            COARSE_STEP_MILLISECONDS
        } else {
            FINE_STEP_MILLISECONDS
        }
    }

    /// The token that stands for the image, and for the bitmap in it that records since an earlier point.
    pub(crate) fn token(&self, bitmap: Option<&str>) -> String {
        let Self { path, size_bytes, changed_microseconds } = self;
        let image = format!("{OFF_PREFIX}{path}.{size_bytes}.{changed_microseconds}");
        bitmap.map_or_else(|| image.clone(), |bitmap| format!("{image}+{bitmap}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_apart_as_they_were_put_together() {
        let bitmap = "farshore-ababababab-1212121212.019342aabbcc00112233445566778899.0";
        let stamp = Stamp { path: names::hash("/a"), size_bytes: 1 << 40, changed_microseconds: 1_795_815_848_468_672 };
        let (alone, both) = (stamp.token(None), stamp.token(Some(bitmap)));
        assert_eq!(Token::parse(bitmap), Token { image: None, bitmap: Some(bitmap) });
        assert_eq!(Token::parse(&alone), Token { image: Some(&alone), bitmap: None });
        assert_eq!(Token::parse(&both), Token { image: Some(&alone), bitmap: Some(bitmap) });
        assert!(both.len() < 1_024, "{both}");
        assert_eq!(BitmapName::parse(&alone), None, "it is not taken for a bitmap");
        assert_eq!(BitmapName::parse(&both), None, "it is not taken for a bitmap");
    }

    #[test]
    fn a_time_of_whole_seconds_is_waited_for_longer() {
        let stamp = |changed_microseconds| Stamp { path: String::new(), size_bytes: 0, changed_microseconds };
        assert!(stamp(1_795_815_848_000_000).settles_after_milliseconds() > 2_000);
        assert!(stamp(1_795_815_848_468_672).settles_after_milliseconds() < 100);
    }
}
