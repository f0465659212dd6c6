//! `point create`.

use farshore_core::Consistency;
use farshore_replication::Wishes;

use super::replicate;
use crate::{arguments::PointCreateArguments, context::Context, output::Failure};

/// Runs it.
pub async fn create(context: &Context, arguments: PointCreateArguments) -> Result<(), Failure> {
    let PointCreateArguments { group, label, application } = arguments;
    let consistency = application.then_some(Consistency::Application);
    replicate::once(context, vec![group], Wishes { label, consistency, is_asked: true, ..Wishes::default() }).await
}
