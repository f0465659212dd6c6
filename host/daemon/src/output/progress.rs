//! Progress: a bar where standard error is a terminal, a plain line now and then where it is not, nothing with `--json`.

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
    total_bytes: Option<u64>,
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

    /// Something new begins; `total_bytes` when it is known.
    pub fn begin(&self, title: &str, total_bytes: Option<u64>) {
        let title = human::clean(title).replace('\n', " ");
        match &self.shape {
            Shape::Hidden => {}
            Shape::Bar(bar) => {
                bar.reset();
                if let Some(total) = total_bytes {
                    bar.set_length(total);
                } else {
                    bar.unset_length();
                }
                let template = match total_bytes {
                    Some(_) => "{msg}  {wide_bar} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta}",
                    None => "{spinner} {msg}  {binary_bytes}  {elapsed}",
                };
                bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
                bar.set_message(title);
            }
            Shape::Lines { state, .. } => {
                *state.lock().unwrap_or_else(PoisonError::into_inner) =
                    Lines { title, done_bytes: 0, total_bytes, told: Some(SystemClock.monotonic()) };
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
        match self.total_bytes {
            Some(total) if total > 0 => {
                let percent = u128::from(self.done_bytes) * 100 / u128::from(total);
                format!("{}: {done} of {} ({percent} %)", self.title, human::bytes(total))
            }
            _ => format!("{}: {done}", self.title),
        }
    }
}
