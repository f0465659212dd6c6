//! The one binary: it turns words on a command line and in a file into calls of the crates below, and shows what they say.
//!
//! It must not decide anything about replication, failover or the vault's contents: a command is arguments, one call, and
//! a rendering. Only this crate writes to the terminal.

mod adapters;
mod api;
mod arguments;
mod capsule;
mod codes;
mod command;
mod config;
mod context;
mod endpoints;
mod engine;
mod error;
mod keys;
mod observers;
mod output;
mod serve;
mod vault;

use std::{io, process::ExitCode, sync::Arc};

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{
    arguments::{Arguments, Global},
    context::Context,
    error::{CliError, Signal},
    output::{Failure, Output, Style},
};

/// The C library's allocator keeps what many threads have freed in pieces that it cannot use again: a long copy grows without end.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse_arguments(&error),
    };
    let context = Context::new(&arguments.global);
    start_log(&arguments.global);
    let result = match runtime() {
        Ok(runtime) => {
            let result = runtime.block_on(async {
                watch_signals(&context);
                command::run(&context, arguments).await
            });
            // What is left to do on blocking threads, such as a prompt that nobody answers, is not waited for.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            context.output.fail(&failure);
            ExitCode::from(failure.status as u8)
        }
    }
}

/// Shows help and versions as clap does, and a mistake in the shape of every other error.
fn refuse_arguments(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return if error.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    // The arguments could not be read, so that `--json` and `--no-color` have to be looked for by hand.
    let has = |flag: &str| std::env::args_os().skip(1).take_while(|word| word != "--").any(|word| word == flag);
    let output = Output { json: has("--json"), style: Style::for_standard_error(has("--no-color")) };
    if !output.json && error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(output::Status::Usage as u8);
    }
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let message = lines.next().unwrap_or("the command line is not understood");
    let message = message.strip_prefix("error: ").unwrap_or(message).to_owned();
    let advice: Vec<&str> = lines.map(|line| line.strip_prefix("tip: ").unwrap_or(line)).collect();
    let advice = (!advice.is_empty()).then(|| advice.join("; "));
    let failure = Failure::from(CliError::Usage { message, advice });
    output.fail(&failure);
    ExitCode::from(failure.status as u8)
}

fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|source| CliError::Runtime { source })
}

/// Cancels the context's token at the first signal; the second ends the process at once.
fn watch_signals(context: &Context) {
    let (stop, came) = (context.stop.clone(), Arc::clone(&context.signal));
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers both signals do what they do to every program.
        return;
    };
    let output = context.output;
    tokio::spawn(async move {
        loop {
            let signal = tokio::select! {
                _ = interrupt.recv() => Signal::Interrupt,
                _ = terminate.recv() => Signal::Terminate,
            };
            if came.set(signal).is_err() {
                std::process::exit(match signal {
                    Signal::Interrupt => 130,
                    Signal::Terminate => 143,
                });
            }
            stop.cancel();
            // Whoever should read this may not, and must not keep the second signal from being heard.
            std::thread::spawn(move || output.remark("stopping in order; a second signal ends this at once"));
        }
    });
}

fn start_log(global: &Global) {
    const OWN: [&str; 7] = ["", "_core", "_vault", "_plugin", "_platform", "_replication", "_failover"];
    let default = match global.verbose {
        true => OWN.iter().fold("warn".to_owned(), |filter, name| format!("{filter},farshore{name}=debug")),
        false => "error".to_owned(),
    };
    let filter = EnvFilter::try_from_env("FARSHORE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    if global.json {
        builder.json().init();
    } else {
        builder.init();
    }
}
