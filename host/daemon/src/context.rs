//! What every command has at hand: where to write, what time it is, when to stop, which configuration.

use std::{
    future::Future,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use farshore_core::{Clock, Entropy, Limits, SystemClock, SystemEntropy, Throttle};
use tokio_util::sync::CancellationToken;

use crate::{
    arguments::Global,
    config::Configuration,
    error::{CliError, Signal},
    output::{Output, Style},
};

/// What every command has at hand.
pub struct Context {
    /// Where results and remarks go.
    pub output: Output,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where ids come from.
    pub entropy: Arc<dyn Entropy>,
    /// Cancelled by SIGINT and SIGTERM.
    pub stop: CancellationToken,
    /// Which of them came first.
    pub signal: Arc<OnceLock<Signal>>,
    /// The operator said `--yes`.
    pub yes: bool,
    /// The configuration's file.
    pub config_file: PathBuf,
    /// The recovery kit that the command line names.
    pub kit_file: Option<PathBuf>,
    /// How fast this process sends to vaults whose configuration says how fast.
    pub uploads: Arc<Throttle>,
}

impl Context {
    /// The context of this process.
    pub fn new(global: &Global) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        Self {
            output: Output { json: global.json, style: Style::for_standard_error(global.no_color) },
            uploads: Arc::new(Throttle::new(Arc::clone(&clock), Limits::default())),
            clock,
            entropy: Arc::new(SystemEntropy),
            stop: CancellationToken::new(),
            signal: Arc::new(OnceLock::new()),
            yes: global.yes,
            config_file: global.config.clone(),
            kit_file: global.kit.clone(),
        }
    }

    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// When it cannot be read, or has mistakes.
    pub fn configuration(&self) -> Result<Configuration, CliError> {
        Configuration::load(&self.config_file)
    }

    /// The error of a command that a signal ended. `left` says in what state things are.
    pub fn interrupted(&self, left: &'static str) -> CliError {
        CliError::Interrupted { signal: self.signal.get().copied().unwrap_or(Signal::Terminate), left }
    }

    /// Does something that may be dropped at any moment, until a signal comes.
    ///
    /// # Errors
    /// [`CliError::Interrupted`] when one came first.
    pub async fn until_stopped<T>(&self, left: &'static str, work: impl Future<Output = T>) -> Result<T, CliError> {
        tokio::select! {
            result = work => Ok(result),
            () = self.stop.cancelled() => Err(self.interrupted(left)),
        }
    }
}
