//! A replicator: it commits points of its groups' guests, and fights with others for the groups that they share.
//!
//! Like the product's, it sends what its guest's tracking says has changed since the parent if the parent is the point
//! that it committed last, and everything otherwise. A process that has just started trusts no tracking.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use farshore_core::{
    Basis, Consistency, DiskId, Extent, Firmware, Generation, GroupName, Instant, Machine, MachineId, PowerState,
    SiteName,
};
use farshore_vault::{Error, Lineage, PointDetails, PointDiskDraft, PointMachineDraft, PointWriter};

use super::{Actor, Desk, Trying};
use crate::{
    content::{CHUNK, DISKS, Guest},
    dice::Dice,
    history::{Attempt, AttemptId, Fate, Task, attempt_of, description, note},
    template::{Host, SHARED_GROUPS, SITES, group, site},
    world::{Phase, World},
};

/// How many rounds it has while things go wrong.
const ROUNDS: u64 = 8;

/// And in a busy world.
const ROUNDS_BUSY: u64 = 24;

/// The longest that a capture is read.
const READING_MAX: Duration = Duration::from_secs(20);

/// See the module.
#[derive(Debug)]
pub struct Replicator {
    host: Host,
    site: SiteName,
    groups: Vec<GroupName>,
    guests: BTreeMap<GroupName, Mutex<Guest>>,
    rounds: Mutex<u64>,
}

/// What a process of it knows.
#[derive(Debug, Default)]
struct Memory {
    /// The generation in which it took itself to be active.
    generations: BTreeMap<GroupName, Generation>,
    /// The attempt since which the guest's tracking counts.
    bases: BTreeMap<GroupName, AttemptId>,
}

/// The group that only this replicator writes.
pub fn own_group(number: usize) -> GroupName {
    group(&format!("solo-{number}"))
}

impl Replicator {
    /// The replicator of this number, with the groups that the seed gives it: its own, and at least one that is shared.
    pub fn new(world: &World, number: usize) -> Arc<Self> {
        let host = Host::Replicator(number);
        let dice = world.dice(&format!("groups of {number}"));
        let mut groups: Vec<_> = SHARED_GROUPS.iter().filter(|_| dice.permille(700)).map(|name| group(name)).collect();
        if world.is_busy() {
            groups = vec![group(SHARED_GROUPS[0])];
        } else if groups.is_empty() {
            let name: &&str = dice.pick(&SHARED_GROUPS);
            groups.push(group(name));
        }
        if !world.is_busy() && dice.permille(500) {
            groups.push(own_group(number));
        }
        let make = if world.is_busy() { Guest::wide } else { Guest::new };
        let guest = |name: &GroupName| (name.clone(), Mutex::new(make(&world.dice(&format!("guest {name} {number}")))));
        let guests = groups.iter().map(guest).collect();
        let rounds = if world.is_busy() { ROUNDS_BUSY } else { ROUNDS };
        Arc::new(Self { host, site: site(SITES[host.site()]), groups, guests, rounds: Mutex::new(rounds) })
    }

    /// Its groups.
    pub fn groups(&self) -> &[GroupName] {
        &self.groups
    }

    fn take_round(&self) -> bool {
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        let left = *rounds > 0;
        *rounds = rounds.saturating_sub(1);
        left
    }

    /// One cycle for a group. False if it is not this site's to write.
    async fn cycle(&self, desk: &mut Desk, memory: &mut Memory, group: &GroupName) -> Result<bool, Error> {
        let vault = desk.vault().await?;
        let is_own = !SHARED_GROUPS.contains(&group.as_str());
        let lineage = match vault.lineage(group).await? {
            Some(lineage) => lineage,
            None if is_own => vault.create_lineage(group, &self.site).await?,
            None => return Ok(false),
        };
        desk.world.history().groups.insert(group.clone());
        // A writer that does not look again is the one that fencing is for.
        let generation = match memory.generations.get(group) {
            Some(generation) => *generation,
            None => {
                let head = lineage.head().await?;
                if head.active_site != self.site {
                    return Ok(false);
                }
                memory.generations.insert(group.clone(), head.generation);
                head.generation
            }
        };
        let mut base = memory.bases.get(group).copied();
        let committed = commit(desk, &self.guests[group], &mut base, &lineage, generation, &self.site).await;
        if let Some(base) = base {
            memory.bases.insert(group.clone(), base);
        }
        if matches!(committed, Err(Error::Fenced { .. })) {
            memory.generations.remove(group);
        }
        committed.map(|()| true)
    }
}

/// Commits a point of a guest, on behalf of a site that is taken to be active in this generation. `base` is the attempt
/// since which the guest's tracking counts, as this process knows.
///
/// # Errors
/// The vault's.
pub async fn commit(
    desk: &Desk,
    guest: &Mutex<Guest>,
    base: &mut Option<AttemptId>,
    lineage: &Lineage,
    generation: Generation,
    site: &SiteName,
) -> Result<(), Error> {
    let outcome = try_commit(desk, guest, base, lineage, generation, site).await;
    desk.process.set_task(Task::Other);
    outcome
}

async fn try_commit(
    desk: &Desk,
    guest: &Mutex<Guest>,
    base: &mut Option<AttemptId>,
    lineage: &Lineage,
    generation: Generation,
    site: &SiteName,
) -> Result<(), Error> {
    let lock = || guest.lock().unwrap_or_else(PoisonError::into_inner);
    // The capture: what the guest holds now is what the point must hold.
    let captured = {
        let mut guest = lock();
        guest.change(&desk.dice);
        guest.clone()
    };
    let attempt = desk.world.history().begin(Attempt {
        group: lineage.group().clone(),
        host: desk.host.name(),
        site: site.clone(),
        generation,
        disks: captured.disks(),
        fate: Fate::Begun,
    });
    desk.process.set_task(Task::Point(attempt));
    let writer = lineage.begin_point(generation, site).await?;
    let parent = writer.parent().and_then(|parent| attempt_of(&parent.note));
    let is_tracked = parent.is_some() && parent == *base;
    let basis = if is_tracked { Basis::Tracked } else { Basis::Compared };
    write(&desk.dice, &writer, &captured, !is_tracked).await?;
    if desk.dice.permille(200) {
        let reading = desk.dice.below(u64::try_from(READING_MAX.as_millis()).unwrap_or(0));
        desk.world.time().sleep(Duration::from_millis(reading)).await;
    }
    desk.world.history().settle(attempt, Fate::Open);
    let committed = writer.commit(details(note(attempt), basis, desk.context.clock.now())).await;
    let mut history = desk.world.history();
    match committed {
        Ok(point) => {
            if point.stats.frames_written != point.stats.frames_verified {
                history.impossible.push(format!("attempt {attempt} has frames that were not verified"));
            }
            history.settle(attempt, Fate::Acknowledged(point.sequence, description(&point)));
            desk.world.totals().points += 1;
            *base = Some(attempt);
            lock().forget_changes();
            Ok(())
        }
        Err(error) => {
            if matches!(error, Error::Fenced { .. } | Error::LostRace { .. }) {
                history.settle(attempt, Fate::Refused);
                desk.world.totals().refusals += 1;
            }
            Err(error)
        }
    }
}

/// Gives the writer the chunks that it needs, in any order, some of them twice.
async fn write(dice: &Dice, writer: &PointWriter, guest: &Guest, all: bool) -> Result<(), Error> {
    let mut disks = BTreeMap::new();
    for (name, bytes) in guest.shape() {
        disks.insert(*name, writer.add_disk(&machine_id(), &disk_id(name), *bytes as u64).await?);
    }
    let mut places = guest.to_send(all);
    for index in (1..places.len()).rev() {
        places.swap(index, usize::try_from(dice.below(index as u64 + 1)).unwrap_or(0));
    }
    if dice.permille(300) && !places.is_empty() {
        places.push(*dice.pick(&places));
    }
    for (disk, index) in places {
        let content = guest.chunk(disk, index);
        let offset = (index * CHUNK) as u64;
        if content.iter().all(|byte| *byte == 0) && dice.permille(500) {
            disks[disk].write_zeroes(Extent { offset, length: content.len() as u64 }).await?;
        } else {
            disks[disk].write(offset, Bytes::copy_from_slice(content)).await?;
        }
    }
    Ok(())
}

/// The id of the one machine of a group.
///
/// # Panics
/// Never: it is a good one.
pub fn machine_id() -> MachineId {
    MachineId::new("vm-1").expect("a good name")
}

/// The id of a disk.
///
/// # Panics
/// When the text is no name.
pub fn disk_id(name: &str) -> DiskId {
    DiskId::new(name).expect("a good name")
}

/// What is said of a point of the one machine.
pub fn details(note: String, basis: Basis, captured_at: farshore_core::Timestamp) -> PointDetails {
    let disk = |(name, _): &(&str, usize)| PointDiskDraft { disk: disk_id(name), basis, tracking_token: None };
    let machine = Machine {
        id: machine_id(),
        name: "vm-1".to_owned(),
        cpus: 1,
        memory_bytes: 1 << 28,
        firmware: Firmware::Bios,
        power: PowerState::Running,
        disks: Vec::new(),
        network_interfaces: Vec::new(),
        properties: BTreeMap::new(),
    };
    PointDetails {
        capture: None,
        captured_at,
        instant: Instant::Group,
        consistency: Consistency::Crash,
        machines: vec![PointMachineDraft { machine, disks: DISKS.iter().map(disk).collect() }],
        suspended: Vec::new(),
        label: None,
        note,
    }
}

#[async_trait]
impl Actor for Replicator {
    fn host(&self) -> Host {
        self.host
    }

    async fn run(&self, desk: &mut Desk) {
        let mut memory = Memory::default();
        while desk.world.phase() == Phase::Chaos && self.take_round() {
            desk.pause().await;
            let group = desk.dice.pick(&self.groups).clone();
            if let Err(error) = self.cycle(desk, &mut memory, &group).await {
                desk.note(&error);
                if desk.dice.permille(300) {
                    desk.close();
                }
            }
        }
        loop {
            let phase = desk.world.phase();
            match phase {
                Phase::Over => return,
                Phase::Writing(number) if number == self.host.site() => {
                    for group in &self.groups {
                        let mut trying = Trying::begin(desk, format!("a point of {group}"));
                        loop {
                            let outcome = self.cycle(desk, &mut memory, group).await;
                            if !trying.again(desk, outcome).await {
                                break;
                            }
                        }
                    }
                }
                Phase::Chaos | Phase::Looking | Phase::Handing(_) | Phase::Writing(_) | Phase::Pruning => {}
            }
            desk.world.arrive(&self.host.name(), phase).await;
        }
    }
}
