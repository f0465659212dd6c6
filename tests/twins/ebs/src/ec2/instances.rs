//! Instances: what there is, and their lives.

use std::path::Path;

use super::*;

const INSTANCE_FILTERS: [&str; 6] =
    ["instance-id", "instance-state-name", "image-id", "client-token", "subnet-id", "private-ip-address"];

pub(super) fn describe_instances(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    may_look(account, caller, "ec2:DescribeInstances")?;
    let (ids, filters) = (parameters.list("InstanceId"), parameters.filters(&INSTANCE_FILTERS)?);
    let mut state = account.state();
    account.look_after(&mut state);
    let keep = |id: &str, instance: &Instance| {
        passes(&filters, &instance.tags, |name| match name {
            "instance-id" => vec![id.to_owned()],
            "instance-state-name" => vec![instance.state.shown().1.to_owned()],
            "image-id" => vec![instance.image.clone()],
            "client-token" => instance.client_token.clone().into_iter().collect(),
            "subnet-id" => vec![instance.subnet.clone()],
            "private-ip-address" => vec![instance.address.clone()],
            _ => Vec::new(),
        })
    };
    let found = select(account, &state.instances, &state, "InstanceID", &ids, keep)?;
    let (found, next) = page(found, parameters, account, !ids.is_empty())?;
    let reservations = found.into_iter().map(|(id, instance)| reservation(account, &state, &id, instance)).collect();
    Ok(with_next(vec![("reservationSet", Node::List(reservations))], next))
}

fn reservation(account: &Account, state: &State, id: &str, instance: &Instance) -> Node {
    Node::Fields(vec![
        field("reservationId", id.replacen("i-", "r-", 1)),
        field("ownerId", account.options.account.clone()),
        ("groupSet", Node::List(Vec::new())),
        ("instancesSet", Node::List(vec![instance_node(account, state, id, instance)])),
    ])
}

fn state_node(state: InstanceState) -> Node {
    let (code, name) = state.shown();
    Node::Fields(vec![field("code", code), field("name", name)])
}

fn instance_node(account: &Account, state: &State, id: &str, instance: &Instance) -> Node {
    let groups = || {
        let item =
            |group: &String| Node::Fields(vec![field("groupId", group.clone()), field("groupName", group.clone())]);
        Node::List(instance.groups.iter().map(item).collect())
    };
    // What is being made is not attached yet.
    let is_attached = |volume: &Volume| volume.instance == id && instance.state != InstanceState::Pending;
    let disks = state.volumes.iter().filter(|(_, volume)| is_attached(volume)).map(|(id, volume)| {
        Node::Fields(vec![
            field("deviceName", volume.device.clone()),
            (
                "ebs",
                Node::Fields(vec![
                    field("volumeId", id.clone()),
                    field("status", "attached"),
                    field("attachTime", volume.created_at.to_string()),
                    field("deleteOnTermination", volume.delete_on_termination),
                ]),
            ),
        ])
    });
    let mut fields = vec![
        field("instanceId", id),
        field("imageId", instance.image.clone()),
        ("instanceState", state_node(instance.state)),
        field("instanceType", instance.kind.clone()),
        field("launchTime", instance.launched_at.to_string()),
        (
            "placement",
            Node::Fields(vec![field("availabilityZone", account.options.zone.clone()), field("tenancy", "default")]),
        ),
        field("architecture", "x86_64"),
        field("rootDeviceType", "ebs"),
        field("rootDeviceName", instance.root_device.clone()),
        ("blockDeviceMapping", Node::List(disks.collect())),
        field("virtualizationType", "hvm"),
        field("clientToken", instance.client_token.clone().unwrap_or_default()),
        ("tagSet", tag_set(&instance.tags)),
        ("groupSet", groups()),
        (
            "cpuOptions",
            Node::Fields(vec![field("coreCount", instance.cores), field("threadsPerCore", instance.threads_per_core)]),
        ),
        field("bootMode", instance.boot_mode.clone()),
        field("currentInstanceBootMode", instance.boot_mode.clone()),
        (
            "stateReason",
            Node::Fields(vec![
                field("code", instance.reason.split(':').next().unwrap_or_default()),
                field("message", instance.reason.clone()),
            ]),
        ),
    ];
    // Of on-demand instances nothing is said.
    if instance.is_spot {
        fields.push(field("instanceLifecycle", "spot"));
    }
    // The network interface went with the instance.
    if instance.state != InstanceState::Terminated {
        let interface = Node::Fields(vec![
            field("networkInterfaceId", id.replacen("i-", "eni-", 1)),
            field("subnetId", instance.subnet.clone()),
            field("vpcId", "vpc-0twin"),
            field("macAddress", instance.mac.clone()),
            field("privateIpAddress", instance.address.clone()),
            ("groupSet", groups()),
            ("attachment", Node::Fields(vec![field("deviceIndex", 0), field("status", "attached")])),
        ]);
        fields.push(field("subnetId", instance.subnet.clone()));
        fields.push(field("vpcId", "vpc-0twin"));
        fields.push(field("privateIpAddress", instance.address.clone()));
        fields.push(("networkInterfaceSet", Node::List(vec![interface])));
    }
    Node::Fields(fields)
}

pub(super) fn describe_instance_status(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    may_look(account, caller, "ec2:DescribeInstanceStatus")?;
    let ids = parameters.list("InstanceId");
    let all = parameters.truth("IncludeAllInstances")?.unwrap_or(false);
    let mut state = account.state();
    account.look_after(&mut state);
    let keep = |_: &str, instance: &Instance| all || instance.state == InstanceState::Running;
    let found = select(account, &state.instances, &state, "InstanceID", &ids, keep)?;
    let (found, next) = page(found, parameters, account, !ids.is_empty())?;
    let items = found.into_iter().map(|(id, instance)| {
        // What is checked is whether the machine is reachable, not what its programs do.
        let checked = match instance.state {
            InstanceState::Running if account.has_booted(instance) => "ok",
            InstanceState::Running => "initializing",
            _ => "not-applicable",
        };
        let status = || Node::Fields(vec![field("status", checked)]);
        Node::Fields(vec![
            field("instanceId", id),
            ("instanceState", state_node(instance.state)),
            ("systemStatus", status()),
            ("instanceStatus", status()),
        ])
    });
    let items = items.collect();
    Ok(with_next(vec![("instanceStatusSet", Node::List(items))], next))
}

/// What `RunInstances` is asked for.
struct Run {
    image: String,
    kind: String,
    is_spot: bool,
    /// Cores, and vCPUs for each of them, if the caller chooses them.
    cpus: Option<(u32, u32)>,
    subnet: String,
    groups: Vec<String>,
    address: Option<String>,
    client_token: Option<String>,
    tags: Tags,
    of_volumes: Tags,
    /// All of it but the client token.
    request: String,
}

impl Run {
    const ACTION: &str = "ec2:RunInstances";

    fn read(parameters: &mut Parameters) -> Result<Self, Failure> {
        for count in ["MinCount", "MaxCount"] {
            parameters.require(count)?;
            parameters.number(count, 1..=1)?;
        }
        let mut tags = parameters.tag_specifications(&["instance", "volume"])?;
        let [own, of_volumes] = ["instance", "volume"].map(|kind| tags.remove(kind).unwrap_or_default());
        let market = parameters.get("InstanceMarketOptions.MarketType");
        if let Some(other) = market.as_ref().filter(|market| *market != "spot") {
            return Err(Failure::new(400, "UnsupportedByTwin", format!("This twin has no market '{other}'")));
        }
        let cores = parameters.number("CpuOptions.CoreCount", 1..=256)?;
        let threads = parameters.number("CpuOptions.ThreadsPerCore", 1..=places::THREADS_PER_CORE)?;
        if cores.is_some() != threads.is_some() {
            return Err(Failure::invalid("CpuOptions needs both CoreCount and ThreadsPerCore"));
        }
        let run = Self {
            image: parameters.require("ImageId")?,
            kind: parameters.require("InstanceType")?,
            is_spot: market.is_some(),
            cpus: cores.zip(threads),
            subnet: parameters.require("SubnetId")?,
            groups: parameters.list("SecurityGroupId"),
            address: parameters.get("PrivateIpAddress"),
            client_token: parameters.client_token()?,
            tags: own,
            of_volumes,
            request: parameters.text_without(&["ClientToken"]),
        };
        parameters.finish()?;
        Ok(run)
    }

    /// The instance that the same call has made before.
    fn made_before(&self, state: &State) -> Result<Option<String>, Failure> {
        let token = self.client_token.clone().unwrap_or_default();
        match state.remembered.get(&(Self::ACTION, token)) {
            Some(known) if known.request != self.request => {
                let message = "The request uses the same client token as a previous, but non-identical request";
                Err(Failure::new(400, "IdempotentParameterMismatch", message))
            }
            known => Ok(known.map(|known| known.made.clone())),
        }
    }

    /// Whether the caller may, and whether there is what it names.
    fn check(&self, account: &Account, caller: &Caller, state: &State, image: &Image) -> Result<(), Failure> {
        let own = Ask::of(Self::ACTION, account.arn("image", &self.image));
        account.require(caller, &Ask { resource_tags: Some(&image.tags), ..own })?;
        // The reference has snapshots as resources, and does not say whether an image's are asked for: here they are.
        for id in image.mappings.iter().map(|mapping| &mapping.snapshot) {
            let snapshot = state.snapshots.get(id).ok_or_else(|| Failure::not_found("Snapshot", id))?;
            let ask = Ask::of(Self::ACTION, account.arn("snapshot", id));
            account.require(caller, &Ask { resource_tags: Some(&snapshot.tags), ..ask })?;
        }
        let subnet = account.options.subnets.iter().find(|subnet| subnet.id == self.subnet);
        let subnet = subnet.ok_or_else(|| Failure::not_found("SubnetID", &self.subnet))?;
        let ask = Ask::of(Self::ACTION, account.arn("subnet", &subnet.id));
        account.require(caller, &Ask { resource_tags: Some(&subnet.tags), ..ask })?;
        let context = vec![("ec2:Subnet", account.arn("subnet", &subnet.id))];
        let ask = Ask::of(Self::ACTION, account.arn("network-interface", "*"));
        account.require(caller, &Ask { context, ..ask })?;
        for group in &self.groups {
            let tags = account.options.groups.get(group).ok_or_else(|| Failure::not_found("Group", group))?;
            let ask = Ask::of(Self::ACTION, account.arn("security-group", group));
            account.require(caller, &Ask { resource_tags: Some(tags), ..ask })?;
        }
        for (resource, tags) in [("instance", &self.tags), ("volume", &self.of_volumes)] {
            let ask = Ask::of(Self::ACTION, account.arn(resource, "*"));
            account.require(caller, &Ask { request_tags: Some(tags), ..ask })?;
            account.require_tags(caller, Some("RunInstances"), resource, tags)?;
        }
        self.cpus().map(drop)
    }

    /// Cores, and vCPUs for each of them.
    fn cpus(&self) -> Result<(u32, u32), Failure> {
        let kind = places::TYPES.iter().find(|(name, ..)| *name == self.kind);
        let unknown = || Failure::invalid(format!("Invalid value '{}' for InstanceType.", self.kind));
        let cores_max = kind.ok_or_else(unknown)?.1 / places::THREADS_PER_CORE;
        let (cores, threads) = self.cpus.unwrap_or((cores_max, places::THREADS_PER_CORE));
        if cores > cores_max {
            return Err(Failure::invalid(format!("{} has at most {cores_max} CPU cores, not {cores}", self.kind)));
        }
        Ok((cores, threads))
    }

    /// The volumes of an instance, whose files are made when it starts.
    fn volumes(
        &self,
        account: &Account,
        state: &State,
        image: &Image,
        own: &str,
        folder: &Path,
    ) -> Result<Vec<Volume>, Failure> {
        let volumes = image.mappings.iter().map(|mapping| {
            let snapshot = state.snapshots.get(&mapping.snapshot);
            let snapshot = snapshot.ok_or_else(|| Failure::not_found("Snapshot", &mapping.snapshot))?;
            Ok(Volume {
                size_gib: mapping.size_gib,
                snapshot: Some(mapping.snapshot.clone()),
                line: snapshot.line.clone(),
                newest: snapshot.content.clone(),
                frozen_at: None,
                file: folder.join(format!("{}.raw", mapping.device.replace('/', "-"))),
                instance: own.to_owned(),
                device: mapping.device.clone(),
                delete_on_termination: mapping.delete_on_termination,
                tags: self.of_volumes.clone(),
                created_at: account.now(),
            })
        });
        volumes.collect()
    }
}

pub(super) fn run_instances(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    let run = Run::read(parameters)?;
    let mut state = account.state();
    account.look_after(&mut state);
    let image = find(account, &state.images, &state, "AMIID", &run.image)?.clone();
    run.check(account, caller, &state, &image)?;
    if let Some(made) = run.made_before(&state)? {
        let instance = state.instances.get(&made).ok_or_else(|| Failure::not_found("InstanceID", &made))?;
        return Ok(reservation(account, &state, &made, instance));
    }
    if image.available_at > account.now() {
        return Err(Failure::new(400, "InvalidAMIID.Unavailable", format!("The image {} is pending", run.image)));
    }
    if account.options.runs && image.boot_mode == "uefi" {
        return Err(Failure::new(400, "UnsupportedByTwin", "Instances boot by a BIOS in this twin"));
    }
    let address = account.free_address(&state, &run.subnet, run.address.clone())?;
    let (cores, threads_per_core) = run.cpus()?;
    let id = account.new_id("i");
    let folder = account.options.folder.join(&id);
    std::fs::create_dir_all(&folder).map_err(Failure::internal)?;
    for volume in run.volumes(account, &state, &image, &id, &folder)? {
        let id = account.new_id("vol");
        account.show_later(&mut state, &id);
        state.volumes.insert(id, volume);
    }
    if let Some(token) = run.client_token.clone() {
        let known = Remembered { request: run.request, made: id.clone() };
        state.remembered.insert((Run::ACTION, token), known);
    }
    let instance = Instance {
        image: run.image,
        kind: run.kind,
        is_spot: run.is_spot,
        cores,
        threads_per_core,
        subnet: run.subnet,
        address,
        groups: run.groups,
        mac: account.new_mac(),
        boot_mode: image.boot_mode,
        root_device: image.root_device,
        state: InstanceState::Pending,
        tags: run.tags,
        client_token: run.client_token,
        launched_at: account.now(),
        reason: String::new(),
        power: Power::new(folder),
    };
    let shown = reservation(account, &state, &id, &instance);
    account.show_later(&mut state, &id);
    state.instances.insert(id.clone(), instance);
    account.power_on(id);
    Ok(shown)
}

pub(super) fn change_instances(
    account: &Arc<Account>,
    caller: &Caller,
    action: &str,
    parameters: &mut Parameters,
) -> Answer {
    let ids = parameters.list("InstanceId");
    let forced = action == "StopInstances" && parameters.truth("Force")?.unwrap_or(false);
    if ids.is_empty() {
        return Err(Failure::new(400, "MissingParameter", "The request must contain the parameter InstanceId"));
    }
    parameters.finish()?;
    let mut state = account.state();
    account.look_after(&mut state);
    for id in &ids {
        let instance = find(account, &state.instances, &state, "InstanceID", id)?;
        let full = format!("ec2:{action}");
        account.require(
            caller,
            &Ask { resource_tags: Some(&instance.tags), ..Ask::of(&full, account.arn("instance", id)) },
        )?;
        let fits = match action {
            "TerminateInstances" => true,
            "StartInstances" => {
                matches!(instance.state, InstanceState::Stopped | InstanceState::Running | InstanceState::Pending)
            }
            _ => !matches!(
                instance.state,
                InstanceState::Pending | InstanceState::ShuttingDown | InstanceState::Terminated
            ),
        };
        if !fits {
            let message = format!(
                "The instance '{id}' is not in a state from which it can be changed so: it is {}",
                instance.state.shown().1
            );
            return Err(Failure::new(400, "IncorrectInstanceState", message));
        }
    }
    let mut items = Vec::new();
    for id in ids {
        let before = state.instances.get(&id).map(|instance| instance.state);
        match action {
            "StartInstances" => account.start(&mut state, &id),
            "StopInstances" => account.stop(&mut state, &id, forced),
            _ => account.terminate(&mut state, &id),
        }
        let after = state.instances.get(&id).map(|instance| instance.state);
        items.push(Node::Fields(vec![
            field("instanceId", id),
            ("currentState", state_node(after.unwrap_or(InstanceState::Terminated))),
            ("previousState", state_node(before.unwrap_or(InstanceState::Terminated))),
        ]));
    }
    Ok(Node::Fields(vec![("instancesSet", Node::List(items))]))
}

pub(super) fn get_console_output(account: &Arc<Account>, caller: &Caller, parameters: &mut Parameters) -> Answer {
    let id = parameters.require("InstanceId")?;
    let _newest = parameters.truth("Latest")?;
    let state = account.state();
    let instance = find(account, &state.instances, &state, "InstanceID", &id)?;
    let resource = account.arn("instance", &id);
    account
        .require(caller, &Ask { resource_tags: Some(&instance.tags), ..Ask::of("ec2:GetConsoleOutput", resource) })?;
    let text = instance.power.console();
    let last = text.get(text.len().saturating_sub(64 * 1024)..).unwrap_or_default();
    Ok(Node::Fields(vec![
        field("instanceId", id),
        field("timestamp", account.now().to_string()),
        field("output", STANDARD.encode(last)),
    ]))
}
