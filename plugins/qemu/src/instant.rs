//! The instant: when the view of every disk is frozen, at once, and how long the guests notice.
//!
//! A machine is marked by making its devices write through the copy-before-write filters. QEMU waits for what is in
//! flight, switches, and goes on; nothing that the guest wrote before is missing from the view and nothing after is in
//! it, without pausing the guest:
//!
//! - one disk: its device is given the filter (`qom-set drive`). That drains the device and flushes nothing.
//! - several disks: each device already writes through a pass-through node, the *switch*, and one `blockdev-reopen` turns
//!   all the switches to their filters. QEMU drains all of them before it turns the first, so that the disks share one
//!   instant; it also flushes them, which a busy disk notices.
//!
//! Machines that are captured together are paused first, all of them, then marked, then let go. While they are paused
//! each has a marker node: if this host dies in between, whoever comes next knows that the guest is not paused by its
//! operator. When the limit passes before all are marked, all are let go at once, and those that were not marked yet are
//! marked one by one while they run: each machine has one instant then, the group has not.
//!
//! Tracking needs no transaction with the instant: the new bitmap records from *before* it, and the old one is copied
//! *after* it and records on meanwhile. Both then say too much by the few writes in between, and never too little.

use serde_json::{Value, json};

use crate::{
    bindings::exports::farshore::platform::source::Instant,
    error::{Result, while_doing},
    names::{Names, Role},
    ports::Host,
    qmp::{COMMAND_TIMEOUT_MILLISECONDS, Client, QmpError, Sent},
};

const NANOSECONDS_PER_MICROSECOND: u64 = 1_000;
const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;

/// A machine that is ready to be marked.
pub struct Ready<'h, 'c> {
    /// The visit to it.
    pub client: &'c mut Client<'h>,
    /// Its devices' paths, by the index of their disks.
    pub devices: Vec<String>,
}

/// What came of it.
#[derive(Debug)]
pub struct Held {
    /// What the machines' instants have in common.
    pub instant: Instant,
    /// How long a guest was held at most.
    pub microseconds: u64,
    /// Why the instant is less than the group's.
    pub note: String,
}

/// Marks all machines. With none to mark, all of the group are off, and every instant is theirs.
///
/// # Errors
/// `failed` or `unreachable`; no guest is held then, but machines may be marked.
pub fn take(host: &dyn Host, names: &Names, machines: &mut [Ready<'_, '_>], limit_milliseconds: u32) -> Result<Held> {
    if machines.is_empty() {
        return Ok(Held { instant: Instant::Group, microseconds: 0, note: String::new() });
    }
    if let [machine] = machines {
        let before = now(host)?;
        let sent = machine.send_mark(names)?;
        machine.finish(&sent)?;
        let microseconds = now(host)?.saturating_sub(before) / NANOSECONDS_PER_MICROSECOND;
        return Ok(Held { instant: Instant::Group, microseconds, note: String::new() });
    }
    let mut running = Vec::with_capacity(machines.len());
    for machine in machines.iter_mut() {
        let runs = machine.client.run("query-status", json!({}))?.get("running").and_then(Value::as_bool);
        running.push(runs == Some(true));
        if runs == Some(true) {
            let marker = names.node(0, Role::HoldMarker);
            machine.client.run("blockdev-add", json!({ "driver": "null-co", "node-name": marker, "size": 512 }))?;
        }
    }
    let mut hold = Hold { host, machines, running, outstanding: Vec::new(), limit_milliseconds, marked: Vec::new() };
    let before = now(host)?;
    let outcome = hold.stop_and_mark(names, before);
    let released = hold.release();
    let microseconds = now(host)?.saturating_sub(before) / NANOSECONDS_PER_MICROSECOND;
    let complete = outcome.and_then(|complete| released.map(|()| complete))?;
    let Hold { machines, running, marked, .. } = hold;
    let mut late = Vec::new();
    for (index, machine) in machines.iter_mut().enumerate() {
        if !marked.contains(&index) {
            late.push(machine.client.machine().to_owned());
            let sent = machine.send_mark(names)?;
            machine.finish(&sent)?;
        }
        if running.get(index) == Some(&true) {
            machine.client.run("blockdev-del", json!({ "node-name": names.node(0, Role::HoldMarker) }))?;
        }
    }
    if complete {
        return Ok(Held { instant: Instant::Group, microseconds, note: String::new() });
    }
    let slow = if late.is_empty() { "all of them".to_owned() } else { late.join(", ") };
    let note = format!("the guests could not be held together within {limit_milliseconds} ms (late: {slow})");
    Ok(Held { instant: Instant::Machine, microseconds, note })
}

fn now(host: &dyn Host) -> Result<u64> {
    host.monotonic_nanoseconds().map_err(|error| while_doing("reading the clock", &error))
}

impl Ready<'_, '_> {
    fn send_mark(&mut self, names: &Names) -> Result<Sent> {
        let sent = if let [device] = self.devices.as_slice() {
            let arguments = json!({ "path": device, "property": "drive", "value": names.node(0, Role::Filter) });
            self.client.send("qom-set", arguments)
        } else {
            let turn = |index| {
                let (switch, filter) = (names.node(index, Role::Switch), names.node(index, Role::Filter));
                json!({ "driver": "raw", "node-name": switch, "file": filter })
            };
            let options: Vec<Value> = (0..self.devices.len()).map(turn).collect();
            self.client.send("blockdev-reopen", json!({ "options": options }))
        };
        sent.map_err(|error| self.client.error(&error))
    }

    fn finish(&mut self, sent: &Sent) -> Result<()> {
        let answer = self.client.receive(sent, COMMAND_TIMEOUT_MILLISECONDS);
        answer.map(drop).map_err(|error| self.client.error(&error))
    }
}

struct Hold<'h, 'm, 'r, 'c> {
    host: &'h dyn Host,
    machines: &'m mut [Ready<'r, 'c>],
    running: Vec<bool>,
    outstanding: Vec<(usize, Sent)>,
    limit_milliseconds: u32,
    marked: Vec<usize>,
}

impl Hold<'_, '_, '_, '_> {
    /// Whether all machines were marked while all were held.
    fn stop_and_mark(&mut self, names: &Names, before: u64) -> Result<bool> {
        for (index, machine) in self.machines.iter_mut().enumerate() {
            if self.running.get(index) == Some(&true) {
                let sent = machine.client.send("stop", json!({}));
                self.outstanding.push((index, sent.map_err(|error| machine.client.error(&error))?));
            }
        }
        if !self.receive_until_limit(before)? {
            return Ok(false);
        }
        for (index, machine) in self.machines.iter_mut().enumerate() {
            self.outstanding.push((index, machine.send_mark(names)?));
            self.marked.push(index);
        }
        self.receive_until_limit(before)
    }

    /// Takes the answers that come within the limit; whether that were all.
    fn receive_until_limit(&mut self, before: u64) -> Result<bool> {
        while let Some((index, sent)) = self.outstanding.first().cloned() {
            let passed = now(self.host)?.saturating_sub(before) / NANOSECONDS_PER_MILLISECOND;
            let left = u64::from(self.limit_milliseconds).saturating_sub(passed);
            let Some(machine) = self.machines.get_mut(index) else { break };
            match machine.client.receive(&sent, u32::try_from(left).unwrap_or(u32::MAX)) {
                Ok(_) => drop(self.outstanding.remove(0)),
                Err(QmpError::TimedOut { .. }) => return Ok(false),
                Err(error) => {
                    self.outstanding.remove(0);
                    return Err(machine.client.error(&error));
                }
            }
        }
        Ok(true)
    }

    /// Lets every guest go that ran before, and only then looks at what is still unanswered.
    fn release(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        let mut conts = Vec::new();
        for (index, machine) in self.machines.iter_mut().enumerate() {
            if self.running.get(index) == Some(&true) {
                match machine.client.send("cont", json!({})) {
                    Ok(sent) => conts.push((index, sent)),
                    Err(error) => outcome = Err(machine.client.error(&error)),
                }
            }
        }
        for (index, sent) in self.outstanding.drain(..).chain(conts) {
            if let Some(machine) = self.machines.get_mut(index)
                && let Err(error) = machine.finish(&sent)
            {
                outcome = Err(error);
            }
        }
        outcome
    }
}
