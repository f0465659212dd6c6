//! Turning a machine off, and knowing that it is.
//!
//! A QEMU that ends by itself leaves no witness: a socket where nothing listens can mean many things. So before the guest
//! is asked to shut down, its QEMU is told to stay when the guest has (`set-action shutdown=pause`). The status
//! `shutdown` is then an answer that can be asked for again, the disks stay readable for the last capture, and no command
//! of the guest's can start it again. By force, the proof is that QEMU accepted `quit` and then closed the connection.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    bindings::{
        exports::farshore::platform::power::{Manner, PowerStatus, PowerStep},
        farshore::platform::model::Pending,
    },
    error::{PlatformError, Result},
    ports::{Host, text},
    qmp::Client,
    settings::Settings,
};

const POLL_MILLISECONDS: u32 = 500;
/// The button is pressed again after so many polls: a guest that is still booting does not notice the first time.
const POLLS_PER_PRESS: u32 = 20;
const END_TIMEOUT_MILLISECONDS: u32 = 10_000;

/// How a stop goes on.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    polls: u32,
}

/// What a graceful stop has come to.
pub(crate) enum Progress {
    /// The guest shut down; QEMU is still there.
    Off(String),
    /// It is still at it.
    Waiting(Pending),
}

/// Presses the button, or looks how the guest is getting on.
pub(crate) fn shut_down(client: &mut Client<'_>, polls: u32) -> Result<Progress> {
    let status = client.run("query-status", json!({}))?;
    let machine = client.machine().to_owned();
    match text(&status, "status") {
        "shutdown" => {
            let text =
                format!("QEMU of machine {machine} answered `query-status` with `shutdown`: the guest has powered off");
            return Ok(Progress::Off(text));
        }
        "running" => {}
        status => {
            let text = format!("machine {machine} has the status `{status}`, in which it cannot shut itself down");
            return Err(PlatformError::Conflict(format!("{text}: continue it, or stop it by force")));
        }
    }
    if polls.is_multiple_of(POLLS_PER_PRESS) {
        client.run("set-action", json!({ "shutdown": "pause" }))?;
        client.run("system_powerdown", json!({}))?;
    }
    let doing = format!("waiting for the guest of machine {machine} to shut down");
    Ok(Progress::Waiting(Pending { doing, poll_after_milliseconds: POLL_MILLISECONDS }))
}

/// Ends QEMU.
pub(crate) fn quit(client: &mut Client<'_>) -> Result<String> {
    client.run("quit", json!({}))?;
    let machine = client.machine().to_owned();
    if client.wait_for_end(END_TIMEOUT_MILLISECONDS) {
        return Ok(format!("QEMU of machine {machine} accepted `quit` and closed its control socket"));
    }
    Err(PlatformError::Unreachable(format!("machine {machine}: QEMU accepted `quit` and has not ended yet")))
}

/// `power.stop-machine`.
///
/// # Errors
/// As in the interface.
pub fn stop_machine(host: &dyn Host, machine: &str, manner: Manner) -> Result<PowerStep> {
    step(host, machine, manner, State::default())
}

/// `power.continue-stop`.
///
/// # Errors
/// As in the interface.
pub fn continue_stop(host: &dyn Host, machine: &str, manner: Manner, state: &[u8]) -> Result<PowerStep> {
    let state = serde_json::from_slice(state)
        .map_err(|error| PlatformError::NotFound(format!("this is not the state of a stop: {error}")))?;
    step(host, machine, manner, state)
}

fn step(host: &dyn Host, machine: &str, manner: Manner, state: State) -> Result<PowerStep> {
    let settings = Settings::load(host)?;
    let mut client = Client::connect(host, machine, &settings.machine(machine)?.qmp)?;
    let status = match manner {
        Manner::Forced => PowerStatus::Off(quit(&mut client)?),
        Manner::Graceful => match shut_down(&mut client, state.polls)? {
            Progress::Off(proof) => PowerStatus::Off(proof),
            Progress::Waiting(pending) => PowerStatus::Pending(pending),
        },
    };
    let state = State { polls: state.polls.saturating_add(1) };
    let state = serde_json::to_vec(&state).map_err(|error| PlatformError::Failed(error.to_string()))?;
    Ok(PowerStep { state, status })
}
