//! Two guests that write in turn, relayed from outside: the test for "one instant".
//!
//! A gets its row N + 1 only after B has acknowledged row N, and B its row N only after A has: at any single instant the
//! last durable rows satisfy 0 <= A - B <= 1. A recovery point of both that breaks this cannot be of one instant.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use farshore_demo::{
    Acknowledgement, Console, DemoError, Line, Stop,
    guest::{ConsoleInput, Guest},
};

/// How long a guest may take for a row.
const ROW_MAX: Duration = Duration::from_secs(60);

/// Relays between two guests until it is dropped.
#[derive(Debug)]
pub struct PairRelay {
    rows: Arc<Rows>,
    stop: Stop,
    relay: Option<JoinHandle<Result<(), DemoError>>>,
}

/// The last row that both have written.
#[derive(Debug, Default)]
struct Rows {
    last: Mutex<u64>,
    changed: Condvar,
}

struct Side {
    console: Console,
    input: ConsoleInput,
    next_line: usize,
    last: u64,
}

impl Side {
    /// Starts the load `pair` in the guest, or starts it anew.
    fn start(guest: &Guest, stop: &Stop) -> Result<Self, DemoError> {
        let console = Console::follow(guest.console().log())?;
        console.catch_up(stop)?;
        let from = console.line_count();
        guest.start_workload("pair")?;
        let ready = |line: &Line| line.text.strip_prefix("PAIR-READY ")?.parse().ok();
        let (last, next_line) = console.wait_for("the load `pair` to begin", from, ROW_MAX, stop, ready)?;
        Ok(Self { console, input: guest.console_input()?, next_line, last })
    }

    fn write_row(&mut self, row: u64, stop: &Stop) -> Result<(), DemoError> {
        self.input.send_line(&format!("GO {row}"))?;
        let acknowledged = |line: &Line| Acknowledgement::parse(line).filter(|found| found.row == row);
        let awaited = format!("row {row}");
        self.next_line = self.console.wait_for(&awaited, self.next_line, ROW_MAX, stop, acknowledged)?.1;
        self.last = row;
        Ok(())
    }
}

impl PairRelay {
    /// Starts the load `pair` in both guests and relays between them. `first` is the one that is ahead.
    ///
    /// # Errors
    /// A guest does not answer.
    pub fn start(first: &Guest, second: &Guest) -> Result<Self, DemoError> {
        let stop = Stop::default();
        let mut sides = (Side::start(first, &stop)?, Side::start(second, &stop)?);
        let rows = Arc::new(Rows { last: Mutex::new(sides.1.last), changed: Condvar::new() });
        let (for_thread, shared) = (stop.clone(), Arc::clone(&rows));
        let run = move || {
            loop {
                let row = sides.1.last + 1;
                if sides.0.last < row {
                    sides.0.write_row(row, &for_thread)?;
                }
                sides.1.write_row(row, &for_thread)?;
                *shared.last.lock().unwrap_or_else(PoisonError::into_inner) = row;
                shared.changed.notify_all();
            }
        };
        Ok(Self { rows, stop, relay: Some(std::thread::spawn(run)) })
    }

    /// The last row that both have written.
    pub fn rows(&self) -> u64 {
        *self.rows.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until both have written this row; false if they have not within `limit`.
    pub fn wait_for_row(&self, row: u64, limit: Duration) -> bool {
        let last = self.rows.last.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.rows.changed.wait_timeout_while(last, limit, |last| *last < row);
        *waited.unwrap_or_else(PoisonError::into_inner).0 >= row
    }

    /// Stops relaying.
    ///
    /// # Errors
    /// A guest broke the turn before: it did not answer, or hung up.
    pub fn finish(mut self) -> Result<u64, DemoError> {
        self.stop.request();
        match self.relay.take().map(JoinHandle::join) {
            Some(Ok(Err(DemoError::Interrupted))) | None => Ok(self.rows()),
            Some(Ok(Err(error))) => Err(error),
            Some(Ok(Ok(()))) => Ok(self.rows()),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for PairRelay {
    fn drop(&mut self) {
        self.stop.request();
        if let Some(relay) = self.relay.take() {
            // What went wrong there is told by `finish`; here the test has ended.
            let _ = relay.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::World;

    #[test]
    fn two_guests_write_in_turn() {
        let mut world = World::new().expect("a world");
        world.resume_guest("left").expect("a guest");
        world.resume_guest("right").expect("a guest");
        let (left, right) = (world.guest("left"), world.guest("right"));
        let relay = PairRelay::start(left, right).expect("they begin");
        assert!(relay.wait_for_row(10, ROW_MAX), "only {} rows", relay.rows());
        let rows = relay.finish().expect("nobody broke the turn");
        let row = |guest: &Guest| {
            guest.agent().succeed("pair-row").expect("the agent").trim().parse::<u64>().expect("a number")
        };
        // The one ahead may have written a row whose turn was cut short.
        let (left_row, right_row) = (row(left), row(right));
        assert!(right_row >= rows && (0..=1).contains(&(left_row - right_row)), "{rows}: {left_row}, {right_row}");
        // A second relay goes on where the first ended.
        let relay = PairRelay::start(left, right).expect("they go on");
        let more = relay.rows();
        assert!(more >= rows, "{more} after {rows}");
    }
}
