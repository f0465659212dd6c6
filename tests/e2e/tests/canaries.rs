//! T12: secrets that would be recognised anywhere are planted, the command line does its work and fails in many ways while it tells all
//! that it can, and then everything that it said, wrote or stored is searched for them.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use aho_corasick::AhoCorasick;
use bytes::Bytes;
use farshore_core::{
    Basis, Consistency, DiskId, Entropy, Firmware, Generation, GroupName, Instant, Machine, MachineId, PowerState,
    SiteName, SystemEntropy, Timestamp,
};
use farshore_e2e::{ProtectedGroup, ProtectedMachine, World, binary};
use farshore_vault::{
    Address, Context, HostCredential, Opener, PointDetails, PointDiskDraft, PointMachineDraft, Store, StoreOptions,
    Vault,
};

const CHUNK: usize = 65_536;

/// All that the program can tell, but for how a component's code is compiled: that is gigabytes, and of code alone.
const FILTER: &str = "trace,cranelift_codegen=info,cranelift_frontend=info,cranelift_entity=info,regalloc2=info,\
    wasmtime=info,wasmtime_cranelift=info,wasmtime_environ=info";

/// Secrets by what they are.
#[derive(Default)]
struct Canaries(BTreeMap<String, Vec<u8>>);

impl Canaries {
    fn plant(&mut self, what: &str, secret: &[u8]) {
        assert!(secret.len() >= 16, "{what} is long enough to be no coincidence");
        self.0.insert(what.to_owned(), secret.to_vec());
    }

    /// A fresh text that nobody else writes.
    fn text(&mut self, what: &str) -> String {
        let mut random = [0; 16];
        SystemEntropy.fill(&mut random);
        let text = format!("canary-{what}-{}", hex(&random));
        self.plant(what, text.as_bytes());
        text
    }

    /// Every form in which each could be found.
    fn forms(&self) -> Vec<(String, Vec<u8>)> {
        let mut forms = Vec::new();
        for (what, secret) in &self.0 {
            let lower = hex(secret);
            forms.push((format!("{what}, in hexadecimal"), lower.clone().into_bytes()));
            forms.push((format!("{what}, in capital hexadecimal"), lower.to_uppercase().into_bytes()));
            for shift in 0..3 {
                forms.push((format!("{what}, in base64"), base64_middle(secret, shift)));
            }
            forms.push((format!("{what}, as numbers"), numbers(secret).into_bytes()));
            forms.push((what.clone(), secret.clone()));
        }
        forms
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal")).collect()
}

/// As a list is shown for debugging.
fn numbers(bytes: &[u8]) -> String {
    bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

/// What of a secret's base64 does not depend on what stands around it, when it begins so many bytes after a multiple of three.
fn base64_middle(secret: &[u8], shift: usize) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let from = (3 - shift) % 3;
    let (whole, _) = secret[from..].as_chunks::<3>();
    let digits = whole.iter().flat_map(|[a, b, c]| {
        let bits = u32::from(*a) << 16 | u32::from(*b) << 8 | u32::from(*c);
        [18, 12, 6, 0].map(|place| DIGITS[(bits >> place) as usize & 63])
    });
    digits.collect()
}

/// The world, and all that was said in it.
struct Story {
    world: World,
    canaries: Canaries,
    said: Vec<(String, Vec<u8>)>,
    temporary: PathBuf,
}

impl Story {
    fn new() -> Self {
        let mut world = World::new().expect("a world");
        let mut canaries = Canaries::default();
        let passphrase = canaries.text("passphrase");
        fs::write(world.site.passphrase_file(), format!("{passphrase}\n")).expect("written");
        // A machine that does not run: nothing here needs a guest.
        let nobody = world.folder().join("run/nobody");
        world.site.machines.push(ProtectedMachine { name: "orders".to_owned(), qmp: nobody.clone(), agent: nobody });
        world.site.groups.push(ProtectedGroup::new("orders", &["orders"]));
        world.write_configuration().expect("written");
        let temporary = world.folder().join("temporary");
        fs::create_dir(&temporary).expect("made");
        Self { world, canaries, said: Vec::new(), temporary }
    }

    fn run_with(&mut self, arguments: &[&str], configuration: &Path, input: Option<&str>) -> Output {
        let mut command = Command::new(binary().expect("it was built"));
        command.arg("--config").arg(configuration).args(arguments);
        command.env("FARSHORE_LOG", FILTER).env("RUST_BACKTRACE", "full").env("TMPDIR", &self.temporary);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir(self.world.folder());
        if let Some(input) = input {
            let file = self.world.folder().join("typed");
            fs::write(&file, input).expect("written");
            command.stdin(fs::File::open(&file).expect("it is there"));
        }
        let output = command.output().expect("it runs");
        let _ = fs::remove_file(self.world.folder().join("typed"));
        let name = arguments.join(" ");
        self.said.push((format!("the output of `{name}`"), output.stdout.clone()));
        self.said.push((format!("the messages of `{name}`"), output.stderr.clone()));
        output
    }

    fn run(&mut self, arguments: &[&str]) -> Output {
        let configuration = self.world.site.configuration_file();
        self.run_with(arguments, &configuration, None)
    }

    /// In turn for programs and for people: opening a vault with its kit is dear.
    fn run_in_turn(&mut self, arguments: &[&str]) -> Output {
        let json = if self.said.len().is_multiple_of(4) { &["--json"][..] } else { &[] };
        self.run(&[json, arguments].concat())
    }

    fn succeed(&mut self, arguments: &[&str]) {
        let output = self.run_in_turn(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// It must fail, with words.
    fn fail(&mut self, arguments: &[&str]) {
        let output = self.run_in_turn(arguments);
        assert!(!output.status.success(), "{arguments:?} should have failed");
        assert!(!output.stderr.is_empty());
    }

    fn credential_file(&self) -> PathBuf {
        let folder = self.world.folder().join("state/credentials");
        let mut files = fs::read_dir(folder).expect("a folder").filter_map(Result::ok).map(|entry| entry.path());
        files.next().expect("the host has joined")
    }

    /// Makes a file another for as long as something is tried.
    fn with_file(&mut self, file: &Path, text: &str, attempt: impl FnOnce(&mut Self)) {
        let kept = fs::read(file).expect("readable");
        fs::write(file, text).expect("written");
        attempt(self);
        fs::write(file, kept).expect("written");
    }

    /// Where a canary is, of what was said and of what lies in the world's folder but in the files that are for it.
    fn search(&self, allowed: &[PathBuf]) -> Vec<String> {
        let forms = self.canaries.forms();
        let automaton = AhoCorasick::new(forms.iter().map(|(_, form)| form)).expect("few forms");
        let mut found = Vec::new();
        let mut look = |place: &str, bytes: &[u8]| {
            for hit in automaton.find_overlapping_iter(bytes) {
                found.push(format!("{} in {place}", forms[hit.pattern().as_usize()].0));
            }
        };
        for (place, bytes) in &self.said {
            look(place, bytes);
        }
        for path in files_below(self.world.folder()) {
            if !allowed.iter().any(|allowed| path.starts_with(allowed)) {
                look(&path.display().to_string(), &fs::read(&path).unwrap_or_default());
            }
        }
        found.sort();
        found.dedup();
        found
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files_below(&path)),
            path => found.push(path),
        }
    }
    found
}

/// A value of a file that somebody keeps.
fn value(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} = \"")));
    line.and_then(|line| line.strip_suffix('"')).unwrap_or_else(|| panic!("{name} stands in the file")).to_owned()
}

/// Commits points as the host does that has joined: disks that hold the canary in every chunk, and once among noise.
async fn replicate(story: &Story, canary: &str) {
    let credential = fs::read_to_string(story.credential_file()).expect("readable");
    let opener = Opener::Host(Box::new(HostCredential::parse(&credential).expect("a credential")));
    let address: Address = format!("file:{}", story.world.site.vault_folder().display()).parse().expect("an address");
    let store = Store::open(&address, &StoreOptions::default()).expect("a store");
    let vault = Vault::open(store, &opener, Context::system()).await.expect("opened");
    let (site, group) = (SiteName::new("production").expect("a name"), GroupName::new("orders").expect("a name"));
    let lineage = vault.create_lineage(&group, &site).await.expect("begun");
    let text: Vec<u8> = canary.bytes().cycle().take(4 * CHUNK).collect();
    let mut noise = vec![0; 4 * CHUNK];
    SystemEntropy.fill(&mut noise);
    noise[CHUNK + 7..][..canary.len()].copy_from_slice(canary.as_bytes());
    for content in [text, noise] {
        let (id, disk_id) = (MachineId::new("orders").expect("a name"), DiskId::new("disk0").expect("a name"));
        let writer = lineage.begin_point(Generation::FIRST, &site).await.expect("active");
        let disk = writer.add_disk(&id, &disk_id, content.len() as u64).await.expect("added");
        disk.write(0, Bytes::from(content)).await.expect("accepted");
        let machine = Machine {
            id,
            name: "orders".to_owned(),
            cpus: 1,
            memory_bytes: 1 << 28,
            firmware: Firmware::Bios,
            power: PowerState::Running,
            disks: Vec::new(),
            network_interfaces: Vec::new(),
            properties: BTreeMap::new(),
        };
        let disks = vec![PointDiskDraft { disk: disk_id, basis: Basis::Full, tracking_token: None }];
        let details = PointDetails {
            capture: None,
            captured_at: Timestamp::from_unix_milliseconds(1_795_000_000_000),
            instant: Instant::Group,
            consistency: Consistency::Crash,
            machines: vec![PointMachineDraft { machine, disks }],
            suspended: Vec::new(),
            label: None,
            note: String::new(),
        };
        writer.commit(details).await.expect("committed");
    }
}

/// Keys of the vault in the files that people keep.
fn plant_keys(story: &mut Story, join_file: &Path) {
    let kit = fs::read_to_string(story.world.site.kit_file()).expect("readable");
    let secret = value(&kit, "secret");
    story.canaries.plant("the kit's secret", &unhex(&secret));
    story.canaries.plant("the kit's secret as it stands in its file", secret.as_bytes());
    for (what, path, names) in [
        ("credential", story.credential_file(), &["member-key", "signing-key", "receiving-key"][..]),
        ("join file", join_file.to_owned(), &["invitation-key"]),
    ] {
        let text = fs::read_to_string(path).expect("readable");
        for name in names {
            story.canaries.plant(&format!("{name} of the {what}"), &unhex(&value(&text, name)));
        }
    }
}

/// What goes wrong with files that hold secrets.
fn break_files(story: &mut Story, join_file: &Path) {
    let files = [story.world.site.kit_file(), story.credential_file(), join_file.to_owned()];
    let attempts: [&[&str]; 3] =
        [&["vault", "kit", "check"], &["vault", "info"], &["vault", "join", "accept", "join.toml"]];
    for (file, attempt) in files.iter().zip(attempts) {
        let text = fs::read_to_string(file).expect("readable");
        let key = ["secret = \"", "signing-key = \"", "invitation-key = \""];
        let key = key.into_iter().find(|key| text.contains(key)).expect("it holds a secret");
        // A line that is no TOML, a value of another kind, a digit less, an unknown name: the secret stands in the same line.
        for broken in [
            text.replace(key, &key.replace('"', "")),
            text.replace(key, &key.replace('"', "\"\"\"\n\\")),
            text.replace(key, &format!("{key}x")),
            text.replace(key, &format!("other-{key}")),
            text[..text.len() / 2].to_owned(),
        ] {
            // Without its credential the host may still open the vault with the kit.
            story.with_file(file, &broken, |story| match attempt {
                ["vault", "info"] => drop(story.run_in_turn(attempt)),
                _ => story.fail(attempt),
            });
        }
    }
    let passphrase = story.world.site.passphrase_file();
    let text = fs::read_to_string(&passphrase).expect("readable");
    story.with_file(&passphrase, &format!("{}x\n", text.trim()), |story| story.fail(&["vault", "kit", "check"]));
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o644)).expect("opened");
    let _ = story.run(&["vault", "kit", "check"]);
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).expect("closed");
}

/// Words of the sheet that are typed wrong.
fn type_words(story: &mut Story) {
    let configuration = story.world.site.configuration_file();
    let before = story.said.len();
    let sheet = story.run(&["vault", "kit", "print"]);
    // The sheet is for its words.
    story.said.truncate(before);
    story.said.push(("the messages of `vault kit print`".to_owned(), sheet.stderr));
    let sheet = String::from_utf8(sheet.stdout).expect("text");
    let words: Vec<&str> = sheet.split_whitespace().collect();
    let numbered = |number: usize| words.iter().position(|word| *word == number.to_string()).map(|at| words[at + 1]);
    let words: Vec<&str> = (1..=24).map(|number| numbered(number).expect("a word")).collect();
    story.canaries.plant("words of the kit", words[..4].join(" ").as_bytes());
    story.canaries.plant("the last words of the kit", words[20..].join(" ").as_bytes());
    for typed in [
        words[..23].join(" "),
        format!("{} wrongword", words[..23].join(" ")),
        [&words[1..], &words[..1]].concat().join(" "),
    ] {
        let output = story.run_with(&["vault", "kit", "type", "--output", "typed.toml"], &configuration, Some(&typed));
        assert!(!output.status.success(), "the words are wrong");
    }
}

/// The vault in a bucket that cannot be reached, with a secret in a file; and the secret where it must not stand.
fn reach_no_bucket(story: &mut Story) {
    let secret = story.canaries.text("s3-secret");
    let key_id = story.canaries.text("s3-token");
    let text = fs::read_to_string(story.world.site.configuration_file()).expect("readable");
    let address = format!("address = \"file:{}\"", story.world.site.vault_folder().display());
    let bucket = "address = \"s3://recovery/farshore\"";
    let options = "\n[vault.options]\nregion = \"us-east-1\"\nendpoint = \"http://127.0.0.1:9\"\nallow-http = true\n";
    let secrets =
        "\n[vault.secrets]\naccess-key-id = { file = \"secret/id\" }\nsecret-access-key = { file = \"secret/key\" }\n";
    let folder = story.world.folder().join("secret");
    fs::create_dir(&folder).expect("made");
    for (name, value) in [("id", &key_id), ("key", &secret)] {
        fs::write(folder.join(name), format!("{value}\n")).expect("written");
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600)).expect("closed");
    }
    let cases = [
        format!("{}{options}{secrets}", text.replace(&address, bucket)),
        format!("{}{options}secret-access-key = \"{secret}\"\n", text.replace(&address, bucket)),
        format!("{}{options}\n[vault.secrets]\nsecret-access-key = \"{secret}\"\n", text.replace(&address, bucket)),
        text.replace(&address, &format!("address = \"s3://user:{secret}@recovery/farshore\"")),
        text.replace("passphrase-file = ", &format!("passphrase = \"{secret}\"\npassphrase-file = ")),
    ];
    for (number, configuration) in cases.iter().enumerate() {
        // It holds the secret itself, as no configuration should: so it lies with the files that are for secrets.
        let file = folder.join(format!("{number}.toml"));
        fs::write(&file, configuration.replace("\"secret/", "\"")).expect("written");
        for arguments in [&["config", "check"][..], &["vault", "info"]] {
            let output = story.run_with(arguments, &file, None);
            let is_only_unreachable = number == 0 && arguments[0] == "config";
            assert!(is_only_unreachable || !output.status.success(), "{number}: {arguments:?}");
        }
    }
}

#[tokio::test]
async fn no_secret_is_found_where_it_does_not_belong() {
    let mut story = Story::new();
    story.run(&["vault", "create", "--yes"]);
    story.fail(&["vault", "create", "--yes"]);
    let disk = story.canaries.text("disk-content");
    replicate(&story, &disk).await;

    story.succeed(&["vault", "info"]);
    story.succeed(&["points"]);
    story.succeed(&["vault", "check"]);
    story.succeed(&["vault", "join", "list"]);
    story.succeed(&["vault", "kit", "check"]);
    let created = ["vault", "join", "create", "second", "--powers", "recoverer,pruner", "--output", "join.toml"];
    assert!(story.run(&created).status.success(), "an invitation");
    let join_file = story.world.folder().join("join.toml");
    plant_keys(&mut story, &join_file);
    assert!(story.run(&["restore", "orders", "--to", "restored-1"]).status.success(), "restored");
    story.fail(&["restore", "orders", "--to", "restored-1"]);
    story.fail(&["restore", "nothing", "--to", "restored-2"]);

    // A machine that is not there, damaged and missing objects, wrong keys.
    assert!(!story.run(&["replicate", "--once"]).status.success(), "its machine does not run");
    let packs = files_below(&story.world.site.vault_folder());
    let pack = packs.iter().find(|path| path.to_string_lossy().contains("/packs/")).expect("a pack").clone();
    let whole = fs::read(&pack).expect("readable");
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o644)).expect("writable");
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for damaged in [whole[..whole.len() / 3].to_vec(), flipped] {
        fs::write(&pack, damaged).expect("written");
        story.fail(&["vault", "check", "--full"]);
    }
    for point in ["2", "3"] {
        let _ = story.run(&["restore", "orders", "--point", point, "--to", "restored-3"]);
    }
    fs::write(&pack, whole).expect("written");
    story.succeed(&["vault", "check", "--full"]);
    break_files(&mut story, &join_file);
    type_words(&mut story);
    reach_no_bucket(&mut story);

    let mut allowed = vec![story.world.site.passphrase_file(), story.world.site.kit_file(), join_file];
    allowed.extend(
        ["state/credentials", "secret", "restored-1", "restored-3"].map(|name| story.world.folder().join(name)),
    );
    allowed.push(story.credential_file());
    assert_eq!(story.search(&allowed), Vec::<String>::new());

    // The search finds what is there: in the files that are for secrets, and each form of each.
    let everywhere = story.search(&[]);
    for what in ["passphrase", "the kit's secret", "disk-content", "s3-secret", "signing-key of the credential"] {
        assert!(everywhere.iter().any(|found| found.contains(what)), "{what} was planted: {everywhere:?}");
    }
    assert!(story.said.len() > 60 && story.said.iter().any(|(_, said)| said.windows(5).any(|word| word == b"TRACE")));
}
