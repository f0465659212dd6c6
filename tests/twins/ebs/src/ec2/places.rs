//! Where instances can be, and as what.

use super::*;

/// The types of instances here: processors, two for each core, and memory in MiB.
pub(super) const TYPES: [(&str, u32, u32); 6] = [
    ("t3.micro", 2, 1_024),
    ("t3.large", 2, 8_192),
    ("m5.4xlarge", 16, 65_536),
    ("inf1.xlarge", 4, 8_192),
    ("g4dn.xlarge", 4, 16_384),
    ("mac1.metal", 12, 32_768),
];
/// How many processors a core has.
pub(super) const THREADS_PER_CORE: u32 = 2;

pub(super) fn describe_instance_types(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    may_look(account, caller, "ec2:DescribeInstanceTypes")?;
    let wanted = parameters.list("InstanceType");
    if let Some(unknown) = wanted.iter().find(|wanted| !TYPES.iter().any(|(name, ..)| name == wanted)) {
        let message = format!("The following supplied instance types do not exist: [{unknown}]");
        return Err(Failure::new(400, "InvalidInstanceType", message));
    }
    let found = TYPES.iter().filter(|(name, ..)| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name));
    let found = found.map(|found| (found.0.to_owned(), found)).collect();
    let (found, next) = page(found, parameters, account, !wanted.is_empty())?;
    let items = found.into_iter().map(|(name, (_, processors, mebibytes))| {
        Node::Fields(vec![
            field("instanceType", name),
            ("vCpuInfo", Node::Fields(vec![field("defaultVCpus", *processors)])),
            ("memoryInfo", Node::Fields(vec![field("sizeInMiB", *mebibytes)])),
            ("processorInfo", Node::Fields(vec![("supportedArchitectures", Node::List(vec!["x86_64".into()]))])),
            ("supportedBootModes", Node::List(vec!["legacy-bios".into(), "uefi".into()])),
        ])
    });
    let items = items.collect();
    Ok(with_next(vec![("instanceTypeSet", Node::List(items))], next))
}

pub(super) fn describe_subnets(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    may_look(account, caller, "ec2:DescribeSubnets")?;
    let ids = parameters.list("SubnetId");
    let known = &account.options.subnets;
    if let Some(unknown) = ids.iter().find(|id| !known.iter().any(|subnet| subnet.id == **id)) {
        return Err(Failure::not_found("SubnetID", unknown));
    }
    let found = known.iter().filter(|subnet| ids.is_empty() || ids.contains(&subnet.id));
    let found = found.map(|subnet| (subnet.id.clone(), subnet)).collect();
    let (found, next) = page(found, parameters, account, !ids.is_empty())?;
    let items = found.into_iter().map(|(id, subnet)| {
        Node::Fields(vec![
            field("subnetId", id),
            field("state", "available"),
            field("vpcId", "vpc-0twin"),
            field("cidrBlock", subnet.cidr.clone()),
            field("availabilityZone", account.options.zone.clone()),
            ("tagSet", tag_set(&subnet.tags)),
        ])
    });
    let items = items.collect();
    Ok(with_next(vec![("subnetSet", Node::List(items))], next))
}

pub(super) fn describe_security_groups(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    may_look(account, caller, "ec2:DescribeSecurityGroups")?;
    let ids = parameters.list("GroupId");
    let known = &account.options.groups;
    if let Some(unknown) = ids.iter().find(|id| !known.contains_key(*id)) {
        return Err(Failure::not_found("Group", unknown));
    }
    let found = known.iter().filter(|(group, _)| ids.is_empty() || ids.contains(group));
    let found = found.map(|(group, tags)| (group.clone(), tags)).collect();
    let (found, next) = page(found, parameters, account, !ids.is_empty())?;
    let items = found.into_iter().map(|(id, tags)| {
        Node::Fields(vec![
            field("groupId", id.clone()),
            field("groupName", id),
            field("vpcId", "vpc-0twin"),
            ("tagSet", tag_set(tags)),
        ])
    });
    let items = items.collect();
    Ok(with_next(vec![("securityGroupInfo", Node::List(items))], next))
}
