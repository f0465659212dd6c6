//! `events`: what the daemon remembers.

use std::time::Duration;

use farshore_state::{EventQuery, EventRecord, Severity, State};

use crate::{
    arguments::{EventSeverity, EventsArguments},
    context::Context,
    output::Failure,
    serve::{STATE_FILE, diary},
};

/// How often it is looked for events that came.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// Events that are read at once while following.
const FOLLOWED_MAX: u32 = 1_000;

/// Runs it.
pub async fn run(context: &Context, arguments: &EventsArguments) -> Result<(), Failure> {
    let configuration = context.configuration()?;
    let file = super::state_folder(&configuration)?.join(STATE_FILE);
    let query = EventQuery {
        group: arguments.group.clone(),
        name: arguments.name.clone(),
        severity_min: arguments.severity.map(Severity::from),
        after: None,
        limit: arguments.limit,
    };
    let mut newest = 0;
    let mut events = read(&file, &query)?;
    events.reverse();
    if events.is_empty() && !arguments.follow {
        context.output.remark("Nothing is remembered: the daemon, `farshore serve`, remembers what happens.");
    }
    loop {
        for event in &events {
            newest = event.id;
            context.output.line(event, || diary::render(&event.event))?;
        }
        if !arguments.follow {
            return Ok(());
        }
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            () = context.clock.sleep(FOLLOW_EVERY) => {}
        }
        events = read(&file, &EventQuery { after: Some(newest), limit: FOLLOWED_MAX, ..query.clone() })?;
    }
}

fn read(file: &std::path::Path, query: &EventQuery) -> Result<Vec<EventRecord>, Failure> {
    let Some(state) = State::open_to_read(file)? else { return Ok(Vec::new()) };
    Ok(state.events(query)?)
}

impl From<EventSeverity> for Severity {
    fn from(severity: EventSeverity) -> Self {
        match severity {
            EventSeverity::Info => Self::Info,
            EventSeverity::Warning => Self::Warning,
            EventSeverity::Error => Self::Error,
        }
    }
}
