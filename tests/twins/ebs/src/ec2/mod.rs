//! The calls of EC2.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    account::{Account, Caller},
    failure::Failure,
    model::{Image, Instance, InstanceState, Mapping, Remembered, Snapshot, SnapshotState, State, Volume},
    policy::{Ask, Tags},
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
    let after = token.map(|token| account.open_token("page", &token)).transpose()?;
    let mut rest: Vec<_> = found.into_iter().filter(|(id, _)| after.as_ref().is_none_or(|after| id > after)).collect();
    let limit = limit.map_or(1_000, |limit| limit as usize);
    let next = (rest.len() > limit).then(|| rest.get(limit - 1).map(|(id, _)| account.token("page", id))).flatten();
    rest.truncate(limit);
    Ok((rest, next))
}

/// The things of these ids that pass the filters; an id that is not there, or cannot be seen yet, is an error.
fn select<'a, T>(
    account: &Account,
    state_of: &'a BTreeMap<String, T>,
    visible: &State,
    kind: &str,
    ids: &[String],
    keep: impl Fn(&str, &T) -> Result<bool, Failure>,
) -> Result<Vec<(String, &'a T)>, Failure> {
    for id in ids {
        if !state_of.contains_key(id) || !account.is_visible(visible, id) {
            return Err(Failure::not_found(kind, id));
        }
    }
    let mut found = Vec::new();
    for (id, thing) in state_of {
        if (ids.is_empty() || ids.contains(id)) && account.is_visible(visible, id) && keep(id, thing)? {
            found.push((id.clone(), thing));
        }
    }
    Ok(found)
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
    for id in &ids {
        let kind = match id.split('-').next() {
            Some("i") => "instance",
            Some("vol") => "volume",
            Some("snap") => "snapshot",
            Some("ami") => "image",
            _ => return Err(Failure::new(400, "InvalidID", format!("The ID '{id}' is not valid"))),
        };
        let own =
            state.tags_of(id).ok_or_else(|| Failure::new(400, "InvalidID", format!("The ID '{id}' is not valid")))?;
        let ask = Ask::of("ec2:CreateTags", account.arn(kind, id));
        account.require(caller, &Ask { resource_tags: Some(own), request_tags: Some(&tags), ..ask })?;
        let mut all = own.clone();
        all.extend(tags.clone());
        check_tags(&all)?;
        *own = all;
    }
    Ok(Node::Fields(vec![field("return", true)]))
}
