//! The console's input: lines from outside into the guest.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    thread::JoinHandle,
};

use super::qmp::connect;
use crate::{
    error::{AtPath, DemoError},
    wait::Deadline,
};

/// A connection to the console's socket. What QEMU sends there is read and thrown away by a thread, because a connection
/// that nobody reads would stall the guest; the console's log has it all.
#[derive(Debug)]
pub struct ConsoleInput {
    stream: UnixStream,
    reader: Option<JoinHandle<()>>,
}

impl ConsoleInput {
    pub(super) fn connect(socket: &Path, deadline: &Deadline) -> Result<Self, DemoError> {
        let stream = connect(socket, deadline)?;
        let mut reading = stream.try_clone().at("connect to", socket)?;
        let run = move || {
            let mut buffer = [0; 4096];
            while reading.read(&mut buffer).is_ok_and(|count| count > 0) {}
        };
        let reader = std::thread::Builder::new().name("console-input".to_owned()).spawn(run);
        Ok(Self { stream, reader: Some(reader.at("connect to", socket)?) })
    }

    /// Sends a line.
    ///
    /// # Errors
    /// QEMU hung up.
    pub fn send_line(&mut self, line: &str) -> Result<(), DemoError> {
        self.stream.write_all(format!("{line}\n").as_bytes()).at("send to", "the guest's console")
    }
}

impl Drop for ConsoleInput {
    fn drop(&mut self) {
        // It fails only if QEMU hung up, and then the thread has ended.
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
