//! What EC2 answers, as far as it is looked at.

use serde::Deserialize;

/// A list: each of its things in an `item`.
#[derive(Debug, Clone, Deserialize)]
pub struct Items<T> {
    #[serde(rename = "item", default = "Vec::new")]
    items: Vec<T>,
}

impl<T> Default for Items<T> {
    fn default() -> Self {
        Self { items: Vec::new() }
    }
}

impl<T> Items<T> {
    /// The things.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.items.iter()
    }

    /// The things.
    pub fn into_vec(self) -> Vec<T> {
        self.items
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

/// The tags of a thing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct TagSet(Items<Tag>);

impl TagSet {
    /// The value of a tag; empty if there is none.
    pub fn get(&self, key: &str) -> &str {
        self.0.iter().find(|tag| tag.key == key).map_or("", |tag| &tag.value)
    }
}

/// What is not looked at.
#[derive(Debug, Deserialize)]
pub struct Nothing {}

/// A refusal.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Failures {
    errors: FailureList,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FailureList {
    error: Vec<Failure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    code: String,
    #[serde(default)]
    message: String,
}

impl Failures {
    /// Code and message of the first.
    pub fn first(self) -> Option<(String, String)> {
        self.errors.error.into_iter().next().map(|failure| (failure.code, failure.message))
    }
}

/// A page of a listing.
pub trait Page: serde::de::DeserializeOwned {
    /// What is listed.
    type Item;

    /// What is on it, and the token of the next.
    fn into_parts(self) -> (Vec<Self::Item>, Option<String>);
}

macro_rules! pages {
    ($($(#[$doc:meta])* $page:ident { $list:ident: $item:ty })*) => {
        $($(#[$doc])*
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $page {
            #[serde(default)]
            $list: Items<$item>,
            next_token: Option<String>,
        }

        impl Page for $page {
            type Item = $item;

            fn into_parts(self) -> (Vec<$item>, Option<String>) {
                (self.$list.into_vec(), self.next_token)
            }
        })*
    };
}

pages! {
    /// Of `DescribeSnapshots`, and what `CreateSnapshots` answers.
    Snapshots { snapshot_set: Snapshot }
    /// Of `DescribeVolumes`.
    Volumes { volume_set: Volume }
    /// Of `DescribeInstances`, and what `RunInstances` answers is one of them.
    Reservations { reservation_set: Reservation }
    /// Of `DescribeInstanceStatus`.
    InstanceStatuses { instance_status_set: InstanceStatus }
    /// Of `DescribeInstanceTypes`.
    InstanceTypes { instance_type_set: InstanceType }
    /// Of `DescribeImages`.
    Images { images_set: Image }
    /// Of `DescribeSubnets`.
    Subnets { subnet_set: Subnet }
    /// Of `DescribeSecurityGroups`.
    SecurityGroups { security_group_info: SecurityGroup }
}

/// A snapshot.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// `snap-...`
    pub snapshot_id: String,
    /// What it was made of.
    #[serde(default)]
    pub volume_id: String,
    /// `pending`, `completed` or `error`; when it was just made it is called `state`.
    #[serde(default, alias = "state")]
    pub status: String,
    /// Why it failed.
    #[serde(default)]
    pub status_message: String,
    /// In percent.
    #[serde(default)]
    pub progress: String,
    /// In GiB.
    pub volume_size: u64,
    /// Its tags.
    #[serde(default)]
    pub tag_set: TagSet,
}

/// A volume.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// `vol-...`
    pub volume_id: String,
    /// In GiB.
    pub size: u64,
    /// Such as `in-use`.
    #[serde(default)]
    pub status: String,
    /// Where it is attached.
    #[serde(default)]
    pub attachment_set: Items<Attachment>,
    /// Its tags.
    #[serde(default)]
    pub tag_set: TagSet,
}

/// Where a volume is attached.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// `i-...`
    #[serde(default)]
    pub instance_id: String,
    /// Such as `/dev/sda1`.
    #[serde(default)]
    pub device: String,
}

/// Instances that were started together.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// They.
    #[serde(default)]
    pub instances_set: Items<Instance>,
}

/// An instance.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// `i-...`
    pub instance_id: String,
    /// What it was made from.
    #[serde(default)]
    pub image_id: String,
    /// How far it is.
    pub instance_state: InstanceState,
    /// Such as `t3.large`.
    #[serde(default)]
    pub instance_type: String,
    /// The device that it boots from.
    #[serde(default)]
    pub root_device_name: String,
    /// `legacy-bios`, `uefi` or `uefi-preferred`.
    #[serde(default)]
    pub boot_mode: String,
    /// What it has booted by.
    #[serde(default)]
    pub current_instance_boot_mode: String,
    /// Why it is as it is.
    #[serde(default)]
    pub state_reason: StateReason,
    /// `spot` and others; empty if it is on demand.
    #[serde(default)]
    pub instance_lifecycle: String,
    /// On what hardware it runs.
    #[serde(default)]
    pub placement: InstancePlacement,
    /// Its processors.
    #[serde(default)]
    pub cpu_options: CpuOptions,
    /// Its network interfaces.
    #[serde(default)]
    pub network_interface_set: Items<NetworkInterface>,
    /// Its tags.
    #[serde(default)]
    pub tag_set: TagSet,
}

/// On what hardware an instance runs.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct InstancePlacement {
    /// `default`, `dedicated` or `host`.
    #[serde(default)]
    pub tenancy: String,
}

/// The processors of an instance.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CpuOptions {
    /// CPU cores; 0 if they are not told.
    #[serde(default)]
    pub core_count: u32,
    /// vCPUs for each core; 0 if they are not told.
    #[serde(default)]
    pub threads_per_core: u32,
}

/// How far an instance is.
#[derive(Debug, Clone, Deserialize)]
pub struct InstanceState {
    /// Such as `running`.
    pub name: String,
}

/// Why an instance is as it is.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct StateReason {
    /// A sentence.
    #[serde(default)]
    pub message: String,
}

/// A network interface.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkInterface {
    /// `eni-...`
    pub network_interface_id: String,
    /// Its hardware address.
    #[serde(default)]
    pub mac_address: String,
    /// Where it is.
    #[serde(default)]
    pub subnet_id: String,
    /// Its address there.
    #[serde(default)]
    pub private_ip_address: String,
}

/// Whether an instance can be reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    /// `i-...`
    pub instance_id: String,
    /// What EC2 finds out from outside the guest.
    pub instance_status: Checked,
}

/// The outcome of a check.
#[derive(Debug, Clone, Deserialize)]
pub struct Checked {
    /// Such as `ok` or `initializing`.
    pub status: String,
}

/// A type of instances.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceType {
    /// Such as `t3.large`.
    pub instance_type: String,
    /// Processors.
    pub v_cpu_info: Processors,
    /// Memory.
    pub memory_info: Memory,
    /// What they boot by.
    #[serde(default)]
    pub supported_boot_modes: Items<String>,
    /// What they are.
    #[serde(default)]
    pub processor_info: Architectures,
}

/// Processors.
#[derive(Debug, Clone, Deserialize)]
pub struct Processors {
    /// How many.
    #[serde(rename = "defaultVCpus", alias = "defaultVCPUs")]
    pub count: u32,
}

/// Memory.
#[derive(Debug, Clone, Deserialize)]
pub struct Memory {
    /// In MiB.
    #[serde(rename = "sizeInMiB")]
    pub mebibytes: u64,
}

/// Architectures.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Architectures {
    /// Such as `x86_64`.
    #[serde(default)]
    pub supported_architectures: Items<String>,
}

/// An image.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// `ami-...`
    pub image_id: String,
    /// `pending`, `available`, `failed` and others.
    pub image_state: String,
    /// Its disks.
    #[serde(default)]
    pub block_device_mapping: Items<Mapping>,
    /// Its tags.
    #[serde(default)]
    pub tag_set: TagSet,
}

/// A disk of an image.
#[derive(Debug, Clone, Deserialize)]
pub struct Mapping {
    /// What it is made from.
    pub ebs: Option<MappedVolume>,
}

/// What a disk of an image is made from.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MappedVolume {
    /// `snap-...`
    #[serde(default)]
    pub snapshot_id: String,
}

/// A subnet.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subnet {
    /// `subnet-...`
    pub subnet_id: String,
    /// Such as `10.0.1.0/24`.
    pub cidr_block: String,
}

/// A security group.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityGroup {
    /// `sg-...`
    pub group_id: String,
}

/// What `RegisterImage` answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registered {
    /// `ami-...`
    pub image_id: String,
}
