//! The calls of EC2.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    account::{Account, Caller},
    failure::Failure,
    model::{Image, Instance, InstanceState, Mapping, Remembered, Snapshot, SnapshotState, State, Volume},
    policy::{Ask, Tags},
    power::Power,
    query::{Node, Parameters, check_tags, passes, tag_set},
};

mod images;
mod instances;
mod places;
mod storage;

type Answer = Result<Node, Failure>;

/// Does what a call asks for.
///
/// # Errors
/// As EC2 would.
pub fn call(account: &Arc<Account>, caller: &Caller, action: &str, parameters: &mut Parameters) -> Answer {
    match action {
        "DescribeInstances" => instances::describe_instances(account, caller, parameters),
        "DescribeInstanceStatus" => instances::describe_instance_status(account, caller, parameters),
        "DescribeInstanceTypes" => places::describe_instance_types(account, caller, parameters),
        "DescribeVolumes" => storage::describe_volumes(account, caller, parameters),
        "DescribeSnapshots" => storage::describe_snapshots(account, caller, parameters),
        "DescribeImages" => images::describe_images(account, caller, parameters),
        "DescribeSubnets" => places::describe_subnets(account, caller, parameters),
        "DescribeSecurityGroups" => places::describe_security_groups(account, caller, parameters),
        "CreateSnapshots" => storage::create_snapshots(account, caller, parameters),
        "DeleteSnapshot" => storage::delete_snapshot(account, caller, parameters),
        "RegisterImage" => images::register_image(account, caller, parameters),
        "DeregisterImage" => images::deregister_image(account, caller, parameters),
        "RunInstances" => instances::run_instances(account, caller, parameters),
        "StartInstances" | "StopInstances" | "TerminateInstances" => {
            instances::change_instances(account, caller, action, parameters)
        }
        "GetConsoleOutput" => instances::get_console_output(account, caller, parameters),
        "DeleteVolume" => storage::delete_volume(account, caller, parameters),
        "CreateTags" => create_tags(account, caller, parameters),
        _ => Err(Failure::new(400, "InvalidAction", format!("The action {action} is not valid for this web service."))),
    }
}

fn field(name: &'static str, node: impl Into<Node>) -> (&'static str, Node) {
    (name, node.into())
}

/// Things by their ids, and the token of the next page.
type Page<T> = (Vec<(String, T)>, Option<String>);

/// One page of things.
fn page<T>(
    found: Vec<(String, T)>,
    parameters: &mut Parameters,
    account: &Account,
    by_id: bool,
) -> Result<Page<T>, Failure> {
    let (limit, token) = (parameters.number("MaxResults", 5..=1_000)?, parameters.get("NextToken"));
    if by_id && (limit.is_some() || token.is_some()) {
        let message = "The parameters of pages cannot be used with a list of ids";
        return Err(Failure::new(400, "InvalidParameterCombination", message));
    }
    // A token goes on with what it was given for.
    let purpose = parameters.text_without(&["MaxResults", "NextToken"]);
    let after = token.map(|token| account.open_token(&purpose, &token)).transpose()?.unwrap_or_default();
    let mut rest: Vec<_> = found.into_iter().filter(|(id, _)| *id > after).collect();
    let most = rest.len().min(limit.map_or(1_000, |limit| limit as usize));
    // Who asks for things by their ids gets all of them.
    let length = if by_id { most } else { account.options.faults.page("EC2", account.count("page of EC2"), most) };
    let next = (rest.len() > length).then(|| {
        let last = length.checked_sub(1).and_then(|last| rest.get(last)).map_or(&after, |(id, _)| id);
        account.page_token(&purpose, last)
    });
    rest.truncate(length);
    Ok((rest, next))
}

/// The things of these ids that pass the filters; an id that is not there, or cannot be seen yet, is an error.
fn select<'a, T>(
    account: &Account,
    state_of: &'a BTreeMap<String, T>,
    visible: &State,
    kind: &str,
    ids: &[String],
    keep: impl Fn(&str, &T) -> bool,
) -> Result<Vec<(String, &'a T)>, Failure> {
    for id in ids {
        if !state_of.contains_key(id) || !account.is_visible(visible, id) {
            return Err(Failure::not_found(kind, id));
        }
    }
    let mut found = Vec::new();
    for (id, thing) in state_of {
        if (ids.is_empty() || ids.contains(id)) && account.is_visible(visible, id) && keep(id, thing) {
            found.push((id.clone(), thing));
        }
    }
    Ok(found)
}

/// One of them, if it is there and can be seen.
fn find<'a, T>(
    account: &Account,
    of: &'a BTreeMap<String, T>,
    visible: &State,
    kind: &str,
    id: &str,
) -> Result<&'a T, Failure> {
    of.get(id).filter(|_| account.is_visible(visible, id)).ok_or_else(|| Failure::not_found(kind, id))
}

fn may_look(account: &Account, caller: &Caller, action: &'static str) -> Result<(), Failure> {
    account.require(caller, &Ask { action, resource: "*".to_owned(), ..Ask::default() })
}

fn with_next(mut fields: Vec<(&'static str, Node)>, next: Option<String>) -> Node {
    fields.extend(next.map(|token| field("nextToken", token)));
    Node::Fields(fields)
}

fn create_tags(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    let (ids, tags) = (parameters.list("ResourceId"), parameters.tags("Tag")?);
    parameters.finish()?;
    if ids.is_empty() || tags.is_empty() {
        return Err(Failure::new(400, "MissingParameter", "The request must contain ResourceId and Tag"));
    }
    let mut state = account.state();
    let mut changed = Vec::new();
    for id in &ids {
        let (kind, missing) = match id.split('-').next() {
            Some("i") => ("instance", "InstanceID"),
            Some("vol") => ("volume", "Volume"),
            Some("snap") => ("snapshot", "Snapshot"),
            Some("ami") => ("image", "AMIID"),
            _ => return Err(Failure::new(400, "InvalidID", format!("The ID '{id}' is not valid"))),
        };
        let is_visible = account.is_visible(&state, id);
        let own = state.tags_of(id).filter(|_| is_visible).ok_or_else(|| Failure::not_found(missing, id))?;
        let ask = Ask::of("ec2:CreateTags", account.arn(kind, id));
        account.require(caller, &Ask { resource_tags: Some(own), request_tags: Some(&tags), ..ask })?;
        let all: Tags = own.clone().into_iter().chain(tags.clone()).collect();
        check_tags(&all)?;
        changed.push((id, all));
    }
    for (id, all) in changed {
        if let Some(own) = state.tags_of(id) {
            *own = all;
        }
    }
    Ok(Node::Fields(vec![field("return", true)]))
}
