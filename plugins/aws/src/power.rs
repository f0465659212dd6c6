//! Turning an instance off, and knowing that it is.

use crate::{
    answers::Instance,
    api::{Api, Call},
    bindings::exports::farshore::platform::power::{Manner, PowerStatus, PowerStep},
    bindings::farshore::platform::model::Pending,
    error::{PlatformError, Result},
    inventory,
    ports::Host,
};

const POLL_MILLISECONDS: u32 = 2_000;

/// What a stop has come to.
pub(crate) enum Progress {
    /// It is off, as this sentence proves.
    Off(String),
    /// It is still at it.
    Waiting(Pending),
}

/// Stops an instance if it runs, and looks how far it is. By force, EC2 does not ask the guest.
pub(crate) fn stop(api: &Api<'_>, instance: &Instance, by_force: bool) -> Result<Progress> {
    let id = &instance.instance_id;
    let state = instance.instance_state.name.as_str();
    match state {
        "stopped" | "terminated" => {
            return Ok(Progress::Off(format!("EC2 answered `DescribeInstances` for {id} with the state `{state}`")));
        }
        // By force also while the guest is still asked.
        "stopping" if !by_force => {}
        "shutting-down" => {}
        _ => {
            let call = Call::new("StopInstances").list("InstanceId", [id.as_str()]);
            let call = if by_force { call.with("Force", true) } else { call };
            match api.ec2_done(&call) {
                Ok(()) => {}
                // It starts: it can be stopped when it has.
                Err(error) if error.code() == "IncorrectInstanceState" => {}
                Err(error) => return Err(error.while_doing(format!("stopping the instance {id}"))),
            }
        }
    }
    let doing = format!("waiting for the instance {id} to stop (now {state})");
    Ok(Progress::Waiting(Pending { doing, poll_after_milliseconds: POLL_MILLISECONDS }))
}

/// `power.stop-machine` and `power.continue-stop`: what is the case says how it goes on.
///
/// # Errors
/// As in the interface.
pub fn stop_machine(host: &dyn Host, machine: &str, manner: Manner) -> Result<PowerStep> {
    let api = Api::new(host);
    let instance = inventory::instance(&api, machine).map_err(|error| match error {
        // It is not the account's word that it is off.
        PlatformError::NotFound(text) => {
            PlatformError::Unreachable(format!("{text}, which is no proof that it is off"))
        }
        error => error,
    })?;
    let status = match stop(&api, &instance, manner == Manner::Forced)? {
        Progress::Off(proof) => PowerStatus::Off(proof),
        Progress::Waiting(pending) => PowerStatus::Pending(pending),
    };
    Ok(PowerStep { state: Vec::new(), status })
}
