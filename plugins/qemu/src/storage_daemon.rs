//! The storage daemon that serves the images of a machine that is off: a process without a guest, started for one capture
//! and ended with it.
//!
//! The adapter cannot choose a program or an argument. It runs the operator's template `serve-images` of the mode
//! `protect`, which must use exactly these slots:
//!
//! | slot | type | what |
//! | --- | --- | --- |
//! | `monitor` | path | the control socket that the daemon has to make |
//! | each of `images`: `node` | name | the name that the image gets in the daemon |
//! | each of `images`: `path`, `format` | path, name | the image, and `qcow2` or `raw` |
//!
//! The template has to detach the daemon (`--daemonize`), so that it outlives the call, and to open each image with
//! `read-only=on,force-share=on`: the daemon then holds none of the locks with which QEMU protects its images, and the
//! machine can be started while it is captured, which breaks the capture and nothing else.
//!
//! There is one daemon for a machine at most, found by the names of its sockets; whose it is stands in the names of its
//! nodes (`names.rs`). Both are kept by nobody else, so that any later call finds it again.

use serde_json::json;

use crate::{
    error::{PlatformError, Result, while_doing},
    graph::{self, Node},
    names::{NodeName, Scope},
    ports::{Host, HostError, Repetition, Slot},
    qmp::{Client, Door, QmpError},
    settings::{ImageSettings, Settings},
};

const TEMPLATE: &str = "serve-images";
const ERROR_CHARACTERS_MAX: usize = 2_000;
const END_TIMEOUT_MILLISECONDS: u32 = 10_000;
/// How long a daemon that was started is left alone. It sets its control socket up in a thread of its own, which may not
/// be done when the template ends: QEMU 7.2 then greets a visitor twice, forgets what he said, or crashes.
pub(crate) const SETUP_MILLISECONDS: u32 = 100;
const POLLS_MAX: usize = 400;
const POLL_MILLISECONDS: u32 = 5;

/// An image that is to be served.
pub(crate) struct Image<'i> {
    /// The name of its node in the daemon.
    pub(crate) node: String,
    pub(crate) settings: &'i ImageSettings,
}

/// Who serves a machine's images.
pub(crate) enum Server<'h> {
    /// Nobody.
    Nobody,
    /// A daemon of the scope that was asked for.
    Ours(Client<'h>),
    /// Something else, with these nodes.
    Other(Vec<String>),
}

/// The daemon's control socket. No socket of a running or a recovered machine has such a name, whatever it is called.
fn monitor_socket(settings: &Settings, machine: &str) -> Result<String> {
    settings.socket_path(&format!("{machine}.off-qmp"))
}

/// The socket of its NBD server.
pub(crate) fn disk_socket(settings: &Settings, machine: &str) -> Result<String> {
    settings.socket_path(&format!("{machine}.off-nbd"))
}

/// Looks who serves the images of a machine.
///
/// # Errors
/// When that cannot be said.
pub(crate) fn look<'h>(host: &'h dyn Host, settings: &Settings, machine: &str, scope: Scope<'_>) -> Result<Server<'h>> {
    let mut client = match Client::knock(host, machine, &monitor_socket(settings, machine)?)? {
        Door::Open(client) => client,
        Door::Deserted(_) => return Ok(Server::Nobody),
    };
    let names: Vec<String> = graph::nodes(&mut client)?.into_iter().map(|node| node.name).collect();
    let is_ours = |name: &String| NodeName::parse(name).is_some_and(|node| scope.has_node(&node));
    Ok(if names.iter().any(is_ours) { Server::Ours(client) } else { Server::Other(names) })
}

/// Makes room for a daemon: what a crashed cycle of this owner left is ended, and sockets are removed on which nobody
/// listens any more.
///
/// # Errors
/// `conflict` when somebody else serves the machine's images.
pub(crate) fn make_room(host: &dyn Host, settings: &Settings, machine: &str, owner: &str) -> Result<()> {
    match look(host, settings, machine, Scope { owner, capture: None })? {
        Server::Nobody => remove_sockets(host, settings, machine),
        Server::Ours(client) => quit(host, settings, client),
        Server::Other(nodes) => Err(PlatformError::Conflict(format!(
            "machine {machine}: its images are served already, for a capture of another group or vault, or by something that is not Farshore's: {} listens on {}",
            nodes.join(", "),
            monitor_socket(settings, machine)?
        ))),
    }
}

/// Ends the daemon of a scope, if there is one, and removes what one left that is gone.
///
/// # Errors
/// When it does not end, or it cannot be said whether there is one.
pub(crate) fn end(host: &dyn Host, settings: &Settings, machine: &str, scope: Scope<'_>) -> Result<()> {
    match look(host, settings, machine, scope)? {
        Server::Nobody => remove_sockets(host, settings, machine),
        Server::Ours(client) => quit(host, settings, client),
        Server::Other(_) => Ok(()),
    }
}

/// Ends the daemon that this very call has started, whatever it serves: by its nodes it might not be known for ours.
///
/// # Errors
/// As [`end`].
pub(crate) fn end_started(host: &dyn Host, settings: &Settings, machine: &str) -> Result<()> {
    match Client::knock(host, machine, &monitor_socket(settings, machine)?)? {
        Door::Open(client) => quit(host, settings, client),
        Door::Deserted(_) => remove_sockets(host, settings, machine),
    }
}

/// Ends the daemon of a scope, if there is one, and touches nothing else.
///
/// # Errors
/// As [`end`].
pub(crate) fn end_if_there(host: &dyn Host, settings: &Settings, machine: &str, scope: Scope<'_>) -> Result<()> {
    match look(host, settings, machine, scope)? {
        Server::Ours(client) => quit(host, settings, client),
        Server::Nobody | Server::Other(_) => Ok(()),
    }
}

/// Removes the sockets that a daemon left that did not end in good order. Nobody may listen on them.
pub(crate) fn remove_sockets(host: &dyn Host, settings: &Settings, machine: &str) -> Result<()> {
    for path in [monitor_socket(settings, machine)?, disk_socket(settings, machine)?] {
        host.remove_file(&path).map_err(|error| while_doing(format!("removing {path}"), &error))?;
    }
    Ok(())
}

/// Ends a daemon of ours and waits until its sockets are gone.
///
/// # Errors
/// When it does not end.
pub(crate) fn quit(host: &dyn Host, settings: &Settings, mut client: Client<'_>) -> Result<()> {
    let machine = client.machine().to_owned();
    // A daemon that ends leaves the socket of its NBD server, unless the server ended before.
    match client.execute("nbd-server-stop", json!({})) {
        // None is running.
        Ok(_) | Err(QmpError::Refused { .. }) => {}
        Err(error) => return Err(client.error(&error)),
    }
    client.run("quit", json!({}))?;
    let silent = || PlatformError::Unreachable(format!("machine {machine}: the storage daemon does not end"));
    if !client.wait_for_end(END_TIMEOUT_MILLISECONDS) {
        return Err(silent());
    }
    // It closes our connection, then takes its control socket away, then ends. Who made a new socket of this name in
    // between would lose it.
    let socket = monitor_socket(settings, &machine)?;
    for _ in 0..POLLS_MAX {
        match host.connect_unix(&socket) {
            Err(HostError::NotFound(_) | HostError::Unreachable(_)) => return Ok(()),
            Ok(_) | Err(_) => host.sleep(POLL_MILLISECONDS).map_err(|error| while_doing("waiting", &error))?,
        }
    }
    Err(silent())
}

fn slot(name: &str, value: impl Into<String>) -> Slot {
    Slot { name: name.into(), value: value.into() }
}

/// Starts a daemon that serves these images. Nobody may listen on its sockets. It may be visited after
/// [`SETUP_MILLISECONDS`].
///
/// # Errors
/// `settings` when there is no such template or it has other slots, `failed` with the daemon's words otherwise. None is
/// left then.
pub(crate) fn start(host: &dyn Host, settings: &Settings, machine: &str, images: &[Image<'_>]) -> Result<()> {
    let monitor = monitor_socket(settings, machine)?;
    let item = |image: &Image<'_>| {
        let ImageSettings { path, format, .. } = image.settings;
        vec![slot("node", &*image.node), slot("path", &**path), slot("format", format.as_str())]
    };
    let repetition = Repetition { name: "images".into(), items: images.iter().map(item).collect() };
    let completion =
        host.run_program(TEMPLATE, &[slot("monitor", &*monitor)], &[repetition]).map_err(|error| match error {
            HostError::NotFound(text) | HostError::Invalid(text) => PlatformError::Settings(format!(
                "machine {machine} is off, and the program template `{TEMPLATE}` that serves its images: {text}"
            )),
            error => while_doing(format!("serving the images of machine {machine}"), &error),
        })?;
    if completion.exit_code != 0 {
        // It has made its sockets before it failed.
        remove_sockets(host, settings, machine)?;
        let errors: String = completion.errors.trim().chars().take(ERROR_CHARACTERS_MAX).collect();
        let code = completion.exit_code;
        let text = format!("machine {machine} is off, and its images cannot be served (exit code {code}): {errors}");
        return Err(PlatformError::Failed(text));
    }
    Ok(())
}

/// Visits a daemon that was started, and returns the images' nodes, too, in their order.
///
/// # Errors
/// What is wrong with the template, or with the daemon.
pub(crate) fn visit<'h>(
    host: &'h dyn Host,
    settings: &Settings,
    machine: &str,
    images: &[Image<'_>],
) -> Result<(Client<'h>, Vec<Node>)> {
    let mut client = match Client::knock(host, machine, &monitor_socket(settings, machine)?)? {
        Door::Open(client) => client,
        Door::Deserted(text) => {
            return Err(PlatformError::Failed(format!(
                "the template `{TEMPLATE}` ended well, but no storage daemon is there: {text}: does it have `--daemonize`, `--chardev socket,id=monitor,path={{monitor:path}},server=on,wait=off` and `--monitor chardev=monitor`?"
            )));
        }
    };
    let nodes = opened(machine, images, graph::nodes(&mut client)?)?;
    Ok((client, nodes))
}

/// The nodes of the images, in their order, if the template opened them as it has to, as far as the daemon tells.
fn opened(machine: &str, images: &[Image<'_>], nodes: Vec<Node>) -> Result<Vec<Node>> {
    let mut found = Vec::with_capacity(images.len());
    for Image { node: name, settings: ImageSettings { path, format, .. } } in images {
        let node = nodes.iter().find(|node| node.name == *name);
        let missing = match node {
            None => Some("node-name={node:name}"),
            Some(node) if node.driver != format.as_str() => Some("driver={format:name}"),
            Some(node) if !node.read_only => Some("read-only=on,force-share=on"),
            Some(_) => None,
        };
        if let Some(option) = missing {
            return Err(PlatformError::Settings(format!(
                "the program template `{TEMPLATE}` does not open {path} with `{option}`"
            )));
        }
        if node.is_some_and(|node| node.data_elsewhere) {
            return Err(PlatformError::Unsupported(format!(
                "machine {machine} is off, and its image {path} keeps its data in another file, of which nobody could tell whether it is written while it is read"
            )));
        }
        found.extend(node.cloned());
    }
    Ok(found)
}
