//! A configuration for guests that run here: one site where they run, one site where they are recovered, one vault.
//!
//! It is what an operator of QEMU machines would write, so it is written as TOML text, with the reasons as comments. The
//! demonstration shows it, and the end-to-end tests use the same.
//!
//! | below the folder | what |
//! | --- | --- |
//! | `farshore.toml` | the configuration |
//! | `passphrase`, `recovery-kit.toml` | what opens the vault, together |
//! | `vault/` | the vault |
//! | `state/`, `cache/` | Farshore's journals of captures, and compiled components |
//! | `run/` | the sockets that QEMU makes, the fleece files |
//! | `recovered/` | machines that a failover brought up: disks, sockets, consoles |
//! | `drill/` | the same for drills, which must not reach what a failover brought up |

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use farshore_core::{Entropy, SystemEntropy};

use crate::{
    error::{AtPath, DemoError},
    guest::{Guest, SOCKET_PATH_BYTES_MAX},
    program,
    recovered::{RecoveredMachine, machines_below},
};

/// What the adapter adds to the folder of a capture's sockets, and to those of recovered machines, at most, in bytes.
const CAPTURE_SOCKET_BYTES_MAX: usize = 75;
const MACHINE_SOCKET_BYTES_MAX: usize = 40;

/// What connects a recovered machine's network card: in a drill nothing does.
const NETWORKS: [(&str, &[&str]); 2] = [
    ("drill", &["-device", "virtio-net-pci,id={id:name},mac={mac:mac},romfile="]),
    (
        "live",
        &[
            "-netdev",
            "user,id=net-{id:name},restrict=on",
            "-device",
            "virtio-net-pci,id={id:name},mac={mac:mac},netdev=net-{id:name},romfile=",
        ],
    ),
];

/// How QEMU starts a recovered machine, but for its network.
const ARGUMENTS: &str = r#"    "-accel", "tcg,tb-size=128", "-machine", "pc", "-cpu", "Nehalem",
    "-nodefaults", "-no-user-config", "-display", "none", "-daemonize",
    "-name", "{name:name}", "-uuid", "{uuid:uuid}",
    "-smp", "{cpus:integer}", "-m", "size={memory-mib:integer}M",
    "-qmp", "unix:{qmp:path},server=on,wait=off",
    "-chardev", "file,id=console,path={serial-log:path}", "-serial", "chardev:console",
    "-device", "virtio-serial-pci,id=ports",
    "-chardev", "socket,id=agent,path={agent:path},server=on,wait=off",
    "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
    { each = "disks", arguments = [
        "-drive", "file={path:path},format=raw,if=none,id=drive-{id:name}",
        "-device", "virtio-blk-pci,id={id:name},drive=drive-{id:name}",
    ] },
"#;

/// A machine that is to be protected.
#[derive(Debug, Clone)]
pub struct ProtectedMachine {
    /// What Farshore calls it.
    pub name: String,
    /// Its QMP socket.
    pub qmp: PathBuf,
    /// Its guest agent's socket.
    pub agent: PathBuf,
}

impl From<&Guest> for ProtectedMachine {
    fn from(guest: &Guest) -> Self {
        Self { name: guest.name().to_owned(), qmp: guest.qmp_socket(), agent: guest.agent_socket() }
    }
}

/// A group of machines.
#[derive(Debug, Clone)]
pub struct ProtectedGroup {
    /// Its name.
    pub name: String,
    /// The names of its machines.
    pub machines: Vec<String>,
    /// The objective, as the configuration writes it: `5s`.
    pub rpo: String,
    /// The longest that a guest may be held: `250ms`.
    pub stall_limit: String,
    /// `crash` or `application`.
    pub consistency: String,
    /// Lines that the configuration has of it beside these.
    pub more: String,
}

impl ProtectedGroup {
    /// A crash-consistent group with an objective of 5 s, whose guests may be held for 500 ms.
    pub fn new(name: &str, machines: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            machines: machines.iter().map(|machine| (*machine).to_owned()).collect(),
            rpo: "5s".to_owned(),
            stall_limit: "500ms".to_owned(),
            consistency: "crash".to_owned(),
            more: String::new(),
        }
    }
}

/// The folder of a configuration and everything that it names.
#[derive(Debug, Clone)]
pub struct Site {
    folder: PathBuf,
    /// The machines of the site where they run.
    pub machines: Vec<ProtectedMachine>,
    /// The groups.
    pub groups: Vec<ProtectedGroup>,
    /// How much of what guests overwrite during a capture is kept for each disk, in MiB.
    pub fleece_limit_mib: u64,
}

impl Site {
    /// A site without machines in this folder, which is made. The passphrase is made too, if there is none.
    ///
    /// # Errors
    /// The folder's path is too long for sockets in it, or it cannot be written.
    pub fn new(folder: &Path) -> Result<Self, DemoError> {
        let site = Self { folder: folder.to_owned(), machines: Vec::new(), groups: Vec::new(), fleece_limit_mib: 256 };
        let length = |folder: PathBuf, name_bytes_max: usize| folder.as_os_str().len() + name_bytes_max;
        let longest = length(site.run_folder(), CAPTURE_SOCKET_BYTES_MAX)
            .max(length(site.recovered_folder(), MACHINE_SOCKET_BYTES_MAX));
        if longest > SOCKET_PATH_BYTES_MAX {
            let (path, length_bytes_max) = (site.folder, SOCKET_PATH_BYTES_MAX);
            return Err(DemoError::PathTooLong { path, length_bytes: longest, length_bytes_max });
        }
        for folder in ["", "state", "cache", "run", "recovered", "drill"] {
            let path = site.folder.join(folder);
            fs::create_dir_all(&path).at("make", &path)?;
        }
        let passphrase = site.passphrase_file();
        if !passphrase.exists() {
            let mut bytes = [0; 16];
            SystemEntropy.fill(&mut bytes);
            fs::write(&passphrase, format!("{:032x}\n", u128::from_be_bytes(bytes))).at("write", &passphrase)?;
            fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).at("protect", &passphrase)?;
        }
        Ok(site)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The configuration's file.
    pub fn configuration_file(&self) -> PathBuf {
        self.folder.join("farshore.toml")
    }

    /// The passphrase's file.
    pub fn passphrase_file(&self) -> PathBuf {
        self.folder.join("passphrase")
    }

    /// The recovery kit's file, once there is a vault.
    pub fn kit_file(&self) -> PathBuf {
        self.folder.join("recovery-kit.toml")
    }

    /// The vault's folder.
    pub fn vault_folder(&self) -> PathBuf {
        self.folder.join("vault")
    }

    /// Where QEMU makes sockets and fleece files.
    pub fn run_folder(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// Where machines live that a failover brought up.
    pub fn recovered_folder(&self) -> PathBuf {
        self.folder.join("recovered")
    }

    /// Where the machines of drills live.
    pub fn drill_folder(&self) -> PathBuf {
        self.folder.join("drill")
    }

    /// The machines that run now at the recovery site, of drills and of failovers.
    ///
    /// # Errors
    /// The system does not show its processes.
    pub fn recovered_machines(&self) -> Result<Vec<RecoveredMachine>, DemoError> {
        let mut machines = machines_below(&self.recovered_folder())?;
        machines.extend(machines_below(&self.drill_folder())?);
        Ok(machines)
    }

    /// Writes the configuration.
    ///
    /// # Errors
    /// The file cannot be written, or a path cannot stand in it.
    pub fn write(&self) -> Result<(), DemoError> {
        let path = self.configuration_file();
        fs::write(&path, self.configuration()?).at("write", &path)
    }

    /// The configuration's text.
    ///
    /// # Errors
    /// QEMU is not installed.
    pub fn configuration(&self) -> Result<String, DemoError> {
        let run = quote(&self.run_folder());
        let sockets = quote(&self.run_folder().join("*"));
        let nbd = format!("unix:{}", self.run_folder().join("*").display());
        let (mut control, mut granted) = (Vec::new(), vec![sockets]);
        let mut machines = String::new();
        for machine in &self.machines {
            let (name, qmp, agent) = (quote_text(&machine.name), quote(&machine.qmp), quote(&machine.agent));
            machines += &format!("    {{ name = {name}, qmp = {qmp}, agent = {agent} }},\n");
            granted.extend([qmp.clone(), agent]);
            control.push(qmp);
        }
        let mut text = format!(
            "\
# Written for guests that run on this machine; an operator's own would look the same.

[host]
state-folder = {state}
cache-folder = {cache}

[vault]
address = {vault}
kit-file = {kit}
passphrase-file = {passphrase}

# Where the machines run.
[sites.production]
adapter = \"qemu\"

[sites.production.settings]
socket-folder = {run}
fleece-folder = {run}
fleece-limit-mib = {fleece_limit_mib}
machines = [
{machines}]

# Looking needs the machines' control sockets and nothing else.
[sites.production.grants.observe]
unix = [{control}]

[sites.production.grants.protect]
unix = [{granted}]
nbd = [{nbd}]
files = [{{ folder = {run}, access = \"read-write\" }}]

# Turning a lost machine off, in a failover, needs its control socket.
[sites.production.grants.live]
unix = [{control}]

# Where they are recovered. In a drill the machines get no network at all; nothing here reaches the site above. A drill has a
# folder of its own, because what lives in the other folder after a failover is production.
[sites.recovery]
adapter = \"qemu\"
",
            state = quote(&self.folder.join("state")),
            cache = quote(&self.folder.join("cache")),
            vault = quote_text(&format!("file:{}", self.vault_folder().display())),
            kit = quote(&self.kit_file()),
            passphrase = quote(&self.passphrase_file()),
            fleece_limit_mib = self.fleece_limit_mib,
            control = control.join(", "),
            granted = granted.join(", "),
            nbd = quote_text(&nbd),
        );
        for ((mode, network), folder) in NETWORKS.into_iter().zip([self.drill_folder(), self.recovered_folder()]) {
            text += &recovery_mode(mode, network, &folder)?;
        }
        for group in &self.groups {
            let names: Vec<String> = group.machines.iter().map(|name| quote_text(name)).collect();
            let ProtectedGroup { name, rpo, stall_limit, consistency, more, .. } = group;
            text += &format!(
                "\n[groups.{name}]\nsite = \"production\"\nmachines = [{}]\nrecovery-site = \"recovery\"\nrpo = \
                 \"{rpo}\"\nstall-limit = \"{stall_limit}\"\nconsistency = \"{consistency}\"\n{more}\n",
                names.join(", ")
            );
        }
        Ok(text)
    }
}

/// What the recovery site is told and may do in one mode, and how it starts a machine then.
fn recovery_mode(mode: &str, network: &[&str], folder: &Path) -> Result<String, DemoError> {
    let qemu = program::find("qemu-system-x86_64").ok_or_else(|| DemoError::MissingPrograms {
        programs: vec!["qemu-system-x86_64"],
        packages: vec!["qemu-system-x86"],
    })?;
    let network: Vec<String> = network.iter().map(|argument| quote_text(argument)).collect();
    Ok(format!(
        "
[sites.recovery.settings-in.{mode}]
machine-folder = {quoted}
socket-folder = {quoted}

[sites.recovery.grants.{mode}]
unix = [{sockets}]
files = [{{ folder = {quoted}, access = \"read-write\" }}]

[sites.recovery.programs.{mode}.start-machine]
program = {program}
arguments = [
{ARGUMENTS}    {{ each = \"network-interfaces\", arguments = [{network}] }},
]
",
        sockets = quote(&folder.join("*")),
        quoted = quote(folder),
        program = quote(&qemu),
        network = network.join(", "),
    ))
}

/// A path as a TOML string.
fn quote(path: &Path) -> String {
    quote_text(&path.to_string_lossy())
}

/// A text as a TOML basic string, whose escapes JSON's are.
fn quote_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_too_deep_for_sockets_is_refused() {
        let folder = Path::new("/tmp").join("x".repeat(30));
        assert!(matches!(Site::new(&folder), Err(DemoError::PathTooLong { .. })));
        assert!(!folder.exists(), "nothing was made");
    }

    #[test]
    fn a_drill_has_a_network_card_and_no_network() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = Site::new(folder.path()).expect("a site").configuration().expect("QEMU is installed");
        let mode = |name: &str| {
            let begin = format!("[sites.recovery.programs.{name}.start-machine]");
            text.split(&begin).nth(1).expect("the mode").split("\n[").next().expect("its lines").to_owned()
        };
        assert!(mode("drill").contains("virtio-net-pci") && !mode("drill").contains("netdev"));
        assert!(mode("live").contains("-netdev"));
    }

    /// Fills a template as the host does, and returns the arguments.
    fn fill(template: &toml::Value, slots: &[(&str, String)]) -> Vec<String> {
        let fill_text = |text: &toml::Value, id: &str| {
            let mut text = text.as_str().expect("a text").replace("{id:name}", id);
            for (slot, value) in slots {
                text = text.replace(&format!("{{{slot}}}"), value);
            }
            assert!(!text.contains('{'), "a slot that the adapter does not fill: {text}");
            text
        };
        let arguments = template["arguments"].as_array().expect("arguments");
        let each = |argument: &toml::Value| match argument.get("arguments").and_then(toml::Value::as_array) {
            Some(repeated) => {
                let id = if argument["each"].as_str() == Some("disks") { "vd0" } else { "nic0" };
                repeated.iter().map(|text| fill_text(text, id)).collect::<Vec<_>>()
            }
            None => vec![fill_text(argument, "")],
        };
        arguments.iter().flat_map(each).collect()
    }

    #[test]
    fn qemu_takes_the_templates_of_both_modes() {
        let folder = tempfile::tempdir().expect("a folder");
        let site = Site::new(folder.path()).expect("a site");
        let text = site.configuration().expect("QEMU is installed");
        let document: toml::Value = toml::from_str(&text).expect("TOML");
        for (mode, uuid, folder) in [
            ("drill", "01234567-89ab-4def-8123-456789abcdef", site.drill_folder()),
            ("live", "11234567-89ab-4def-8123-456789abcdef", site.recovered_folder()),
        ] {
            let recovery = &document["sites"]["recovery"];
            assert_eq!(recovery["settings-in"][mode]["machine-folder"].as_str(), folder.to_str());
            assert_eq!(recovery["grants"][mode]["files"].as_array().map(Vec::len), Some(1));
            assert_eq!(recovery["grants"][mode]["files"][0]["folder"].as_str(), folder.to_str());
            let path = |name: &str| folder.join(format!("{mode}.{name}")).display().to_string();
            let disk = crate::guest::disk::empty(Path::new(&path("raw")), 1 << 20, crate::guest::DiskFormat::Raw);
            disk.expect("a disk");
            let template = &recovery["programs"][mode]["start-machine"];
            let slots = [
                ("name:name", "orders".to_owned()),
                ("uuid:uuid", uuid.to_owned()),
                ("memory-mib:integer", "64".to_owned()),
                ("cpus:integer", "1".to_owned()),
                ("qmp:path", path("qmp")),
                ("agent:path", path("agent")),
                ("serial-log:path", path("log")),
                ("path:path", path("raw")),
                ("mac:mac", "52:54:00:fa:25:01".to_owned()),
            ];
            let program = template["program"].as_str().expect("a program");
            program::output(program::command(program).args(fill(template, &slots))).expect("QEMU starts and detaches");
            let machines = site.recovered_machines().expect("processes are shown");
            let [machine] = &machines[..] else { panic!("one machine: {machines:?}") };
            // Ended before anything is asserted, so that nothing is left if an assertion fails.
            machine.end().expect("it ends");
            assert_eq!((machine.uuid.as_str(), machine.is_without_network()), (uuid, mode == "drill"));
            assert_eq!(machine.console.as_deref(), Some(Path::new(&path("log"))));
            assert_eq!(machine.agent.as_deref(), Some(Path::new(&path("agent"))));
        }
    }

    #[test]
    fn quotes_and_backslashes_stay_inside_a_string() {
        assert_eq!(quote_text(r#"a"b\c"#), r#""a\"b\\c""#);
    }
}
