//! Where the bytes of captured volumes are: EBS direct's blocks, with the tokens that its listings tell.

use serde_json::Value;

use crate::{
    api::{Api, EBS, THROTTLE_WORDS, Watch, header},
    bindings::exports::farshore::platform::source_blocks::{Block, BlockPage, BlockSet},
    capture::{DiskState, State},
    error::{PlatformError, Result},
    ports::{BlockDisk, BlockRead, BlockWrite, Host, Method},
};

/// EBS has no other.
pub(crate) const BLOCK_BYTES: u32 = 1 << BLOCK_SHIFT;
const BLOCK_SHIFT: u32 = 19;
/// As many as the host takes.
const PAGE_BLOCKS: usize = 1_000;
/// Behind an empty page larger ones are asked for, to come to the next blocks sooner. An answer may have 1 MiB, and a block that
/// changed two tokens of 256 characters.
const LARGE_PAGE_BLOCKS: usize = 1_800;
/// Pages may be empty and go on. For so long they are followed in one call.
const EMPTY_PAGES_MILLISECONDS: u64 = 16_000;

/// The blocks of a captured disk.
///
/// # Errors
/// `not-found` when the capture has no such disk.
pub fn place(state: &[u8], machine: &str, disk: &str) -> Result<BlockDisk> {
    let state = State::parse(state)?;
    let disk = state.disk(machine, disk)?;
    Ok(BlockDisk {
        endpoint: EBS.into(),
        size_bytes: disk.size_bytes(),
        block_bytes: BLOCK_BYTES,
        read: Some(BlockRead {
            target: format!("/snapshots/{}/blocks/{{index}}?blockToken={{key}}", disk.snapshot),
            checksum_header: "x-amz-checksum".into(),
        }),
        write: None,
        throttle_words: THROTTLE_WORDS.map(str::to_owned).to_vec(),
    })
}

/// The blocks of a disk that is restored.
pub(crate) fn place_of_target(snapshot: &str, size_bytes: u64) -> BlockDisk {
    BlockDisk {
        endpoint: EBS.into(),
        size_bytes,
        block_bytes: BLOCK_BYTES,
        read: None,
        write: Some(BlockWrite {
            target: format!("/snapshots/{snapshot}/blocks/{{index}}"),
            headers: vec![
                header("x-amz-data-length", "{length}"),
                header("x-amz-checksum", "{sha256}"),
                header("x-amz-checksum-algorithm", "SHA256"),
            ],
        }),
        throttle_words: THROTTLE_WORDS.map(str::to_owned).to_vec(),
    }
}

/// `source-blocks.list-blocks`.
///
/// # Errors
/// As in the interface.
pub fn list(host: &dyn Host, state: &[u8], machine: &str, disk: &str, set: BlockSet, offset: u64) -> Result<BlockPage> {
    let state = State::parse(state)?;
    let disk = state.disk(machine, disk)?;
    let (of, list, key) = match (set, &disk.base) {
        (BlockSet::Allocated, _) => ("blocks?".to_owned(), "Blocks", "BlockToken"),
        (BlockSet::Changed, Some(base)) => {
            (format!("changedblocks?firstSnapshotId={base}&"), "ChangedBlocks", "SecondBlockToken")
        }
        (BlockSet::Changed, None) => {
            return Err(PlatformError::NotFound("nothing is known that this disk could be compared with".into()));
        }
    };
    let first = offset >> BLOCK_SHIFT;
    let target =
        |results: usize| format!("/snapshots/{}/{of}maxResults={results}&startingBlockIndex={first}", disk.snapshot);
    let (api, watch) = (Api::new(host), Watch::start(host)?);
    let mut next: Option<String> = None;
    while next.is_none() || !watch.has_passed(EMPTY_PAGES_MILLISECONDS) {
        let target = match &next {
            None => target(PAGE_BLOCKS),
            Some(token) => {
                let token: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
                format!("{}&pageToken={token}", target(LARGE_PAGE_BLOCKS))
            }
        };
        let page = api.ebs(Method::Get, target, Vec::new(), None);
        let page = page.map_err(|error| error.while_doing(format!("listing blocks of snapshot {}", disk.snapshot)))?;
        let mut blocks = page_blocks(&page, disk, list, key)?;
        next = page.get("NextToken").and_then(Value::as_str).filter(|token| !token.is_empty()).map(str::to_owned);
        if blocks.len() > PAGE_BLOCKS {
            // What is left out comes with the next page.
            blocks.truncate(PAGE_BLOCKS);
            next.get_or_insert_default();
        }
        let told_to = match (&next, blocks.last()) {
            (None, _) => disk.size_bytes(),
            (Some(_), Some(last)) => last.index.saturating_add(1).saturating_mul(u64::from(BLOCK_BYTES)),
            (Some(_), None) => continue,
        };
        return Ok(BlockPage { blocks, told_to: told_to.min(disk.size_bytes()) });
    }
    let text = format!("EBS answers with empty pages only when it is asked for blocks of snapshot {}", disk.snapshot);
    Err(PlatformError::Unreachable(text))
}

/// The blocks of a page. Each page says what it is of: whatever else answers in EBS's place is no listing without changes.
fn page_blocks(page: &Value, disk: &DiskState, list: &str, key: &str) -> Result<Vec<Block>> {
    let number = |name: &str| page.get(name).and_then(Value::as_u64);
    if number("BlockSize") != Some(BLOCK_BYTES.into()) || number("VolumeSize") != Some(disk.gib) {
        return Err(PlatformError::Failed(format!(
            "what was answered for the blocks of snapshot {} is not a listing of {} GiB in blocks of 512 KiB",
            disk.snapshot, disk.gib
        )));
    }
    let nonsense = || PlatformError::Failed(format!("EBS's listing of blocks has no `{list}` with their numbers"));
    // A set without blocks may be left out altogether.
    let listed = page.get(list).map_or(Some(&[] as &[Value]), |listed| listed.as_array().map(Vec::as_slice));
    let block = |block: &Value| {
        let index = block.get("BlockIndex").and_then(Value::as_u64).ok_or_else(nonsense)?;
        Ok(Block { index, key: block.get(key).and_then(Value::as_str).map(str::to_owned) })
    };
    listed.ok_or_else(nonsense)?.iter().map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Script;

    const STATE: &[u8] = br#"{"version":1,"owner":"o","id":"00000000000000000000000000000001","machines":[
        {"machine":"i-1","step":"Made","disks":[{"disk":"sda1","volume":"vol-1","gib":1,"snapshot":"snap-2","base":"snap-1"}]}]}"#;

    const EMPTY: &str = r#"{"BlockSize":524288,"VolumeSize":1,"NextToken":"t+="}"#;

    fn page(set: BlockSet, offset: u64, answers: &[impl ToString]) -> (Result<BlockPage>, Vec<String>) {
        let script = Script::new(answers.iter().map(|answer| Ok(answer.to_string())));
        let page = list(&script, STATE, "i-1", "sda1", set, offset);
        (page, script.asked())
    }

    #[test]
    fn an_empty_page_that_goes_on_is_not_the_end() {
        let block = u64::from(BLOCK_BYTES);
        let more = r#"{"BlockSize":524288,"VolumeSize":1,"ChangedBlocks":[{"BlockIndex":9,"SecondBlockToken":"a+/="},{"BlockIndex":11,"FirstBlockToken":"x"}],"NextToken":"u"}"#;
        let (page, asked) = page(BlockSet::Changed, 3 * block, &[EMPTY, more]);
        let page = page.expect("a page");
        assert_eq!(page.told_to, 12 * block, "as far as the last block, and no farther");
        let blocks: Vec<_> = page.blocks.iter().map(|block| (block.index, block.key.as_deref())).collect();
        assert_eq!(blocks, [(9, Some("a+/=")), (11, None)], "what is only in the first reads as zeros now");
        let target = |results: u32| {
            format!("/snapshots/snap-2/changedblocks?firstSnapshotId=snap-1&maxResults={results}&startingBlockIndex=3")
        };
        assert_eq!(asked, [target(1_000), format!("{}&pageToken=t%2B%3D", target(1_800))]);
    }

    #[test]
    fn of_a_page_that_is_too_large_for_the_host_the_rest_comes_later() {
        for next in ["", r#","NextToken":"u""#] {
            let blocks: Vec<String> = (0..1_500).map(|index| format!(r#"{{"BlockIndex":{index}}}"#)).collect();
            let large = format!(r#"{{"BlockSize":524288,"VolumeSize":1,"Blocks":[{}]{next}}}"#, blocks.join(","));
            let (page, _) = page(BlockSet::Allocated, 0, &[EMPTY.to_owned(), large]);
            let page = page.expect("a page");
            assert_eq!((page.blocks.len(), page.told_to), (1_000, 1_000 * u64::from(BLOCK_BYTES)));
        }
    }

    #[test]
    fn the_last_page_tells_all_of_the_disk_and_nonsense_is_named() {
        let (last, _) = page(
            BlockSet::Allocated,
            0,
            &[r#"{"BlockSize":524288,"VolumeSize":1,"Blocks":[{"BlockIndex":0,"BlockToken":"k"}]}"#],
        );
        assert_eq!(last.expect("a page").told_to, 1 << 30);
        for (answer, part) in [
            (r#"{"BlockSize":524288,"VolumeSize":1,"Blocks":7}"#, "`Blocks`"),
            (r#"{"BlockSize":524288,"VolumeSize":1,"Blocks":[{"BlockToken":"k"}]}"#, "`Blocks`"),
            (r#"{"BlockSize":524288,"VolumeSize":1,"Blocks":[{"BlockIndex":-1}]}"#, "`Blocks`"),
            (r#"{"BlockSize":524288,"VolumeSize":2,"Blocks":[]}"#, "not a listing of 1 GiB"),
            (r#"{"BlockSize":4096,"VolumeSize":1,"Blocks":[]}"#, "not a listing of 1 GiB"),
            ("{}", "not a listing of 1 GiB"),
        ] {
            let (page, _) = page(BlockSet::Allocated, 0, &[answer]);
            assert!(matches!(page, Err(PlatformError::Failed(text)) if text.contains(part)), "{answer}");
        }
        let (endless, asked) = page(BlockSet::Allocated, 0, &[EMPTY; 20]);
        assert!(matches!(endless, Err(PlatformError::Unreachable(_))) && asked.len() == 16, "for 16 s");
    }
}
