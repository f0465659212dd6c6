//! Story: machines go from QEMU to EC2 and from EC2 to QEMU. EC2 and EBS direct are the twin, which checks what it is asked
//! and boots its instances. An outside witness counts.

use std::{fs, path::Path, time::Duration};

use farshore_demo::guest::Agent;
use farshore_e2e::{Acknowledgement, BootReport, Console, Line, Stop, World};
use farshore_plugin::Digest;
use farshore_twin_ebs::{Options, Seen, Twin};
use serde_json::Value;
use tempfile::TempDir;

const BOOT_MAX: Duration = Duration::from_secs(120);

struct Cloud {
    twin: Twin,
    _folder: TempDir,
}

impl Cloud {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("ec").rand_bytes(4).tempdir().expect("a folder");
        let twin = Twin::start(Options { runs: true, ..Options::new(folder.path()) }, [0, 0]).expect("it serves");
        Self { twin, _folder: folder }
    }

    /// The site of this cloud, as an operator writes it.
    fn site(&self, keys: &Path) -> String {
        fs::write(keys.join("key-id"), "TWIN\n").expect("a file");
        fs::write(keys.join("key"), "twin-secret\n").expect("a file");
        let component = fs::canonicalize("../../target/components/aws.wasm").expect("`cargo xtask components` was run");
        let digest = Digest::of(&fs::read(&component).expect("the component"));
        let mut text = format!(
            "\n[sites.cloud]\nadapter = {{ path = {component:?}, digest = \"{digest}\" }}\n\n\
             [sites.cloud.settings]\ninstance-type = \"t3.large\"\nsubnet = \"subnet-0live\"\n\
             security-groups = [\"sg-0live\"]\n\n\
             [sites.cloud.settings-in.drill]\nsubnet = \"subnet-0drill\"\nsecurity-groups = [\"sg-0drill\"]\n"
        );
        for credential in ["protect", "drill", "live"] {
            text += &format!(
                "\n[sites.cloud.credentials.{credential}]\nscheme = \"sigv4\"\nregion = \"eu-west-1\"\n\
                 access-key-id = {{ file = {:?} }}\nsecret-access-key = {{ file = {:?} }}\n",
                keys.join("key-id"),
                keys.join("key")
            );
        }
        for (mode, credential) in [("observe", "protect"), ("protect", "protect"), ("drill", "drill"), ("live", "live")]
        {
            for (service, url) in [("ec2", self.twin.ec2_url()), ("ebs", self.twin.ebs_url())] {
                if (mode, service) != ("observe", "ebs") {
                    text += &format!(
                        "\n[sites.cloud.grants.{mode}.endpoints.{service}]\naddress = \"{url}\"\nallow-http = true\n\
                         credential = \"{credential}\"\nservice = \"{service}\"\n"
                    );
                }
            }
        }
        text
    }

    /// The id of the only instance.
    fn instance(&self) -> String {
        let instances = self.twin.seen().instances;
        let [(instance, _)] = &instances[..] else { panic!("one instance, not {instances:?}") };
        instance.clone()
    }
}

fn report_of(console: &Path) -> BootReport {
    let console = Console::follow(console).expect("its console");
    console.wait_for("the boot report", 0, BOOT_MAX, &Stop::default(), BootReport::parse).expect("it came up").0
}

/// Waits until the guest has acknowledged a row, and returns the newest one then.
fn acknowledged(console: &Console, least: u64) -> u64 {
    let take = |line: &Line| Acknowledgement::parse(line).filter(|found| found.row >= least);
    console.wait_for("a committed row", 0, BOOT_MAX, &Stop::default(), take).expect("the database commits").0.row
}

#[test]
fn a_machine_goes_from_qemu_to_ec2_and_on_to_qemu_with_every_row_of_the_point() {
    let cloud = Cloud::start();
    let mut world = World::new().expect("a world");
    world.resume_guest("orders").expect("a guest");
    world.protect("orders", &["orders"]).expect("a group");
    let text = world.site.configuration().expect("a configuration");
    let text = text.replace("recovery-site = \"recovery\"", "recovery-site = \"cloud\"") + &cloud.site(world.folder());
    fs::write(world.site.configuration_file(), text).expect("a file");
    world.succeed(&["config", "check"]).expect("it is right");
    world.succeed(&["vault", "create", "--yes"]).expect("a vault");
    world.guest("orders").start_workload("database 100").expect("a database");
    let console = Console::follow(world.guest("orders").console().log()).expect("its console");
    acknowledged(&console, 3);
    world.succeed(&["replicate", "--once"]).expect("the first copy");
    let certain = acknowledged(&console, 8);
    world.succeed(&["replicate", "--once"]).expect("a delta");

    // The drill boots where drills boot, and nothing is left of it.
    let drill = world.succeed(&["drill", "orders"]).expect("a drill");
    assert_eq!((&drill["outcome"], &drill["cleaned_up"]), (&Value::from("succeeded"), &Value::from(true)), "{drill}");
    assert_eq!(cloud.twin.seen(), Seen::default());

    world.guest_mut("orders").kill();
    let report = world
        .succeed(&["failover", "unplanned", "orders", "--yes", "--source-is-down", "the test killed it"])
        .expect("a failover");
    assert_eq!(report["outcome"], "succeeded", "{report}");
    let instance = cloud.instance();
    let log = cloud.twin.console_of(&instance);
    let boot = report_of(&log);
    assert!(boot.integrity_ok && boot.last_row >= Some(certain), "{boot:?}, and row {certain} was acknowledged before");
    let seen = cloud.twin.seen();
    assert_eq!((seen.images.len(), seen.snapshots.len(), seen.volumes.len()), (1, 1, 1), "{seen:?}");

    // Now it lives in EC2, and is protected there.
    let text = fs::read_to_string(world.site.configuration_file()).expect("a file");
    let group = format!(
        "\n[groups.back]\nsite = \"cloud\"\nmachines = [\"{instance}\"]\nrecovery-site = \"recovery\"\nrpo = \"5m\"\n"
    );
    fs::write(world.site.configuration_file(), text + &group).expect("a file");
    let agent = Agent::new(&log.with_file_name("agent"), Duration::from_secs(20), &Stop::default());
    agent.succeed("workload database 100").expect("a database");
    let console = Console::follow(&log).expect("its console");
    acknowledged(&console, boot.last_row.unwrap_or(0) + 3);
    let first = world.succeed(&["replicate", "back", "--once"]).expect("the first copy");
    assert_eq!(first[0]["point"]["machines"][0]["disks"][0]["basis"], "full", "{first}");
    let certain = acknowledged(&console, boot.last_row.unwrap_or(0) + 8);
    let delta = world.succeed(&["replicate", "back", "--once"]).expect("a delta");
    assert_eq!(delta[0]["point"]["machines"][0]["disks"][0]["basis"], "tracked", "{delta}");
    let read = |report: &Value| report[0]["read_bytes"].as_u64().expect("a number");
    assert!(read(&delta) < read(&first), "only blocks that changed were read: {delta}");
    let snapshots = cloud.twin.seen().snapshots.len();
    assert_eq!(snapshots, 2, "the image's, and the one that the next changes are told from");

    // The disaster: EC2 itself proves that the instance is off.
    let report = world.succeed(&["failover", "unplanned", "back", "--yes"]).expect("a failover");
    assert_eq!(report["outcome"], "succeeded", "{report}");
    assert!(report.to_string().contains("with the state `stopped`"), "{report}");
    let machines = world.recovered().expect("processes");
    let [machine] = &machines[..] else { panic!("one recovered machine, not {machines:?}") };
    let boot = report_of(machine.console.as_ref().expect("a console"));
    assert!(boot.integrity_ok && boot.last_row >= Some(certain), "{boot:?}, and row {certain} was acknowledged before");
}
