//! `serve`.

use crate::{context::Context, output::Failure, serve};

/// Runs it.
pub async fn run(context: &Context) -> Result<(), Failure> {
    serve::run(context).await
}
