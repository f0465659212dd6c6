//! Which part of all frames a check reads, and the draw.

use std::{fmt, future::Future};

use farshore_core::{Entropy, PackId};
use futures::TryStreamExt;
use serde::Serialize;

use crate::{Error, Result, Store};

/// A whole, in the parts in which a share is counted.
const BILLION: u32 = 1_000_000_000;

/// How much a sample reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SampleSize {
    /// So many billionths of all frames; each frame has this chance.
    Billionths(u32),
    /// About so many bytes of the whole vault, as large as a listing says that it is.
    Bytes(u64),
}

impl SampleSize {
    /// The chance that each frame has. `stored_bytes` is asked for only if it is needed.
    ///
    /// # Errors
    /// A sample of nothing, or of more than everything; or what `stored_bytes` says.
    pub(crate) async fn share<F: Future<Output = Result<u64>>>(
        self,
        stored_bytes: impl FnOnce() -> F,
    ) -> Result<Share> {
        let billionths = match self {
            Self::Billionths(billionths) => billionths,
            Self::Bytes(bytes) => {
                let all = u128::from(stored_bytes().await?.max(1));
                let share = u128::from(bytes) * u128::from(BILLION) / all;
                // However little that is of a large vault, it is something.
                u32::try_from(share.clamp(u128::from(bytes.min(1)), u128::from(BILLION))).unwrap_or(BILLION)
            }
        };
        match billionths {
            1..=BILLION => Ok(Share(billionths)),
            0 => Err(Error::invalid("a sample of nothing proves nothing")),
            _ => Err(Error::invalid("a sample cannot be larger than everything")),
        }
    }
}

impl fmt::Display for SampleSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Billionths(billionths) => Share(*billionths).fmt(formatter),
            Self::Bytes(bytes) => write!(formatter, "{bytes} bytes"),
        }
    }
}

/// A part of all frames, in billionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share(u32);

impl Share {
    pub(crate) const fn billionths(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Share {
    /// In per cent, without needless digits.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 10_000_000, self.0 % 10_000_000);
        let text = format!("{whole}.{rest:07}");
        write!(formatter, "{} %", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// Decides of each frame whether it is read: the same answer whenever it is asked.
#[derive(Debug)]
pub(crate) struct Dice {
    seed: [u8; 32],
    /// A hash below this is chosen.
    below: u64,
}

impl Dice {
    pub(crate) fn new(share: Share, entropy: &dyn Entropy) -> Self {
        let mut seed = [0; 32];
        entropy.fill(&mut seed);
        let below = u128::from(u64::MAX) * u128::from(share.0) / u128::from(BILLION);
        Self { seed, below: u64::try_from(below).unwrap_or(u64::MAX) }
    }

    pub(crate) fn choose(&self, pack: PackId, ordinal: u32) -> bool {
        let mut hasher = blake3::Hasher::new_keyed(&self.seed);
        let hash = *hasher.update(pack.as_bytes()).update(&ordinal.to_le_bytes()).finalize().as_bytes();
        let (front, _) = hash.split_first_chunk::<8>().expect("a hash has 32 bytes");
        u64::from_le_bytes(*front) <= self.below
    }
}

/// How many bytes data packs and collections have, as a listing says: it only decides how much is read.
pub(super) async fn stored_bytes(store: &Store) -> Result<u64> {
    let holds_frames = |key: &str| {
        let parts: Vec<&str> = key.split('/').collect();
        matches!(parts.as_slice(), ["lineages", _, "packs" | "collections", ..])
    };
    let mut sum = 0u64;
    let mut listed = std::pin::pin!(store.list("lineages"));
    while let Some(object) = listed.try_next().await? {
        if holds_frames(&object.key) {
            sum = sum.saturating_add(object.bytes);
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use farshore_core::SeededEntropy;

    use super::*;

    #[tokio::test]
    async fn a_sample_is_what_was_asked_for() {
        let of = async |size: SampleSize| size.share(|| async { Ok(1_000) }).await.map(Share::billionths);
        assert_eq!(of(SampleSize::Bytes(20)).await.expect("a part"), 20_000_000);
        assert_eq!(of(SampleSize::Bytes(5_000)).await.expect("all"), BILLION);
        assert!(of(SampleSize::Bytes(0)).await.is_err());
        assert!(of(SampleSize::Billionths(BILLION + 1)).await.is_err());
        let huge = SampleSize::Bytes(1).share(|| async { Ok(u64::MAX) }).await.expect("something");
        assert_eq!(huge.billionths(), 1);
        assert_eq!(SampleSize::Billionths(20_000_000).to_string(), "2 %");
        assert_eq!(SampleSize::Billionths(12_345).to_string(), "0.0012345 %");
    }

    #[test]
    fn each_frame_of_each_pack_has_the_same_chance() {
        let dice = |billionths| Dice::new(Share(billionths), &SeededEntropy::new(3));
        let pack = |number: u8| PackId::from_bytes([number; 16]);
        let draws: Vec<_> = (0..=255).flat_map(|number| (0..64).map(move |ordinal| (pack(number), ordinal))).collect();
        assert!(draws.iter().all(|(pack, ordinal)| dice(BILLION).choose(*pack, *ordinal)));
        let chosen: Vec<_> = draws.iter().filter(|(pack, ordinal)| dice(100_000_000).choose(*pack, *ordinal)).collect();
        // 16,384 frames at a tenth: 1,638 are expected, with a standard deviation of 38.
        assert!((1_450..=1_830).contains(&chosen.len()), "{}", chosen.len());
        let packs: std::collections::BTreeSet<_> = chosen.iter().map(|(pack, _)| *pack).collect();
        assert!(packs.len() > 240, "of 64 frames of a pack at a tenth nearly always one is chosen: {}", packs.len());
    }
}
