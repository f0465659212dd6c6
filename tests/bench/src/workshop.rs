//! The places of one round, and the commands there: how each tool makes a repository, copies the disk into it, and brings the
//! newest copy back to a file.
//!
//! All of them keep their repository, cache and settings below one folder, and get the same environment.
//!
//! Farshore runs as two hosts, as it would at an operator's. The host that made the vault copies: it has joined as
//! `replicator` and `controller`. Another, which has joined as `recoverer` and `controller`, restores. What is measured has a
//! configuration that names neither kit nor passphrase, so that each host opens the vault with its own credential or not at
//! all; only making the vault and letting the second host in takes them.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use farshore_e2e::Farshore;

use crate::tools::{Programs, Step, Tool};

/// Where programs are looked for.
const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// What opens the repositories of the other tools. They are thrown away.
const PASSPHRASE: &str = "a passphrase of the bench";
/// What the machine and its group are called.
pub const GROUP: &str = "bench";
/// What the host that restores is called.
const SHELTER: &str = "shelter";
/// The file in which the disk lies, in a folder with nothing else: kopia copies folders.
const DISK_FILE: &str = "disk.raw";

/// What a round has been given.
pub struct Places {
    /// Our command line, with the configuration that names the kit and the passphrase.
    pub farshore: Farshore,
    /// That configuration's text.
    pub configuration: String,
    /// Where our vault will be.
    pub vault: PathBuf,
    /// The programs of the others.
    pub programs: Programs,
    /// For everything else. It is made.
    pub folder: PathBuf,
}

/// The places of one round, and the commands there.
pub struct Workshop {
    farshore: Farshore,
    /// The configurations of what is measured.
    host: PathBuf,
    shelter: PathBuf,
    vault: PathBuf,
    programs: Programs,
    folder: PathBuf,
}

impl Workshop {
    /// Makes folders and configurations.
    pub fn new(places: Places) -> Result<Self> {
        let Places { farshore, configuration, vault, programs, folder } = places;
        let others = programs.tools().into_iter().filter(|tool| *tool != Tool::Farshore).map(Tool::name);
        for name in ["home"].into_iter().chain(others) {
            let path = folder.join(name);
            fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        }
        // The keys of the repositories lie here.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))
            .context("protecting the folder of the tools")?;
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            Ok::<_, anyhow::Error>(path)
        };
        let host = write("host.toml", without_kit(&configuration)?)?;
        let shelter = write("shelter.toml", with_state(&without_kit(&configuration)?, &folder.join(SHELTER))?)?;
        Ok(Self { farshore, host, shelter, vault, programs, folder })
    }

    /// The tools that are measured, in the order of the tables.
    pub fn tools(&self) -> Vec<Tool> {
        self.programs.tools()
    }

    /// Where the disk is.
    pub fn image(&self) -> PathBuf {
        image_below(&self.folder)
    }

    fn image_folder(&self) -> PathBuf {
        image_folder_below(&self.folder)
    }

    /// Where a tool keeps what it has copied.
    pub fn repository(&self, tool: Tool) -> PathBuf {
        match tool {
            Tool::Farshore => self.vault.clone(),
            _ => self.folder.join(tool.name()),
        }
    }

    /// Makes an empty repository, and whatever a tool makes once for ever, such as Farshore's compiled component.
    pub fn create(&self, tool: Tool) -> Vec<Command> {
        let command = |arguments: &[&str]| {
            let mut command = self.command(tool);
            command.args(arguments);
            command
        };
        match tool {
            Tool::Farshore => self.create_vault(),
            Tool::Restic => vec![command(&["init", "--quiet"])],
            Tool::Borg => vec![command(&["init", "--encryption", "repokey-blake2"])],
            Tool::Rustic => vec![command(&["init", "--set-compression", "1"])],
            Tool::Kopia => {
                let mut create = command(&["repository", "create", "filesystem", "--path"]);
                create.arg(self.repository(tool));
                let compress = command(&["policy", "set", "--global", "--compression", "zstd-fastest"]);
                // Nothing is deleted here, and no other tool looks for something to delete after a copy.
                let rest = command(&["maintenance", "set", "--enable-quick", "false", "--enable-full", "false"]);
                vec![create, compress, rest]
            }
            Tool::Zstd | Tool::Dd => Vec::new(),
        }
    }

    fn create_vault(&self) -> Vec<Command> {
        let join = self.folder.join("shelter.join");
        let administrator = |arguments: &[&str]| self.farshore(&self.farshore.configuration, arguments);
        let mut invite =
            administrator(&["vault", "join", "create", SHELTER, "--powers", "recoverer,controller", "--output"]);
        invite.arg(&join);
        let mut accept = self.farshore(&self.shelter, &["vault", "join", "accept"]);
        accept.arg(&join);
        vec![
            administrator(&["vault", "create", "--yes"]),
            administrator(&["machine", "discover"]),
            invite,
            accept,
            administrator(&["vault", "join", "approve", SHELTER]),
        ]
    }

    /// Touches what must be newer than the disk before a copy: borg never takes the file with the newest time stamp of a copy
    /// for unchanged, and so would read the disk again for ever if it were the only one.
    pub fn touch(&self) -> Result<()> {
        let path = self.newer();
        fs::write(&path, "newer than the disk\n").with_context(|| format!("writing {}", path.display()))
    }

    fn newer(&self) -> PathBuf {
        self.folder.join("newer")
    }

    /// Copies the disk. None if the tool has nothing of the kind: zstd does not know what it did before, so an idle copy
    /// would only be its first one again, and dd reads the disk once and for all.
    pub fn copy(&self, tool: Tool, step: Step) -> Option<Command> {
        let image = self.image();
        let archive = match step {
            Step::First => "::first",
            Step::Delta => "::delta",
            Step::Idle => "::idle",
        };
        let mut command = match tool {
            Tool::Farshore => return Some(self.farshore(&self.host, &["replicate", "--once"])),
            Tool::Zstd if step == Step::Idle => return None,
            Tool::Dd if step != Step::First => return None,
            _ => self.command(tool),
        };
        match tool {
            Tool::Farshore => {}
            Tool::Restic => {
                command.args(["backup", "--quiet"]).arg(&image);
            }
            Tool::Borg => {
                command.args(["create", "--compression", "zstd,1", archive]).arg(&image).arg(self.newer());
            }
            Tool::Rustic => {
                command.arg("backup").arg(&image);
            }
            Tool::Kopia => {
                command.args(["snapshot", "create"]).arg(self.image_folder());
            }
            Tool::Zstd => {
                command.args(["-1", "-T2", "-q", "-f"]).arg(&image).arg("-o").arg(self.compressed(step));
            }
            Tool::Dd => {
                command.args(["status=none", "bs=1M", "of=/dev/null"]).arg(operand("if=", &image));
            }
        }
        Some(command)
    }

    /// Brings the newest copy back into a folder, which is there and empty; and where the file will be.
    pub fn restore(&self, tool: Tool, to: &Path) -> Result<(Command, PathBuf)> {
        let file = to.join(DISK_FILE);
        // Some keep the path of what they copied.
        let kept = to.join(self.image().strip_prefix("/").context("the image's path is not absolute")?);
        let mut command = match tool {
            Tool::Farshore => self.farshore(&self.shelter, &["restore", GROUP, "--to"]),
            _ => self.command(tool),
        };
        let restored = match tool {
            Tool::Farshore => {
                command.arg(&file);
                file
            }
            Tool::Restic => {
                command.args(["restore", "latest", "--quiet", "--target"]).arg(to);
                kept
            }
            Tool::Borg => {
                command.args(["extract", "--sparse", "::idle"]).current_dir(to);
                kept
            }
            Tool::Rustic => {
                command.args(["restore", "--sparse", "by-content", "latest"]).arg(to);
                kept
            }
            Tool::Kopia => {
                command.args(["snapshot", "restore", "--write-sparse-files"]).arg(self.image_folder()).arg(to);
                file
            }
            Tool::Zstd => {
                command.args(["-d", "-q", "-f"]).arg(self.compressed(Step::Delta)).arg("-o").arg(&file);
                file
            }
            Tool::Dd => {
                command.args(["status=none", "bs=64K", "conv=sparse,fsync"]);
                command.arg(operand("if=", &self.image())).arg(operand("of=", &file));
                file
            }
        };
        Ok((command, restored))
    }

    /// What a tool reads to restore.
    pub fn restored_from(&self, tool: Tool) -> PathBuf {
        if tool == Tool::Dd { self.image() } else { self.repository(tool) }
    }

    fn compressed(&self, step: Step) -> PathBuf {
        let name = if step == Step::First { "first.zst" } else { "delta.zst" };
        self.repository(Tool::Zstd).join(name)
    }

    fn farshore(&self, configuration: &Path, arguments: &[&str]) -> Command {
        let mut command = self.started(&self.farshore.binary);
        command.arg("--config").arg(configuration).arg("--json").args(arguments);
        command
    }

    /// The program of a tool that is among [`Workshop::tools`].
    fn command(&self, tool: Tool) -> Command {
        self.started(self.programs.find(tool).unwrap_or_else(|| Path::new(tool.name())))
    }

    fn started(&self, program: impl AsRef<OsStr>) -> Command {
        let home = self.folder.join("home");
        let mut command = Command::new(program);
        command.env_clear().env("PATH", SEARCH_PATH).env("LC_ALL", "C.UTF-8").env("HOME", &home);
        command.env("RESTIC_REPOSITORY", self.repository(Tool::Restic)).env("RESTIC_PASSWORD", PASSPHRASE);
        command.env("BORG_REPO", self.repository(Tool::Borg)).env("BORG_PASSPHRASE", PASSPHRASE);
        command.env("RUSTIC_REPOSITORY", self.repository(Tool::Rustic)).env("RUSTIC_PASSWORD", PASSPHRASE);
        command.env("KOPIA_CONFIG_PATH", home.join("kopia.config")).env("KOPIA_PASSWORD", PASSPHRASE);
        command.env("RESTIC_CACHE_DIR", home.join("restic")).env("BORG_BASE_DIR", &home);
        command.env("RUSTIC_CACHE_DIR", home.join("rustic")).env("RUSTIC_NO_PROGRESS", "true");
        command.env("KOPIA_CACHE_DIRECTORY", home.join("kopia")).env("KOPIA_LOG_DIR", home.join("kopia-logs"));
        command.env("KOPIA_CHECK_FOR_UPDATES", "false");
        command
    }
}

/// Where the disk is, below the folder of a workshop.
pub fn image_below(folder: &Path) -> PathBuf {
    image_folder_below(folder).join(DISK_FILE)
}

fn image_folder_below(folder: &Path) -> PathBuf {
    folder.join("disk")
}

/// An operand of dd.
fn operand(name: &str, path: &Path) -> OsString {
    let mut operand = OsString::from(name);
    operand.push(path);
    operand
}

/// A configuration without what opens the vault for an administrator.
fn without_kit(configuration: &str) -> Result<String> {
    let opens = |line: &str| ["kit-file = ", "passphrase-file = "].iter().any(|name| line.starts_with(name));
    let kept: Vec<&str> = configuration.lines().filter(|line| !opens(line)).collect();
    ensure!(
        kept.len() + 2 == configuration.lines().count(),
        "the configuration does not name the kit and the passphrase"
    );
    Ok(kept.join("\n") + "\n")
}

/// A configuration of another host, which keeps its credential elsewhere.
fn with_state(configuration: &str, folder: &Path) -> Result<String> {
    let folder = serde_json::Value::from(folder.to_str().context("the folder's path is not text")?);
    let of_state = |line: &&str| line.starts_with("state-folder = ");
    ensure!(configuration.lines().filter(of_state).count() == 1, "the configuration does not name its state folder");
    let lines = configuration.lines().map(|line| match of_state(&line) {
        true => format!("state-folder = {folder}\n"),
        false => format!("{line}\n"),
    });
    Ok(lines.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_opens_the_vault_with_its_hosts_credential_or_not_at_all() {
        let text = "[host]\nstate-folder = \"/s\"\n\n[vault]\naddress = \"file:/v\"\nkit-file = \"k\"\npassphrase-file = \"p\"\n";
        let host = without_kit(text).expect("it names both");
        assert_eq!(host, "[host]\nstate-folder = \"/s\"\n\n[vault]\naddress = \"file:/v\"\n");
        let shelter = with_state(&host, Path::new("/t")).expect("it names one");
        assert_eq!(shelter, host.replace("/s", "/t"));
        without_kit(&host).expect_err("there is none");
        with_state("[host]\n", Path::new("/t")).expect_err("there is none");
    }
}
