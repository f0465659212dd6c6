//! The calls of EBS direct.

use std::{collections::BTreeMap, sync::Arc};

use axum::http::HeaderMap;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    account::{Account, Caller},
    blocks::{BLOCK_BYTES, BlockFile, Content, GIB},
    failure::Failure,
    model::{Puts, Remembered, Snapshot, SnapshotState},
    policy::{Ask, Tags},
    query::{check_tags, is_client_token},
};

/// What the API shows as the volume of a snapshot that was not made of one.
const NO_VOLUME: &str = "vol-ffffffff";

/// What is answered.
#[derive(Debug)]
pub struct Answer {
    /// HTTP's.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(&'static str, String)>,
    /// JSON or a block.
    pub body: Bytes,
}

/// What is asked.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'a str,
    /// What follows `/snapshots`, in parts.
    pub path: Vec<&'a str>,
    /// What follows the question mark.
    pub query: &'a str,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// The whole body.
    pub body: &'a Bytes,
}

/// What EBS direct calls it; none if there is no such call.
pub fn action_of(method: &str, path: &[&str]) -> Option<&'static str> {
    match (method, path) {
        ("POST", []) => Some("ebs:StartSnapshot"),
        ("POST", ["completion", _]) => Some("ebs:CompleteSnapshot"),
        ("PUT", [_, "blocks", _]) => Some("ebs:PutSnapshotBlock"),
        ("GET", [_, "blocks", _]) => Some("ebs:GetSnapshotBlock"),
        ("GET", [_, "blocks"]) => Some("ebs:ListSnapshotBlocks"),
        ("GET", [_, "changedblocks"]) => Some("ebs:ListChangedBlocks"),
        _ => None,
    }
}

/// Does what a call asks for.
///
/// # Errors
/// As EBS direct would.
pub fn call(account: &Arc<Account>, caller: &Caller, asked: &Asked<'_>) -> Result<Answer, Failure> {
    account.look_after(&mut account.state());
    match (asked.method, &asked.path[..]) {
        ("POST", []) => start(account, caller, asked),
        ("POST", ["completion", id]) => complete(account, caller, id, asked),
        ("PUT", [id, "blocks", number]) => put(account, caller, id, number, asked),
        ("GET", [id, "blocks", number]) => get(account, caller, id, number, asked),
        ("GET", [id, "blocks"]) => list(account, caller, id, asked),
        ("GET", [id, "changedblocks"]) => changed(account, caller, id, asked),
        _ => Err(Failure::new(404, "UnknownOperationException", "There is no such call")),
    }
}

fn invalid(reason: &'static str, message: impl Into<String>) -> Failure {
    Failure { reason: Some(reason), ..Failure::new(400, "ValidationException", message) }
}

fn missing(id: &str) -> Failure {
    let message = format!("The snapshot {id} does not exist");
    Failure { reason: Some("SNAPSHOT_NOT_FOUND"), ..Failure::new(404, "ResourceNotFoundException", message) }
}

fn told(status: u16, body: &Value) -> Answer {
    let headers = vec![("content-type", "application/json".to_owned())];
    Answer { status, headers, body: Bytes::from(body.to_string()) }
}

/// The parameters of a query, of which none may be unknown.
fn query<T: DeserializeOwned>(asked: &Asked<'_>) -> Result<T, Failure> {
    let mut given = serde_json::Map::new();
    for (name, value) in url::form_urlencoded::parse(asked.query.as_bytes()) {
        let value = match value.parse::<u64>() {
            Ok(number) if ["maxResults", "startingBlockIndex"].contains(&&*name) => Value::from(number),
            _ => Value::from(value.into_owned()),
        };
        given.insert(name.into_owned(), value);
    }
    serde_json::from_value(Value::Object(given)).map_err(|error| invalid("INVALID_PARAMETER_VALUE", error.to_string()))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Begin {
    volume_size: u32,
    parent_snapshot_id: Option<String>,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(default)]
    description: String,
    client_token: Option<String>,
    timeout: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

fn start(account: &Arc<Account>, caller: &Caller, asked: &Asked<'_>) -> Result<Answer, Failure> {
    const ACTION: &str = "ebs:StartSnapshot";
    let begin: Begin =
        serde_json::from_slice(asked.body).map_err(|error| invalid("INVALID_PARAMETER_VALUE", error.to_string()))?;
    let tags: Tags = begin.tags.into_iter().map(|tag| (tag.key, tag.value)).collect();
    check_tags(&tags).map_err(|failure| invalid("INVALID_TAG", failure.message))?;
    if !(1..=65_536).contains(&begin.volume_size) {
        return Err(invalid("INVALID_VOLUME_SIZE", "A volume has 1 to 65536 GiB"));
    }
    if begin.description.chars().count() > 255
        || begin.client_token.as_deref().is_some_and(|token| !is_client_token(token))
    {
        return Err(invalid("INVALID_PARAMETER_VALUE", "The description or the client token is too long"));
    }
    let timeout_minutes = begin.timeout.unwrap_or(60);
    if !(10..=4_320).contains(&timeout_minutes) {
        return Err(invalid("INVALID_PARAMETER_VALUE", "The timeout is 10 to 4320 minutes"));
    }
    let mut state = account.state();
    let parent = begin.parent_snapshot_id.as_ref().map(|id| ("ebs:ParentSnapshot", account.arn("snapshot", id)));
    let context: Vec<_> = parent.into_iter().collect();
    let ask = Ask::of(ACTION, account.arn("snapshot", "*"));
    account.require(caller, &Ask { request_tags: Some(&tags), context: context.clone(), ..ask })?;
    // EC2 gives the tags for EBS, and is not told by which call: a condition on `ec2:CreateAction` does not hold.
    let denied = |failure: Failure| Failure::new(403, "AccessDeniedException", failure.message);
    account.require_tags(caller, None, "snapshot", &tags).map_err(denied)?;
    let request = request_of(asked.body);
    let token = begin.client_token.clone().unwrap_or_default();
    if let Some(known) = state.remembered.get(&(ACTION, token)) {
        if known.request != request {
            let message = "The client token was given with other parameters";
            return Err(Failure::new(409, "ConflictException", message));
        }
        let snapshot = state.snapshots.get(&known.made).ok_or_else(|| missing(&known.made))?;
        return Ok(told(201, &started(account, &known.made, snapshot)));
    }
    let (content, line) = match &begin.parent_snapshot_id {
        None => (Content::default(), account.new_id("line")),
        Some(id) => {
            let snapshot = state.snapshots.get(id).ok_or_else(|| missing(id))?;
            // The tags of the request are those of the snapshot that is begun, and part of the same question.
            let ask = Ask { request_tags: Some(&tags), context, ..Ask::of(ACTION, account.arn("snapshot", id)) };
            account.require(caller, &Ask { resource_tags: Some(&snapshot.tags), ..ask })?;
            let found = complete_one(account, id, snapshot)?;
            if begin.volume_size < found.size_gib {
                return Err(invalid("INVALID_VOLUME_SIZE", "The volume is smaller than its parent"));
            }
            (found.content.clone(), found.line.clone())
        }
    };
    let pending = state.snapshots.values().filter(|snapshot| snapshot.puts.is_some()).count();
    if pending >= account.options.pending_max {
        let message = "You have reached the limit of pending snapshots";
        let reason = Some("DEPENDENCY_SERVICE_QUOTA_EXCEEDED");
        return Err(Failure { reason, ..Failure::new(402, "ServiceQuotaExceededException", message) });
    }
    let id = account.new_id("snap");
    let snapshot = Snapshot {
        size_gib: begin.volume_size,
        line,
        volume: NO_VOLUME.to_owned(),
        description: begin.description,
        tags,
        started_at: account.now(),
        state: SnapshotState::Pending,
        content,
        puts: Some(Puts {
            file: BlockFile::new(&account.options.folder).map_err(Failure::internal)?,
            blocks: BTreeMap::new(),
            expires_at: account.after_minutes(timeout_minutes),
            timeout_minutes,
        }),
        parent: begin.parent_snapshot_id,
    };
    let answer = told(201, &started(account, &id, &snapshot));
    if let Some(token) = begin.client_token {
        state.remembered.insert((ACTION, token), Remembered { request, made: id.clone() });
    }
    account.show_later(&mut state, &id);
    state.snapshots.insert(id, snapshot);
    Ok(answer)
}

/// What is asked, whatever the order of its fields.
fn request_of(body: &[u8]) -> String {
    serde_json::from_slice::<Value>(body).map(|request| request.to_string()).unwrap_or_default()
}

fn started(account: &Account, id: &str, snapshot: &Snapshot) -> Value {
    let tags: Vec<Value> = snapshot.tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect();
    let mut told = json!({
        "SnapshotId": id,
        "OwnerId": account.options.account,
        "Status": account.snapshot_status(snapshot),
        "StartTime": snapshot.started_at.as_unix_milliseconds() / 1_000,
        "VolumeSize": snapshot.size_gib,
        "BlockSize": BLOCK_BYTES,
        "Description": snapshot.description,
        "Tags": tags,
    });
    if let (Some(parent), Some(told)) = (&snapshot.parent, told.as_object_mut()) {
        told.insert("ParentSnapshotId".to_owned(), Value::from(parent.clone()));
    }
    told
}

fn header<'a>(asked: &'a Asked<'_>, name: &str) -> Result<&'a str, Failure> {
    let value = asked.headers.get(name).and_then(|value| value.to_str().ok());
    value.ok_or_else(|| invalid("INVALID_PARAMETER_VALUE", format!("The header {name} is missing")))
}

fn put(account: &Arc<Account>, caller: &Caller, id: &str, number: &str, asked: &Asked<'_>) -> Result<Answer, Failure> {
    let number: u32 = number.parse().map_err(|_| invalid("INVALID_BLOCK", "The block's index is no number"))?;
    if header(asked, "x-amz-checksum-algorithm")? != "SHA256" {
        return Err(invalid("INVALID_PARAMETER_VALUE", "The only algorithm of checksums is SHA256"));
    }
    if asked.body.len() != BLOCK_BYTES || header(asked, "x-amz-data-length")? != BLOCK_BYTES.to_string() {
        return Err(invalid(
            "INVALID_BLOCK",
            format!("A block has {BLOCK_BYTES} bytes, and this one {}", asked.body.len()),
        ));
    }
    let digest: [u8; 32] = Sha256::digest(asked.body).into();
    let checksum = STANDARD.encode(digest);
    if header(asked, "x-amz-checksum")? != checksum {
        return Err(invalid("INVALID_CONTENT_ENCODING", "The block's checksum is not the one that is stated"));
    }
    let file = {
        let mut state = account.state();
        let snapshot = state.snapshots.get_mut(id).ok_or_else(|| missing(id))?;
        let ask = Ask::of("ebs:PutSnapshotBlock", account.arn("snapshot", id));
        account.require(caller, &Ask { resource_tags: Some(&snapshot.tags), ..ask })?;
        if u64::from(number) * BLOCK_BYTES as u64 >= u64::from(snapshot.size_gib) * GIB {
            return Err(invalid("INVALID_BLOCK", "The block is past the end of the volume"));
        }
        Arc::clone(&puts_of(id, snapshot)?.file)
    };
    // Outside of what others wait for.
    let block = file.add(asked.body, digest).map_err(Failure::internal)?;
    let mut state = account.state();
    let snapshot = state.snapshots.get_mut(id).ok_or_else(|| missing(id))?;
    let timeout_minutes = puts_of(id, snapshot)?.timeout_minutes;
    let expires_at = account.after_minutes(timeout_minutes);
    if let Some(puts) = &mut snapshot.puts {
        puts.blocks.insert(number, block);
        puts.expires_at = expires_at;
    }
    let headers = vec![("x-amz-checksum", checksum), ("x-amz-checksum-algorithm", "SHA256".to_owned())];
    Ok(Answer { status: 201, headers, body: Bytes::new() })
}

/// Where blocks go, as long as they may.
fn puts_of<'a>(id: &str, snapshot: &'a Snapshot) -> Result<&'a Puts, Failure> {
    let reason = match snapshot.state {
        SnapshotState::Error => "WRITE_REQUEST_TIMEOUT",
        SnapshotState::Pending | SnapshotState::CompletesAt(_) => "INVALID_SNAPSHOT_ID",
    };
    snapshot.puts.as_ref().ok_or_else(|| invalid(reason, format!("The snapshot {id} takes no blocks any more")))
}

fn complete(account: &Arc<Account>, caller: &Caller, id: &str, asked: &Asked<'_>) -> Result<Answer, Failure> {
    let count: usize = header(asked, "x-amz-changedblockscount")?
        .parse()
        .map_err(|_| invalid("INVALID_PARAMETER_VALUE", "The count of changed blocks is no number"))?;
    let stated = asked.headers.get("x-amz-checksum").and_then(|value| value.to_str().ok()).map(str::to_owned);
    if stated.is_some() {
        for (name, only) in [("x-amz-checksum-algorithm", "SHA256"), ("x-amz-checksum-aggregation-method", "LINEAR")] {
            if header(asked, name)? != only {
                return Err(invalid("INVALID_PARAMETER_VALUE", format!("{name} can be {only} only")));
            }
        }
    }
    let mut state = account.state();
    let settles_at = account.settles_at();
    let snapshot = state.snapshots.get_mut(id).ok_or_else(|| missing(id))?;
    let ask = Ask::of("ebs:CompleteSnapshot", account.arn("snapshot", id));
    account.require(caller, &Ask { resource_tags: Some(&snapshot.tags), ..ask })?;
    let puts = match snapshot.puts.take() {
        Some(puts) => puts,
        None if snapshot.volume != NO_VOLUME => {
            return Err(invalid("INVALID_SNAPSHOT_ID", format!("The snapshot {id} was not begun here")));
        }
        None if snapshot.state == SnapshotState::Error => {
            return Err(invalid("WRITE_REQUEST_TIMEOUT", format!("The snapshot {id} has failed")));
        }
        None if !account.options.completes_again => {
            return Err(invalid("INVALID_SNAPSHOT_ID", format!("The snapshot {id} is not pending")));
        }
        // It was completed before; asking again is no mistake.
        None => return Ok(told(202, &json!({"Status": account.snapshot_status(snapshot)}))),
    };
    let digests: Vec<u8> = puts.blocks.values().flat_map(|block| block.digest).collect();
    let aggregate = STANDARD.encode(Sha256::digest(&digests));
    if puts.blocks.len() != count || stated.is_some_and(|stated| stated != aggregate) {
        // It is found out later, when nobody waits for an answer.
        snapshot.state = SnapshotState::Error;
        return Ok(told(202, &json!({"Status": "pending"})));
    }
    for (number, block) in puts.blocks {
        snapshot.content.put(number, block);
    }
    snapshot.state = SnapshotState::CompletesAt(settles_at);
    Ok(told(202, &json!({"Status": "pending"})))
}

/// What is in a snapshot that can be read.
fn readable<'a>(
    account: &Account,
    caller: &Caller,
    action: &'static str,
    id: &str,
    snapshots: &'a BTreeMap<String, Snapshot>,
) -> Result<&'a Snapshot, Failure> {
    let snapshot = snapshots.get(id).ok_or_else(|| missing(id))?;
    let ask = Ask::of(action, account.arn("snapshot", id));
    account.require(caller, &Ask { resource_tags: Some(&snapshot.tags), ..ask })?;
    complete_one(account, id, snapshot)
}

fn complete_one<'a>(account: &Account, id: &str, snapshot: &'a Snapshot) -> Result<&'a Snapshot, Failure> {
    match account.snapshot_status(snapshot) {
        "completed" => Ok(snapshot),
        status => Err(invalid("INVALID_SNAPSHOT_ID", format!("The snapshot {id} is {status}"))),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Page {
    first_snapshot_id: Option<String>,
    max_results: Option<usize>,
    page_token: Option<String>,
    starting_block_index: Option<u32>,
}

impl Page {
    /// Where it begins, and how many are on it.
    fn window(&self, account: &Account, of: &str) -> Result<(u32, usize), Failure> {
        let limit = self.max_results.unwrap_or(10_000);
        if !(100..=10_000).contains(&limit) {
            return Err(invalid("INVALID_PARAMETER_VALUE", "maxResults is 100 to 10000"));
        }
        let Some(token) = &self.page_token else { return Ok((self.starting_block_index.unwrap_or(0), limit)) };
        let begin = account.open_token(of, token).ok().and_then(|begin| begin.parse().ok());
        Ok((begin.ok_or_else(|| invalid("INVALID_PAGE_TOKEN", "The page token is wrong or has expired"))?, limit))
    }

    /// One page of these blocks. It may have fewer than there is room for, or none, and go on all the same.
    fn answer(
        &self,
        account: &Account,
        of: &str,
        name: &str,
        size_gib: u32,
        numbers: impl Iterator<Item = u32>,
        block: impl Fn(u32) -> Value,
    ) -> Result<Answer, Failure> {
        let (begin, limit) = self.window(account, of)?;
        let mut rest = numbers.filter(|number| *number >= begin).peekable();
        let length = account.options.faults.page("EBS", account.count("page of EBS"), limit);
        let blocks: Vec<Value> = rest.by_ref().take(length).map(block).collect();
        let mut page = serde_json::Map::from_iter([
            (name.to_owned(), Value::from(blocks)),
            ("ExpiryTime".to_owned(), (account.block_tokens_expire_at().as_unix_milliseconds() / 1_000).into()),
            ("VolumeSize".to_owned(), size_gib.into()),
            ("BlockSize".to_owned(), BLOCK_BYTES.into()),
        ]);
        if let Some(next) = rest.next() {
            page.insert("NextToken".to_owned(), account.page_token(of, &next.to_string()).into());
        }
        Ok(told(200, &Value::Object(page)))
    }
}

fn list(account: &Arc<Account>, caller: &Caller, id: &str, asked: &Asked<'_>) -> Result<Answer, Failure> {
    let page: Page = query(asked)?;
    let state = account.state();
    let snapshot = readable(account, caller, "ebs:ListSnapshotBlocks", id, &state.snapshots)?;
    let numbers = snapshot.content.numbers();
    let block = |number: u32| json!({"BlockIndex": number, "BlockToken": account.block_token(id, number)});
    page.answer(account, &format!("list {id}"), "Blocks", snapshot.size_gib, numbers, block)
}

fn changed(account: &Arc<Account>, caller: &Caller, id: &str, asked: &Asked<'_>) -> Result<Answer, Failure> {
    const ACTION: &str = "ebs:ListChangedBlocks";
    let page: Page = query(asked)?;
    let none = || invalid("INVALID_PARAMETER_VALUE", "The first snapshot is not named");
    let first_id = page.first_snapshot_id.clone().ok_or_else(none)?;
    let state = account.state();
    let second = readable(account, caller, ACTION, id, &state.snapshots)?;
    let first = readable(account, caller, ACTION, &first_id, &state.snapshots)?;
    if first.line != second.line {
        return Err(invalid("UNRELATED_SNAPSHOTS", "The snapshots are not of one line"));
    }
    let faults = &account.options.faults;
    let changed = first.content.changed(&second.content, |number| faults.is_over_reported(number));
    let block = |number: u32| {
        let having = changed.get(&number).copied();
        let tokens = [
            ("FirstBlockToken", first_id.as_str(), having.is_some_and(|having| having.first)),
            ("SecondBlockToken", id, having.is_some_and(|having| having.second)),
        ];
        let tokens = tokens.into_iter().filter(|(.., is_there)| *is_there);
        let tokens = tokens.map(|(name, of, _)| (name.to_owned(), Value::from(account.block_token(of, number))));
        Value::Object(tokens.chain([("BlockIndex".to_owned(), Value::from(number))]).collect())
    };
    let of = format!("changed {first_id} {id}");
    page.answer(account, &of, "ChangedBlocks", second.size_gib, changed.keys().copied(), block)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Which {
    block_token: String,
}

fn get(account: &Arc<Account>, caller: &Caller, id: &str, number: &str, asked: &Asked<'_>) -> Result<Answer, Failure> {
    let Which { block_token } = query(asked)?;
    let number: u32 = number.parse().map_err(|_| invalid("INVALID_BLOCK", "The block's index is no number"))?;
    let block = {
        let state = account.state();
        let snapshot = readable(account, caller, "ebs:GetSnapshotBlock", id, &state.snapshots)?;
        if !account.is_block_token(id, number, &block_token) {
            return Err(invalid("INVALID_BLOCK_TOKEN", "The block token is wrong or has expired"));
        }
        let none = || invalid("INVALID_BLOCK", format!("The snapshot {id} has no block {number}"));
        snapshot.content.block(number).cloned().ok_or_else(none)?
    };
    let bytes = block.read().map_err(Failure::internal)?;
    let headers = vec![
        ("content-type", "application/octet-stream".to_owned()),
        ("x-amz-data-length", BLOCK_BYTES.to_string()),
        ("x-amz-checksum", STANDARD.encode(block.digest)),
        ("x-amz-checksum-algorithm", "SHA256".to_owned()),
    ];
    Ok(Answer { status: 200, headers, body: Bytes::from(bytes) })
}
