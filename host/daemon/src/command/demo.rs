//! `demo`.

use farshore_demo::story::{DemoOptions, run_until};

use crate::{arguments::DemoArguments, context::Context, error::CliError, output::Failure};

/// Runs it. It drives this very binary, as an operator would.
pub async fn run(context: &Context, arguments: DemoArguments) -> Result<(), Failure> {
    let farshore = std::env::current_exe().map_err(|source| CliError::Runtime { source })?;
    let options = DemoOptions { report: arguments.report, folder: arguments.folder, farshore };
    let stop = context.stop.clone();
    // With --json the story is no result, and goes where everything else goes.
    let story: Box<dyn std::io::Write + Send> =
        if context.output.json { Box::new(std::io::stderr()) } else { Box::new(std::io::stdout()) };
    let result = run_until(options, async move { stop.cancelled().await }, story).await;
    if context.stop.is_cancelled() {
        return Err(context.interrupted("everything that the demonstration started was ended").into());
    }
    let report = result?;
    if context.output.json {
        context.output.result(&report, String::new)?;
    }
    Ok(())
}
