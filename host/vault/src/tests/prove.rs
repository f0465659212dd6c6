//! The standing proof: what is lost is named within a window, with all that it hurts and nothing else (T06 of the figures
//! that this product holds itself to).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};

use farshore_core::{Clock, Entropy, Sequence};
use object_store::{ObjectStoreExt, PutPayload, path::Path};

use super::{powers::World, *};
use crate::{Grace, Power, ProofKind, ProveOptions, ProveReport, Prover, ProverState, SampleSize};

const HOUR: Duration = Duration::from_secs(3_600);

const ALL: u32 = 1_000_000_000;

/// A clock that the test sets.
struct HandClock(Mutex<Duration>);

impl HandClock {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Duration::from_secs(1_700_000_000))))
    }

    fn advance(&self, by: Duration) {
        *self.0.lock().expect("sound") += by;
    }
}

#[async_trait::async_trait]
impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        let milliseconds = self.0.lock().expect("sound").as_millis();
        Timestamp::from_unix_milliseconds(i64::try_from(milliseconds).expect("not so far"))
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock().expect("sound")
    }

    async fn sleep(&self, duration: Duration) {
        self.advance(duration);
    }
}

struct Story {
    objects: Arc<InMemory>,
    clock: Arc<HandClock>,
    vault: Vault,
    lineage: Lineage,
}

impl Story {
    async fn new(seed: u64) -> Self {
        let (objects, clock) = (Arc::new(InMemory::new()), HandClock::new());
        let context = Context { clock: Arc::clone(&clock) as _, ..seeded(seed) };
        let vault = vault_on(store(&objects), context).await;
        let lineage = lineage(&vault).await;
        Self { objects, clock, vault, lineage }
    }

    /// Commits points of a disk of so many chunks, each with a chunk of its own; the pack that each brought.
    async fn history(&self, points: usize) -> Vec<(Sequence, String)> {
        let mut packs = Vec::new();
        let mut known: BTreeSet<String> = self.packs().await;
        for number in 0..points {
            let writer = begin(&self.lineage).await;
            let disk = writer.add_disk(&machine_id(), &disk_id("d"), (points * CHUNK) as u64).await.expect("added");
            let content = noise(number as u64 + 7_000, CHUNK);
            disk.write((number * CHUNK) as u64, Bytes::from(content)).await.expect("accepted");
            let point = writer.commit(details(&[(&machine_id(), &["d"])])).await.expect("committed");
            // Listing all packs for each would take longer than all else.
            let folder = format!("v/{}", crate::pack::pack_folder(self.lineage.id(), point.sequence.get() - 1));
            let listed: Vec<_> = self.objects.list(Some(&Path::from(folder))).try_collect().await.expect("listed");
            let new = listed.into_iter().map(|meta| meta.location.to_string()).find(|key| known.insert(key.clone()));
            packs.push((point.sequence, new.expect("each has a pack of its own")));
        }
        packs
    }

    async fn packs(&self) -> BTreeSet<String> {
        let all = super::objects(&self.objects).await;
        all.into_iter().map(|(key, _)| key).filter(|key| key.contains("/packs/")).collect()
    }

    fn prover(&self, billionths: u32) -> Prover {
        self.prover_from(billionths, ProverState::default())
    }

    fn prover_from(&self, billionths: u32, state: ProverState) -> Prover {
        let sample = SampleSize::Billionths(billionths);
        self.vault.prover(ProveOptions { window: 24 * HOUR, sample }, state).expect("it may")
    }

    /// Turns hour by hour until something is found; after how long.
    async fn turn_until_found(&self, prover: &mut Prover) -> (Duration, ProveReport) {
        for hour in 1..=48u32 {
            self.clock.advance(HOUR);
            let report = prover.turn().await.expect("turned");
            if !report.findings.is_empty() {
                return (HOUR * hour, report);
            }
        }
        panic!("nothing was found in two days");
    }

    async fn take(&self, key: &str) -> Bytes {
        let path = Path::from(key);
        let bytes = self.objects.get(&path).await.expect("there").bytes().await.expect("there");
        self.objects.delete(&path).await.expect("deleted");
        bytes
    }

    async fn put(&self, key: &str, bytes: Bytes) {
        self.objects.put(&Path::from(key), PutPayload::from(bytes)).await.expect("written");
    }
}

/// The points that the findings name.
fn hurt(report: &ProveReport) -> Vec<Sequence> {
    let points: BTreeSet<_> =
        report.findings.iter().flat_map(|finding| &finding.points).map(|point| point.sequence).collect();
    points.into_iter().collect()
}

async fn proven(lineage: &Lineage, point: Sequence) -> Vec<(ProofKind, bool)> {
    let proofs = lineage.proofs(point).await.expect("readable");
    proofs.iter().map(|proof| (proof.claim.what, proof.is_whole())).collect()
}

fn random(entropy: &SeededEntropy, below: usize) -> usize {
    let mut bytes = [0; 8];
    entropy.fill(&mut bytes);
    usize::try_from(u64::from_le_bytes(bytes) % below as u64).expect("small")
}

/// `FARSHORE_T06_PACKS=10000` runs it at the size of the figure.
#[tokio::test]
async fn a_lost_pack_is_named_within_a_day_with_all_points_that_need_it_and_no_others() {
    let count = std::env::var("FARSHORE_T06_PACKS").ok().and_then(|count| count.parse().ok()).unwrap_or(150);
    let story = Story::new(1).await;
    let packs = story.history(count).await;
    // Another group is in no way concerned.
    let another = GroupName::new("another").expect("a good name");
    let other = story.vault.create_lineage(&another, &site("a")).await.expect("a lineage");
    commit_disk(&other, &noise(5, 4 * CHUNK)).await.expect("committed");

    let mut prover = story.prover(1);
    let first = prover.turn().await.expect("turned");
    // Points count + 1, each with a pack, a commit and a map pack.
    assert_eq!((first.findings.len(), first.points), (0, count as u64 + 1));
    assert!(first.objects_seen >= 3 * count as u64, "a prover that knows nothing looks at everything: {first:?}");
    assert_eq!(first.proofs_written, count as u64 + 1);
    let entropy = SeededEntropy::new(77);
    let (mut longest, mut seen) = (Duration::ZERO, 0);
    for _ in 0..3 {
        for _ in 0..random(&entropy, 30) {
            story.clock.advance(HOUR);
            let report = prover.turn().await.expect("turned");
            assert_eq!(report.findings, []);
            seen = report.objects_seen.max(seen);
        }
        let (point, key) = &packs[random(&entropy, count)];
        let bytes = story.take(key).await;
        let (after, report) = story.turn_until_found(&mut prover).await;
        longest = longest.max(after);
        let [finding] = report.findings.as_slice() else { panic!("{:?}", report.findings) };
        assert!(key.ends_with(&finding.object), "{finding:?}");
        let expected: Vec<_> = packs.iter().map(|(point, _)| *point).filter(|needs| needs >= point).collect();
        assert_eq!(hurt(&report), expected);
        assert!(finding.points.iter().all(|point| point.group == group() && point.bytes == CHUNK as u64));
        // It is told with the points, and the others stay proven.
        let before = packs.iter().map(|(before, _)| *before).rfind(|before| before < point);
        assert_eq!(proven(&story.lineage, *point).await.first(), Some(&(ProofKind::Structure, false)));
        if let Some(before) = before {
            assert!(proven(&story.lineage, before).await.first().is_some_and(|(_, is_whole)| *is_whole));
        }
        // It is an alarm until it is there again.
        story.clock.advance(HOUR);
        assert_eq!(prover.turn().await.expect("turned").findings.len(), 1);
        story.put(key, bytes).await;
        story.clock.advance(HOUR);
        assert_eq!(prover.turn().await.expect("turned").findings, []);
        assert!(proven(&story.lineage, *point).await.first().is_some_and(|(_, is_whole)| *is_whole));
    }
    assert!(longest <= 24 * HOUR, "{longest:?}");
    assert!(seen < 3 * count as u64 / 4, "the looks are spread over the day: {seen} at once");
    eprintln!("{count} packs: the longest time to a finding was {} h", longest.as_secs() / 3_600);
}

/// What is kept between two processes is a cache. With it a prover that is started anew for each turn does no more than one
/// that runs; and it misses nothing.
#[tokio::test]
async fn a_prover_that_starts_anew_each_hour_goes_on_where_it_was() {
    let story = Story::new(2).await;
    let packs = story.history(60).await;
    let mut state = ProverState::default();
    let mut seen = Vec::new();
    for _ in 0..25 {
        let mut prover = story.prover_from(1, state);
        let report = prover.turn().await.expect("turned");
        assert_eq!(report.findings, []);
        seen.push(report.objects_seen);
        let kept = serde_json::to_string(prover.state()).expect("writable");
        state = serde_json::from_str(&kept).expect("its own text");
        story.clock.advance(HOUR);
    }
    let (first, rest): (u64, u64) = (seen[0], seen[1..].iter().sum());
    assert!((first..2 * first).contains(&rest), "each object once a day: {first} at first, then {rest}");
    story.take(&packs[30].1).await;
    let mut found = None;
    for hour in 1..=24 {
        let mut prover = story.prover_from(1, state);
        let report = prover.turn().await.expect("turned");
        state = prover.state().clone();
        if !report.findings.is_empty() {
            found = Some((hour, hurt(&report).len()));
            break;
        }
        story.clock.advance(HOUR);
    }
    assert!(found.is_some_and(|(_, points)| points == 30), "{found:?}");
}

#[tokio::test]
async fn what_is_new_is_seen_and_said_to_be_proven_at_once() {
    let story = Story::new(3).await;
    story.history(3).await;
    let mut prover = story.prover(ALL);
    prover.turn().await.expect("turned");
    let content = noise(9, 5 * CHUNK);
    let known = story.packs().await;
    let point = commit_disk(&story.lineage, &content).await.expect("committed").sequence;
    story.clock.advance(HOUR);
    prover.turn().await.expect("turned");
    assert_eq!(proven(&story.lineage, point).await, [(ProofKind::Sample { billionths: ALL }, true)]);
    let point = commit_disk(&story.lineage, &noise(10, 5 * CHUNK)).await.expect("committed").sequence;
    let new: Vec<_> = story.packs().await.difference(&known).cloned().collect();
    story.take(&new[1]).await;
    story.clock.advance(HOUR);
    let report = prover.turn().await.expect("turned");
    let expected: Vec<Sequence> = if hurt(&report) == [point] { vec![point] } else { vec![Sequence::new(5)] };
    assert_eq!(hurt(&report), expected, "one of the two packs was lost before anybody had seen it");
}

/// A rotten frame is found when it is drawn, and hurts who needs it only. So is a rotten map page.
#[tokio::test]
async fn what_has_rotted_is_found_when_it_is_read() {
    for kind in ["/packs/", "/maps/"] {
        let story = Story::new(4).await;
        let packs = story.history(12).await;
        let mut prover = story.prover(ALL);
        prover.turn().await.expect("turned");
        let (point, key) = match kind {
            "/packs/" => packs[5].clone(),
            _ => {
                let folder = packs[5].1.rsplit_once('/').expect("a folder").0.replace("/packs/", "/maps/");
                let maps = super::objects(&story.objects).await;
                let map = maps.into_iter().map(|(key, _)| key).find(|key| key.starts_with(&folder));
                (packs[5].0, map.expect("a map pack"))
            }
        };
        let whole = story.take(&key).await;
        let mut bytes = whole.to_vec();
        let last = bytes.len() - 9;
        bytes[last] ^= 16;
        story.put(&key, Bytes::from(bytes)).await;
        let (after, report) = story.turn_until_found(&mut prover).await;
        assert!(after <= 24 * HOUR, "{after:?}");
        let [finding] = report.findings.as_slice() else { panic!("{:?}", report.findings) };
        assert!(key.ends_with(&finding.object) && finding.code.to_string() == "FS1004", "{finding:?}");
        let needing: Vec<_> = packs.iter().map(|(point, _)| *point).filter(|needs| *needs >= point).collect();
        match kind {
            "/packs/" => assert_eq!(hurt(&report), needing),
            // Later points have pages of their own in the place of this one.
            _ => assert_eq!(hurt(&report), [point]),
        }
        // The alarm lasts until it has been read whole, not only until it was passed over by a draw.
        let mut again = 0;
        for _ in 0..30 {
            story.clock.advance(HOUR);
            again += prover.turn().await.expect("turned").findings.len();
        }
        assert_eq!(again, 30, "{kind}");
        story.take(&key).await;
        story.put(&key, whole).await;
        let mut left = Vec::new();
        for _ in 0..24 {
            story.clock.advance(HOUR);
            left.push(prover.turn().await.expect("turned").findings.len());
        }
        assert_eq!(left.last(), Some(&0), "{kind}: {left:?}");
    }
}

/// Points are given up, packs moved together and deleted, all beside a prover that runs: none of it is an alarm.
#[tokio::test]
async fn what_a_prune_moves_and_deletes_is_no_alarm() {
    let story = Story::new(5).await;
    // The store's times are this machine's: a pruner believes the clock that makes points younger.
    story.clock.advance(24 * 365 * 10 * HOUR);
    story.history(40).await;
    let mut prover = story.prover(ALL / 10);
    let before = story.packs().await.len();
    let grace = Grace { seconds: 0, commits: 0 };
    // Each point changes one chunk of what the history has written: the small packs of all others are needed, and moved together.
    let mut content: Vec<u8> = (0..40).flat_map(|number| noise(number + 7_000, CHUNK)).collect();
    for turn in 0..30usize {
        let report = prover.turn().await.expect("turned");
        assert_eq!(report.findings, [], "turn {turn}");
        if turn % 3 == 0 {
            content[turn * CHUNK..(turn + 1) * CHUNK].copy_from_slice(&noise(turn as u64 + 90, CHUNK));
            commit_disk(&story.lineage, &content).await.expect("committed");
        }
        let plan = story.lineage.plan_prune(&KEEP_NEWEST, grace).await.expect("planned");
        story.lineage.prune(plan).await.expect("pruned");
        story.clock.advance(HOUR);
    }
    assert!(story.packs().await.len() < before / 2, "packs were deleted");
    let collections = super::objects(&story.objects).await;
    assert!(collections.iter().any(|(key, _)| key.contains("/collections/")), "and moved");
    let point = story.lineage.head().await.expect("readable").newest_point.expect("a point");
    assert!(proven(&story.lineage, point).await.iter().all(|(_, is_whole)| *is_whole));
}

#[tokio::test]
async fn each_power_proves_what_it_can() {
    let world = World::new().await;
    let lineage = lineage(&world.administrator).await;
    let point = commit_disk(&lineage, &noise(1, 4 * CHUNK)).await.expect("committed").sequence;
    let options = ProveOptions { window: 24 * HOUR, sample: SampleSize::Billionths(ALL) };
    let sample = ProofKind::Sample { billionths: ALL };
    let mut kinds: BTreeMap<&str, ProofKind> = BTreeMap::new();
    for power in Power::ALL {
        let vault = world.open(&world.host(power.name(), &[power]).await).await.expect("opened");
        let prover = vault.prover(options, ProverState::default());
        if power == Power::Replicator {
            assert!(matches!(prover.map(drop), Err(crate::Error::PowerMissing { .. })));
            continue;
        }
        let report = prover.expect("it may").turn().await.expect("turned");
        assert_eq!(
            (report.proofs_written, report.not_kept, report.bytes_read > 0),
            (1, None, power == Power::Recoverer)
        );
        let proofs = lineage.proofs(point).await.expect("readable");
        let newest = proofs.iter().max_by_key(|proof| proof.received_at).expect("it was just written");
        kinds.insert(power.name(), newest.claim.what);
        Clock::sleep(&SystemClock, Duration::from_millis(3)).await;
    }
    let structure = ProofKind::Structure;
    assert_eq!(kinds, BTreeMap::from([("recoverer", sample), ("controller", structure), ("pruner", structure)]));
    let nothing = ProveOptions { window: Duration::ZERO, ..options };
    assert!(world.administrator.prover(nothing, ProverState::default()).is_err());
}

/// A clock that was set back makes the prover look too often, never too rarely.
#[tokio::test]
async fn a_clock_that_was_set_back_delays_nothing() {
    let story = Story::new(6).await;
    let packs = story.history(10).await;
    let mut prover = story.prover(1);
    story.clock.advance(24 * 400 * HOUR);
    prover.turn().await.expect("turned");
    *story.clock.0.lock().expect("sound") -= 24 * 300 * HOUR;
    story.take(&packs[4].1).await;
    let report = prover.turn().await.expect("turned");
    assert_eq!(hurt(&report).len(), 6);
}
