//! The other kind of world: one host with every power follows a script, and is killed at one operation on the store, at
//! one of its three places. It starts again, and must come to the script's end. Every operation has its turn.
//!
//! The script begins a lineage, commits points, gives the lineage to another site, commits more there and in a lineage that
//! was there before, and journals all of it. Each step looks first whether it was done.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use farshore_core::{GroupName, RunId};
use farshore_vault::{Error, Lineage, Vault};

use crate::{
    actors::{Actor, Desk, Trying, controller, replicator, supervise},
    clock::ClockPlan,
    content::Guest,
    faults::FaultPlan,
    history::{AttemptId, Raise},
    process::Kill,
    run::{Outcome, judge},
    store::{Conditions, Objects},
    template::{Host, SHARED_GROUPS, SITES, Template, group, site},
    world::World,
};

/// The lineage that the script begins.
const OWN_GROUP: &str = "scripted";

/// More points than any lineage of the script has.
const POINTS_MAX: usize = 100;

/// Points of the own lineage at the first site, then at the second.
const POINTS_AT_SITES: [usize; 2] = [4, 8];

/// Points of the lineage that was there before.
const POINTS_SHARED: usize = 6;

struct Script {
    own: Mutex<Guest>,
    shared: Mutex<Guest>,
    operations: Mutex<u64>,
}

/// The run that the script journals.
fn run() -> RunId {
    RunId::from_bytes([0x5c; 16])
}

impl Script {
    /// The script, from wherever it was left. It is done when this returns true.
    async fn play(&self, desk: &mut Desk) -> Result<bool, Error> {
        let vault = desk.vault().await?;
        journal(desk, &vault, 1, "begin").await?;
        let name = group(OWN_GROUP);
        let lineage = vault.create_lineage(&name, &site(SITES[0])).await?;
        desk.world.history().groups.insert(name);
        let mut base = None;
        self.points(desk, &self.own, &mut base, &lineage, 0..POINTS_AT_SITES[0]).await?;
        journal(desk, &vault, 2, "raise").await?;
        let head = lineage.head().await?;
        if head.active_site.as_str() == SITES[0] {
            let generation = lineage.raise_generation(&site(SITES[1]), "by the script", &head).await?;
            let (group, sequence) = (lineage.group().clone(), head.sequence.next());
            desk.world.history().raises.push(Raise { group, generation, sequence, site: site(SITES[1]) });
            desk.world.totals().raises += 1;
        }
        journal(desk, &vault, 3, "raised").await?;
        self.points(desk, &self.own, &mut base, &lineage, POINTS_AT_SITES[0]..POINTS_AT_SITES[1]).await?;
        if let Some(shared) = vault.lineage(&group(SHARED_GROUPS[0])).await? {
            self.points(desk, &self.shared, &mut None, &shared, 0..POINTS_SHARED).await?;
        }
        journal(desk, &vault, 4, "done").await?;
        Ok(true)
    }

    /// Commits the points of these numbers that are not there yet.
    async fn points(
        &self,
        desk: &Desk,
        guest: &Mutex<Guest>,
        base: &mut Option<AttemptId>,
        lineage: &Lineage,
        numbers: Range<usize>,
    ) -> Result<(), Error> {
        let there = lineage.points(None, POINTS_MAX).await?.len();
        for _ in there.max(numbers.start)..numbers.end {
            let head = lineage.head().await?;
            replicator::commit(desk, guest, base, lineage, head.generation, &head.active_site).await?;
        }
        Ok(())
    }
}

/// Writes the entry of this number if it is not there.
async fn journal(desk: &Desk, vault: &Vault, number: u64, text: &str) -> Result<(), Error> {
    let there = match vault.run_entries(run()).await {
        Ok(entries) => entries.len() as u64,
        Err(Error::RunMissing { .. }) => 0,
        Err(error) => return Err(error),
    };
    let mut next = number;
    if there < number { controller::append(desk, vault, run(), &mut next, text).await } else { Ok(()) }
}

#[async_trait]
impl Actor for Script {
    fn host(&self) -> Host {
        Host::Keeper
    }

    async fn run(&self, desk: &mut Desk) {
        let mut trying = Trying::begin(desk, "the script".to_owned());
        loop {
            let outcome = self.play(desk).await;
            if !trying.again(desk, outcome).await {
                break;
            }
        }
        *self.operations.lock().expect("no panic") = desk.process.operations();
    }
}

/// Plays the script with its first process killed there, or not at all; how it ended, and how many operations its last
/// process made.
pub fn play(kill: Option<Kill>, plan: FaultPlan, seed: u64) -> (Outcome, u64) {
    let template = Template::get();
    let world = World::new(seed, plan, ClockPlan::Right, Objects::new(template.objects(false), Conditions::Honoured));
    let dice = world.dice("script");
    let script = Arc::new(Script {
        own: Mutex::new(Guest::new(&dice)),
        shared: Mutex::new(Guest::new(&dice)),
        operations: Mutex::default(),
    });
    let groups: Vec<GroupName> = [OWN_GROUP, SHARED_GROUPS[0]].map(group).to_vec();
    let live = async {
        let actor = Arc::clone(&script) as Arc<dyn Actor>;
        supervise(world.clone(), Arc::clone(&template), actor, kill).await;
        groups
    };
    let outcome = judge(&world, &template, live);
    let operations = *script.operations.lock().expect("no panic");
    (outcome, operations)
}
