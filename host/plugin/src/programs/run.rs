//! Running one program to its end.
//!
//! The program gets a process group and an empty folder of its own, an environment of `PATH` and `LANG=C`, an empty
//! standard input, and no way to new privileges (through `setpriv`, where the system has it). At its deadline, or when
//! the component's call ends first, the whole group is killed; what detached itself into a session of its own, as
//! `qemu -daemonize` does, lives on. While the program has not been reaped its number cannot belong to another process,
//! and the group is killed only then.

use std::{
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use farshore_core::{Clock, Entropy};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
};

use crate::limits::{PROGRAM_OUTPUT_BYTES_MAX, PROGRAM_OUTPUT_GRACE};

/// Where programs are looked for by the programs themselves.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What takes away the way to new privileges.
const SETPRIV: &str = "/usr/bin/setpriv";

/// What a program returned and wrote.
#[derive(Debug)]
pub(crate) struct Completion {
    /// What it returned; 128 + n if signal n ended it.
    pub(crate) exit_code: i32,
    /// The last of its standard output.
    pub(crate) output: String,
    /// The last of its standard error.
    pub(crate) errors: String,
}

/// Why a program did not run to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// It is not there.
    #[error("the program {} does not exist", .0.display())]
    NoProgram(PathBuf),
    /// The system did not start it or did not say how it ended.
    #[error("the program {} cannot run: {source}", .program.display())]
    System {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It did not end in time.
    #[error("the program {} did not end within {} ms and was killed", .program.display(), .limit.as_millis())]
    TimedOut {
        /// The program.
        program: PathBuf,
        /// How long it could take.
        limit: Duration,
    },
}

/// Runs the program, for at most `limit`.
pub(crate) async fn run(
    program: &Path,
    arguments: &[String],
    limit: Duration,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Completion, RunError> {
    let system = |source| RunError::System { program: program.to_owned(), source };
    match tokio::fs::metadata(program).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(RunError::NoProgram(program.to_owned()));
        }
        Err(error) => return Err(system(error)),
    }
    let folder = OwnFolder::make(entropy).map_err(system)?;
    let child = command(program, arguments, &folder.0).await.spawn().map_err(system)?;
    let mut running = Running::new(child);
    let output = Tail::follow(running.child.stdout.take());
    let errors = Tail::follow(running.child.stderr.take());
    let status = tokio::select! {
        status = running.wait() => status.map_err(system)?,
        () = clock.sleep(limit) => return Err(RunError::TimedOut { program: program.to_owned(), limit }),
    };
    let (output, errors) = tokio::join!(output.finish(clock), errors.finish(clock));
    Ok(Completion { exit_code: exit_code(status), output, errors })
}

async fn command(program: &Path, arguments: &[String], folder: &Path) -> Command {
    let mut command = if tokio::fs::metadata(SETPRIV).await.is_ok() {
        let mut command = Command::new(SETPRIV);
        command.arg("--no-new-privs").arg("--").arg(program);
        command
    } else {
        Command::new(program)
    };
    command
        .args(arguments)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("LANG", "C")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    command
}

fn exit_code(status: ExitStatus) -> i32 {
    // A process that ended has either returned a code or been ended by a signal.
    status.code().or_else(|| status.signal().map(|signal| signal.saturating_add(128))).unwrap_or(-1)
}

/// A program that runs; dropping it kills its group.
struct Running {
    child: Child,
    reaped: bool,
}

impl Running {
    const fn new(child: Child) -> Self {
        Self { child, reaped: false }
    }

    async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.reaped = true;
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        let group = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(group) = group
            && let Err(error) = kill_process_group(group, Signal::KILL)
        {
            // The group can be gone already: its leader ended and nothing else was in it.
            tracing::debug!(%error, ?group, "a program's process group was not killed");
        }
    }
}

/// An empty folder that goes with its program.
struct OwnFolder(PathBuf);

impl OwnFolder {
    fn make(entropy: &dyn Entropy) -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes);
        let name = format!("farshore-program-{}", blake3::Hash::from_bytes(blake3::hash(&bytes).into()).to_hex());
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for OwnFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "the folder of a program could not be removed");
        }
    }
}

/// The last bytes of a stream, read by a task of their own so that the program never waits for a reader.
struct Tail {
    bytes: Arc<Mutex<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Tail {
    fn follow(stream: Option<impl AsyncRead + Unpin + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bytes);
        let task = tokio::spawn(async move {
            let Some(mut stream) = stream else { return };
            let mut buffer = vec![0; 16 << 10];
            // A stream that cannot be read is at its end as far as its reader is concerned.
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
                let excess = kept.len().saturating_sub(PROGRAM_OUTPUT_BYTES_MAX);
                kept.drain(..excess);
            }
        });
        Self { bytes, task }
    }

    /// What was read by the stream's end, or shortly after the program's.
    async fn finish(mut self, clock: &dyn Clock) -> String {
        tokio::select! {
            _ = &mut self.task => {}
            () = clock.sleep(PROGRAM_OUTPUT_GRACE) => {}
        }
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.task.abort();
    }
}
