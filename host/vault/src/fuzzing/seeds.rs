//! Inputs to begin with, made of the real objects of the world's vault.

use farshore_core::{HostName, Sequence, Timestamp};
use object_store::{ObjectStoreExt, path::Path};

use super::{World, context, on};
use crate::{
    Power,
    collection::CollectionRef,
    commit::{CommitBody, Event, commit_key},
    keys::boxes,
    map::index_at,
    page::{self, LEVELS, Page, PageRef, SLOTS},
    seal::{Purpose, SIGNATURE_BYTES},
    wire::{PROLOGUE_BYTES, Reader, length_u32},
};

fn input(depth: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![depth];
    bytes.extend_from_slice(rest);
    bytes
}

/// What stands between the prologue and the hash at the end.
fn middle(object: &[u8]) -> &[u8] {
    &object[PROLOGUE_BYTES..object.len() - 32]
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("it can be written")
}

impl World {
    /// Inputs to begin with, for a target.
    ///
    /// # Panics
    /// When the vault in the world is damaged.
    pub fn seeds(&self, target: &str) -> Vec<Vec<u8>> {
        match target {
            "header" => self.of_object("vault", |object| input(1, middle(object))),
            "addresses" => {
                let id = "00".repeat(16);
                let text = format!(
                    r#"{{"vault":"{id}","role":"data","metadata":"{id}","data":"{id}","written_at":"2026-01-01T00:00:00Z"}}"#
                );
                vec![input(1, text.as_bytes())]
            }
            "slot" => self.slot_seeds(),
            "ring" => {
                let ring = self.lineage.access.ring();
                let mut later = crate::keys::Ring::clone(&ring);
                later.number = 9;
                vec![input(1, &json(&*ring)), input(1, &json(&later))]
            }
            "enrolment" => self.enrolment_seeds(),
            "grant" => self.grant_seeds(),
            "epoch-keys" => self.epoch_seeds(),
            "lineage-box" => [true, false].map(|both| input(1, &self.lineage.secrets.encode(both))).to_vec(),
            "run-entry" => vec![input(1, b"an entry"), input(2, &[0; 80])],
            "commit" => self.commit_seeds(),
            "point" => self.bodies().iter().filter_map(|body| Some(input(0, &json(point_of(body)?)))).collect(),
            "page" => self.page_seeds(),
            "pack" => self.directory_seeds(),
            "frame" => vec![
                input(1, &zstd::bulk::compress(&[0; 65_536], 1).expect("memory")),
                input(7, &zstd::bulk::compress(&vec![0; 4 * 65_536], 1).expect("memory")),
                input(0, &[0; 65_536]),
            ],
            "boundary" => vec![input(1, &[9, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]), input(2, &[0; 96])],
            "ledger" => vec![input(0, &self.ledger().encode().expect("it was stored")), input(0, &[0; 12])],
            "collection" => self.collection_seeds(),
            "kit" => vec![input(0, self.kit.to_text().as_bytes())],
            "kit-words" => vec![input(0, self.kit.words().join(" ").as_bytes())],
            "join-file" => {
                let vault = self.administrator.reopen(on(self.objects.fork()), context());
                let name = HostName::new("invited").expect("a good name");
                let expires_at = Timestamp::from_unix_milliseconds(9_000_000_000_000);
                let join = self.wait(vault.invite(&name, &Power::ALL, expires_at)).expect("invited");
                vec![input(0, join.to_text().as_bytes())]
            }
            "credential" => vec![input(0, self.credential.to_text().as_bytes())],
            _ => Vec::new(),
        }
    }

    fn read(&self, key: &str) -> Vec<u8> {
        let read = self.wait(async {
            self.objects.get(&Path::from(format!("vault/{key}"))).await.expect("there").bytes().await.expect("there")
        });
        read.to_vec()
    }

    /// An object as it is, and what lies behind.
    fn of_object(&self, key: &str, behind: impl Fn(&[u8]) -> Vec<u8>) -> Vec<Vec<u8>> {
        let object = self.read(key);
        vec![input(0, &object), behind(&object)]
    }

    fn slot_seeds(&self) -> Vec<Vec<u8>> {
        let bundle = self.lineage.access.bundle("to fuzz").expect("the administrator's");
        let slot = self.kit.slot_object();
        vec![input(0, slot), input(1, middle(slot)), input(2, &bundle.encode())]
    }

    fn enrolment_seeds(&self) -> Vec<Vec<u8>> {
        let host = self.credential.host();
        self.of_object(&format!("keys/hosts/{host}"), |object| {
            let sealer = &self.lineage.access.member.ring;
            let plain = sealer.open("host", Purpose::Enrolment { host }, &object[PROLOGUE_BYTES..]).expect("whole");
            input(1, &plain[SIGNATURE_BYTES..])
        })
    }

    fn epoch_seeds(&self) -> Vec<Vec<u8>> {
        let keys = self.lineage.access.bundle("to fuzz").expect("the administrator's").epochs;
        let keys = keys.first().expect("there is one");
        let content = [keys.reading.secret().expose().as_slice(), keys.graph.secret().expose()].concat();
        vec![input(1, &content), input(1, &[7; 64]), input(2, &[0; 128])]
    }

    fn grant_seeds(&self) -> Vec<Vec<u8>> {
        let key = "11".repeat(32);
        let grants = [
            format!(r#"{{"epochs":[{{"epoch":1,"graph":"{key}","reading":"{key}"}}],"runs":"{key}"}}"#),
            r#"{"epochs":[],"runs":null}"#.to_owned(),
        ];
        let host = self.credential.host();
        let mut seeds = vec![input(0, &self.read(&format!("keys/grants/{host}/00000001")))];
        seeds.extend(grants.iter().map(|grant| input(1, grant.as_bytes())));
        seeds
    }

    /// The bodies of all commits that are there.
    fn bodies(&self) -> Vec<CommitBody> {
        let newest = self.next_commit().get();
        let read = |number| self.wait(self.lineage.log.read(Sequence::new(number)));
        (1..newest).filter_map(|number| Some(read(number).ok()??.body)).collect()
    }

    fn commit_seeds(&self) -> Vec<Vec<u8>> {
        let first = self.read(&commit_key(self.id(), Sequence::FIRST));
        let (_, used) = boxes::decode("first", &first[PROLOGUE_BYTES..]).expect("whole");
        let mut seeds = vec![input(0, &first), input(3, &first[PROLOGUE_BYTES..PROLOGUE_BYTES + used])];
        for mut body in self.bodies() {
            let next = Sequence::new(9);
            renumber(&mut body, next);
            let text = json(&body);
            let mut packed = length_u32(text.len()).to_le_bytes().to_vec();
            packed.extend_from_slice(&zstd::bulk::compress(&text, 1).expect("memory"));
            seeds.extend([input(1, &text), input(2, &packed)]);
            renumber(&mut body, self.next_commit());
            seeds.push(input(4, &json(&body)));
        }
        seeds
    }

    fn page_seeds(&self) -> Vec<Vec<u8>> {
        let points = self.bodies();
        let disks = points.iter().filter_map(point_of).flat_map(|point| &point.machines).flat_map(|one| &one.disks);
        let mut seeds = Vec::new();
        for root in disks.filter_map(|disk| disk.map).take(2) {
            self.add_pages(root, LEVELS - 1, 0, &mut seeds);
        }
        seeds
    }

    fn add_pages(&self, reference: PageRef, level: usize, index: u64, seeds: &mut Vec<Vec<u8>>) {
        let Ok(page) = self.wait(self.lineage.maps.page(&reference, level, index)) else { return };
        let depth = u8::try_from(level).expect("few levels");
        match &*page {
            Page::Leaf(slots) => seeds.push(input(0, &page::encode_leaf(index, slots))),
            Page::Inner(slots) => {
                seeds.push(input(depth, &page::encode_inner(depth, index, slots)));
                for (slot, number) in slots.iter().zip(index * SLOTS as u64..) {
                    if let Some(child) = slot {
                        debug_assert_eq!(index_at(1, number), index);
                        self.add_pages(*child, level - 1, number, seeds);
                    }
                }
            }
        }
    }

    /// The keys of the lineage's objects of one folder.
    fn keys(&self, folder: &str) -> Vec<String> {
        let prefix = format!("lineages/{}/{folder}", self.id());
        let store = on(self.objects.fork());
        let listed = self.wait(futures::TryStreamExt::try_collect::<Vec<_>>(store.list(&prefix)));
        listed.expect("memory lists").into_iter().map(|object| object.key).collect()
    }

    fn directory_seeds(&self) -> Vec<Vec<u8>> {
        let lineage = self.id();
        let mut seeds = Vec::new();
        for key in self.keys("packs") {
            let object = self.read(&key);
            let mut reader = Reader::new(&key, &object);
            reader.take(12).expect("whole");
            let header_bytes = usize::try_from(reader.u32().expect("whole")).expect("64 bits");
            let pack = farshore_core::PackId::from_bytes(reader.array().expect("whole"));
            let session = farshore_core::SessionId::from_bytes(reader.array().expect("whole"));
            reader.take(self.sealed_secret.len()).expect("whole");
            let (body_bytes, body_hash) = (reader.u32().expect("whole"), reader.array().expect("whole"));
            let purpose = Purpose::Directory { lineage, session, pack, body_bytes, body_hash };
            let sealed = &object[object.len() - reader.rest().len()..header_bytes];
            let plain = self.lineage.keys.metadata.open(&key, purpose, sealed).expect("whole");
            let mut claim = body_bytes.to_le_bytes().to_vec();
            claim.extend_from_slice(&plain);
            seeds.extend([input(0, &object[..header_bytes]), input(1, &claim)]);
        }
        seeds
    }

    fn ledger(&self) -> crate::ledger::Ledger {
        let (_, valid) = self.wait(self.lineage.ledgers.newest()).expect("whole");
        valid.expect("it was pruned").ledger.clone()
    }

    fn collection_seeds(&self) -> Vec<Vec<u8>> {
        self.ledger().collections.iter().flat_map(|reference| self.collection_seed(reference)).collect()
    }

    fn collection_seed(&self, reference: &CollectionRef) -> [Vec<u8>; 2] {
        let (lineage, key) = (self.id(), reference.key(self.id()));
        let object = self.read(&key);
        let header = &object[..usize::try_from(reference.header_bytes).expect("64 bits")];
        let mut reader = Reader::new(&key, header);
        reader.take(PROLOGUE_BYTES + 16).expect("whole");
        let (body_bytes, body_hash) = (reader.u32().expect("whole"), reader.array().expect("whole"));
        let purpose = Purpose::Collection { lineage, collection: reference.id, body_bytes, body_hash };
        let plain = self.lineage.keys.metadata.open(&key, purpose, reader.rest()).expect("whole");
        [(0, header), (1, plain.as_slice())].map(|(depth, rest)| {
            let mut claim = body_bytes.to_le_bytes().to_vec();
            claim.extend_from_slice(rest);
            input(depth, &claim)
        })
    }
}

fn point_of(body: &CommitBody) -> Option<&crate::Point> {
    match &body.event {
        Event::Point(point) => Some(point),
        _ => None,
    }
}

/// The same commit under another number.
fn renumber(body: &mut CommitBody, sequence: Sequence) {
    body.head.sequence = sequence;
    match &mut body.event {
        Event::Point(point) => {
            point.sequence = sequence;
            body.head.newest_point = Some(sequence);
        }
        Event::Pruned(_) => body.head.pruned = Some(sequence),
        _ => {}
    }
}
