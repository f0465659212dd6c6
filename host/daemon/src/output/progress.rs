//! Progress: a bar where standard error is a terminal, a plain line now and then where it is not, nothing with `--json`.
//!
//! How many bytes a disk will take is not known beforehand, because the parts that are zeros are passed over. What is known
//! for some is the most that it can be: a bar then runs to at most that, and it is called so, without a guess at the time
//! that is left. For everything else there are the bytes so far and their rate.

use std::{
    io::IsTerminal as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use farshore_core::{Clock, SystemClock};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Output, human};

/// Plain lines are at least this far apart.
const LINE_PAUSE: Duration = Duration::from_secs(5);

/// How often a bar is drawn, per second.
const DRAWS_PER_SECOND: u8 = 8;

/// What goes on, in bytes.
pub struct Progress {
    shape: Shape,
}

enum Shape {
    Hidden,
    Bar(ProgressBar),
    Lines { output: Output, state: Mutex<Lines> },
}

#[derive(Default)]
struct Lines {
    title: String,
    done_bytes: u64,
    bytes_max: Option<u64>,
    told: Option<Duration>,
}

impl Progress {
    /// Progress as this terminal can show it.
    pub fn new(output: Output) -> Self {
        let shape = if output.json {
            Shape::Hidden
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND));
            bar.enable_steady_tick(Duration::from_millis(250));
            Shape::Bar(bar)
        } else {
            Shape::Lines { output, state: Mutex::new(Lines::default()) }
        };
        Self { shape }
    }

    /// Something new begins; `bytes_max` when it is known that it will not be more.
    pub fn begin(&self, title: &str, bytes_max: Option<u64>) {
        let title = human::clean(title).replace('\n', " ");
        match &self.shape {
            Shape::Hidden => {}
            Shape::Bar(bar) => {
                bar.reset();
                if let Some(most) = bytes_max {
                    bar.set_length(most);
                } else {
                    bar.unset_length();
                }
                let template = match bytes_max {
                    Some(_) => {
                        "{msg}  {wide_bar} {binary_bytes} of at most {binary_total_bytes}  {binary_bytes_per_sec}"
                    }
                    None => "{spinner} {msg}  {binary_bytes}  {binary_bytes_per_sec}  {elapsed}",
                };
                bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
                bar.set_message(title);
            }
            Shape::Lines { state, .. } => {
                *state.lock().unwrap_or_else(PoisonError::into_inner) =
                    Lines { title, done_bytes: 0, bytes_max, told: Some(SystemClock.monotonic()) };
            }
        }
    }

    /// So many more bytes are done.
    pub fn advance(&self, more_bytes: u64) {
        match &self.shape {
            Shape::Hidden => {}
            Shape::Bar(bar) => bar.inc(more_bytes),
            Shape::Lines { output, state } => {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                state.done_bytes = state.done_bytes.saturating_add(more_bytes);
                let now = SystemClock.monotonic();
                if now.saturating_sub(state.told.unwrap_or_default()) >= LINE_PAUSE {
                    state.told = Some(now);
                    output.remark(&state.line());
                }
            }
        }
    }

    /// Says something without disturbing the bar.
    pub fn remark(&self, text: &str) {
        match &self.shape {
            Shape::Hidden => {}
            Shape::Bar(bar) => bar.suspend(|| eprintln!("{}", human::clean(text))),
            Shape::Lines { output, .. } => output.remark(text),
        }
    }

    /// Takes the bar away, so that results can be written; `begin` brings it back.
    pub fn pause(&self) {
        if let Shape::Bar(bar) = &self.shape {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.pause();
    }
}

impl Lines {
    fn line(&self) -> String {
        let done = human::bytes(self.done_bytes);
        match self.bytes_max {
            Some(most) => format!("{}: {done} of at most {}", self.title, human::bytes(most)),
            None => format!("{}: {done}", self.title),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_known_and_no_more() {
        let mut lines = Lines { title: "orders vd0".to_owned(), done_bytes: 3 << 20, ..Lines::default() };
        assert_eq!(lines.line(), "orders vd0: 3 MiB");
        lines.bytes_max = Some(8 << 30);
        assert_eq!(lines.line(), "orders vd0: 3 MiB of at most 8 GiB");
    }
}
