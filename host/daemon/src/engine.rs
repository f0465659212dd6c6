//! What replicates groups, put together from a configuration: the vault, the adapters, the capsule.
//!
//! A command that replicates once and the daemon that runs for years use the same.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use farshore_core::{Clock, Consistency, Entropy, GroupName, SiteName, Throttle};
use farshore_plugin::Mode;
use farshore_replication::{
    ApplicationPoints, CopyLimits, CycleObserver, Doubt, FailingMachine, Link, Newest, Objective, Outage, OutageMemory,
    PointStatus, Protection, Replicator, Suspensions, Turns,
};
use farshore_spool::SpoolRoom;
use farshore_vault::{CapsuleDraft, Lineage, Power, Vault};

use crate::{
    adapters::Adapters,
    capsule,
    command::state_folder,
    config::{Configuration, Group},
    context::Context,
    output::Failure,
    vault::{self, Needs},
};

/// A vault that does not say in this time how old a group's newest point is, is not waited for.
const NEWEST_ASKED_MAX: Duration = Duration::from_secs(10);

/// So many groups are asked for in the vault at once.
pub const GROUPS_ASKED_AT_ONCE: usize = 16;

/// After a long pause a cycle reads no more again than falls to so many objectives.
const DOUBTED_OBJECTIVES_MAX: u32 = 4;

/// What replicates groups.
pub struct Engine {
    /// Where the points go.
    pub vault: Arc<Vault>,
    adapters: Adapters,
    capsule: Vec<CapsuleDraft>,
    state_folder: PathBuf,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    lasting: Lasting,
}

/// What outlives a change of the configuration.
#[derive(Clone)]
struct Lasting {
    /// Where points wait; none if it cannot be used.
    room: Option<Arc<SpoolRoom>>,
    link: Arc<Link>,
    /// How fast each site is read.
    reads: BTreeMap<SiteName, Arc<Throttle>>,
    /// What is known of each group's outages.
    memories: BTreeMap<GroupName, Arc<OutageMemory>>,
    /// The machines that each group goes on without.
    suspensions: BTreeMap<GroupName, Arc<Suspensions>>,
    /// Whether what is sent to the vault has a limit that can be changed.
    is_limited: bool,
}

impl Engine {
    /// Opens the vault as a replicator, and puts the rest together.
    ///
    /// # Errors
    /// When the vault cannot be opened, or the machine cannot run components.
    pub async fn open(context: &Context, configuration: &Configuration) -> Result<Self, Failure> {
        let vault = vault::open(context, configuration, Needs::Powers(&[Power::Replicator])).await?;
        let room = SpoolRoom::open(configuration.spool_folder(), configuration.host.spool.limit);
        let room = room.inspect_err(|error| {
            let failure = Failure::describe(error);
            let why = failure.in_a_line();
            context.output.warn(&format!("points cannot wait if the vault is lost: [{}] {why}", failure.code));
        });
        let is_limited = configuration.vault.bandwidth.says_something();
        let (link, reads, memories, suspensions) = Default::default();
        let lasting = Lasting { room: room.ok(), link, reads, memories, suspensions, is_limited };
        Self::of(context, configuration, vault, lasting)
    }

    /// What replicates by another configuration into the same vault.
    ///
    /// # Errors
    /// When the machine cannot run components, or a folder cannot be made.
    pub fn again(&self, context: &Context, configuration: &Configuration) -> Result<Self, Failure> {
        Self::of(context, configuration, Arc::clone(&self.vault), self.lasting.clone())
    }

    /// Whether what is sent to the vault has a limit that can be changed.
    pub const fn is_limited(&self) -> bool {
        self.lasting.is_limited
    }

    /// From now on these limits hold of bytes that wait and that are read, also for cycles that run.
    pub fn limit(&self, configuration: &Configuration) {
        if let Some(room) = &self.lasting.room {
            room.limit(configuration.host.spool.limit);
        }
        for (name, throttle) in &self.lasting.reads {
            let bandwidth = configuration.sites.get(name).map(|site| site.bandwidth.clone()).unwrap_or_default();
            throttle.set(bandwidth.limits(&configuration.host.time_zone));
        }
    }

    fn of(
        context: &Context,
        configuration: &Configuration,
        vault: Arc<Vault>,
        mut lasting: Lasting,
    ) -> Result<Self, Failure> {
        let state_folder = state_folder(configuration)?;
        let adapters = Adapters::new(context, configuration)?;
        let capsule = capsule::gather(configuration);
        capsule.warnings.iter().for_each(|warning| context.output.warn(warning));
        let (clock, entropy) = (Arc::clone(&context.clock), Arc::clone(&context.entropy));
        for (name, site) in &configuration.sites {
            let limits = || site.bandwidth.limits(&configuration.host.time_zone);
            let throttle = || Arc::new(Throttle::new(Arc::clone(&clock), limits()));
            lasting.reads.entry(name.clone()).or_insert_with(throttle);
        }
        lasting.suspensions.retain(|name, _| configuration.groups.contains_key(name));
        for (name, group) in &configuration.groups {
            lasting.memories.entry(name.clone()).or_default();
            match group.failing_machine {
                FailingMachine::StopGroup => drop(lasting.suspensions.remove(name)),
                FailingMachine::Suspend => lasting.suspensions.entry(name.clone()).or_default().retain(&group.machines),
            }
        }
        Ok(Self { vault, adapters, capsule: capsule.items, state_folder, clock, entropy, lasting })
    }

    /// What replicates a group. Contacts no platform.
    ///
    /// # Errors
    /// When its site's adapter or settings cannot be used.
    pub async fn replicator(
        &mut self,
        configuration: &Configuration,
        name: &GroupName,
        group: &Group,
        observer: Arc<dyn CycleObserver>,
    ) -> Result<Replicator, Failure> {
        let source = self.adapters.open(configuration, &group.site, Mode::Protect).await?;
        Ok(Replicator {
            vault: Arc::clone(&self.vault),
            source,
            protection: Protection {
                group: name.clone(),
                machines: group.machines.clone(),
                consistency: group.consistency,
                stall_limit: group.stall_limit,
                doubt: Some(Doubt {
                    within: group.verify_within,
                    at_once_max: group.rpo.saturating_mul(DOUBTED_OBJECTIVES_MAX),
                }),
            },
            capsule: self.capsule.clone(),
            state_folder: self.state_folder.clone(),
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            observer,
            limits: CopyLimits { pace: self.lasting.reads.get(&group.site).cloned(), ..CopyLimits::default() },
            outage: self.lasting.room.clone().map(|room| Outage {
                room,
                link: Arc::clone(&self.lasting.link),
                catch_up: group.catch_up,
                objective: group.rpo,
                memory: self.lasting.memories.get(name).cloned().unwrap_or_default(),
            }),
            suspensions: match group.failing_machine {
                FailingMachine::StopGroup => None,
                FailingMachine::Suspend => Some(self.lasting.suspensions.get(name).cloned().unwrap_or_default()),
            },
        })
    }
}

/// How a group's turns are given. Until more is known it is no first copy.
pub fn turns(group: &Group) -> Turns {
    let (site, objective) = (group.site.clone(), Objective { rpo: group.rpo });
    Turns { site, objective, priority: group.priority, newest_age: Some(Duration::ZERO) }
}

/// How many of a group's newest points are looked through for one that is application-consistent.
const APPLICATION_LOOKED_FOR_MAX: usize = 100;

/// The application-consistent points of a group, if they have a schedule of their own.
pub async fn application(
    vault: &Vault,
    name: &GroupName,
    group: &Group,
    clock: &dyn Clock,
) -> Option<ApplicationPoints> {
    let every = group.application_every?;
    let newest = async {
        let lineage = vault.lineage(name).await.ok()??;
        let points = lineage.list_points(None, APPLICATION_LOOKED_FOR_MAX).await.ok()?;
        let mut points = points.into_iter().filter_map(|(_, point)| point.ok());
        points.find(|point| point.consistency == Consistency::Application).map(|point| point.captured_at)
    };
    // A vault that does not say is like one that has none: such a point more is no harm.
    let newest = tokio::select! {
        newest = newest => newest,
        () = clock.sleep(NEWEST_ASKED_MAX) => None,
    };
    Some(ApplicationPoints { every, newest_age: newest.map(|captured_at| clock.now().since(captured_at)) })
}

/// How many groups of each site are replicated at once, where the configuration says it.
pub fn site_limits(configuration: &Configuration) -> BTreeMap<SiteName, usize> {
    let sites = configuration.sites.iter();
    sites.filter_map(|(name, site)| Some((name.clone(), site.concurrent_cycles?.into()))).collect()
}

/// What the vault says of a group's newest point.
pub async fn newest(vault: &Vault, group: &GroupName, clock: &dyn Clock) -> Newest {
    let read = async {
        let Some(lineage) = vault.lineage(group).await? else { return Ok(Newest::None) };
        newest_of(&lineage).await
    };
    tokio::select! {
        biased;
        read = read => read.unwrap_or(Newest::Unknown),
        () = clock.sleep(NEWEST_ASKED_MAX) => Newest::Unknown,
    }
}

/// What a lineage says of its newest point.
///
/// # Errors
/// What the vault says.
pub async fn newest_of(lineage: &Lineage) -> farshore_vault::Result<Newest> {
    match lineage.head().await?.newest_point {
        Some(sequence) => Ok(Newest::Point(PointStatus::from(&lineage.point(sequence).await?))),
        None => Ok(Newest::None),
    }
}
