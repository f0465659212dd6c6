//! The four tools: how each makes a repository, copies the disk into it, and brings the newest copy back to a file.
//!
//! All of them keep their repository, cache and settings below one folder, and get the same environment.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use farshore_e2e::Farshore;

/// Where programs are looked for.
const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// What opens the repositories of the other tools. They are thrown away.
const PASSPHRASE: &str = "a passphrase of the bench";
/// What the machine and its group are called.
pub const GROUP: &str = "bench";

/// A tool that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// Ours.
    Farshore,
    /// restic.
    Restic,
    /// Borg.
    Borg,
    /// Compression alone.
    Zstd,
}

impl Tool {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Farshore, Self::Restic, Self::Borg, Self::Zstd];

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Farshore => "farshore",
            Self::Restic => "restic",
            Self::Borg => "borg",
            Self::Zstd => "zstd",
        }
    }
}

/// When a copy is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Into an empty repository.
    First,
    /// After a hundredth of the disk was written.
    Delta,
    /// After nothing happened.
    Idle,
}

/// The places of one round, and the commands there.
pub struct Workshop {
    farshore: Farshore,
    vault: PathBuf,
    image: PathBuf,
    folder: PathBuf,
}

impl Workshop {
    /// Folders for all tools below `folder`, which is made. The image is below none of them.
    pub fn new(farshore: Farshore, vault: PathBuf, image: PathBuf, folder: PathBuf) -> Result<Self> {
        for name in ["home", "restic", "borg", "zstd"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        }
        // The keys of the repositories lie here.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))
            .context("protecting the folder of the tools")?;
        Ok(Self { farshore, vault, image, folder })
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
        let one = |program: &str, arguments: &[&str]| {
            let mut command = self.command(program);
            command.args(arguments);
            vec![command]
        };
        match tool {
            Tool::Farshore => {
                vec![self.farshore(&["vault", "create", "--yes"]), self.farshore(&["machine", "discover"])]
            }
            Tool::Restic => one("restic", &["init", "--quiet"]),
            Tool::Borg => one("borg", &["init", "--encryption", "repokey-blake2"]),
            Tool::Zstd => Vec::new(),
        }
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
    /// would only be its first one again.
    pub fn copy(&self, tool: Tool, step: Step) -> Option<Command> {
        let mut command = match tool {
            Tool::Farshore => return Some(self.farshore(&["replicate", "--once"])),
            Tool::Restic => self.command("restic"),
            Tool::Borg => self.command("borg"),
            Tool::Zstd => self.command("zstd"),
        };
        let archive = match step {
            Step::First => "::first",
            Step::Delta => "::delta",
            Step::Idle => "::idle",
        };
        match tool {
            Tool::Restic => command.args(["backup", "--quiet"]).arg(&self.image),
            Tool::Zstd if step == Step::Idle => return None,
            Tool::Zstd => command.args(["-1", "-T2", "-q", "-f"]).arg(&self.image).arg("-o").arg(self.compressed(step)),
            _ => command.args(["create", "--compression", "zstd,1", archive]).arg(&self.image).arg(self.newer()),
        };
        Some(command)
    }

    /// Brings the newest copy back into a folder, which is there and empty; and where the file will be.
    pub fn restore(&self, tool: Tool, to: &Path) -> Result<(Command, PathBuf)> {
        let file = to.join("disk.raw");
        // restic and borg keep the path of what they copied.
        let kept = to.join(self.image.strip_prefix("/").context("the image's path is not absolute")?);
        let mut command = match tool {
            Tool::Farshore => {
                let mut command = self.farshore(&["restore", GROUP, "--to"]);
                command.arg(&file);
                return Ok((command, file));
            }
            Tool::Restic => self.command("restic"),
            Tool::Borg => self.command("borg"),
            Tool::Zstd => self.command("zstd"),
        };
        match tool {
            Tool::Restic => command.args(["restore", "latest", "--quiet", "--target"]).arg(to),
            Tool::Zstd => {
                command.args(["-d", "-q", "-f"]).arg(self.compressed(Step::Delta)).arg("-o").arg(&file);
                return Ok((command, file));
            }
            _ => command.args(["extract", "--sparse", "::idle"]).current_dir(to),
        };
        Ok((command, kept))
    }

    fn compressed(&self, step: Step) -> PathBuf {
        let name = if step == Step::First { "first.zst" } else { "delta.zst" };
        self.repository(Tool::Zstd).join(name)
    }

    fn farshore(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.farshore.binary);
        command.arg("--config").arg(&self.farshore.configuration).arg("--json").args(arguments);
        command
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let home = self.folder.join("home");
        let mut command = Command::new(program);
        command.env_clear().env("PATH", SEARCH_PATH).env("LC_ALL", "C.UTF-8").env("HOME", &home);
        command.env("RESTIC_REPOSITORY", self.repository(Tool::Restic)).env("RESTIC_PASSWORD", PASSPHRASE);
        command.env("BORG_REPO", self.repository(Tool::Borg)).env("BORG_PASSPHRASE", PASSPHRASE);
        command.env("RESTIC_CACHE_DIR", home.join("restic")).env("BORG_BASE_DIR", &home);
        command
    }
}

/// The first line that a program says of its version.
pub fn version(program: impl AsRef<OsStr>, argument: &str, package: &str) -> Result<String> {
    let program = program.as_ref();
    let output = Command::new(program).arg(argument).output();
    let output = output.with_context(|| {
        format!("starting {}: is the Debian package {package} installed?", program.to_string_lossy())
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let Some(line) = text.lines().find(|line| !line.trim().is_empty()) else {
        bail!("{} does not say its version", program.to_string_lossy());
    };
    Ok(line.trim_matches(['*', ' ']).to_owned())
}
