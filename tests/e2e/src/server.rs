//! Programs that serve a test and end with it.

use std::{
    io::{BufRead as _, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// A program that ends with the test.
#[derive(Debug)]
pub struct Server {
    process: Child,
    /// The first word after the mark that it was started with.
    pub said: String,
}

/// Where a server says that it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// On its standard output.
    Output,
    /// On its standard error.
    Errors,
}

impl Server {
    /// Starts it, and waits until it has said what follows a mark, such as where it listens. Whatever it says later is read and dropped,
    /// so that it never waits for a reader.
    ///
    /// # Panics
    /// It is not there, or it ends without having said so.
    pub fn start(mut command: Command, says: Says, mark: &str) -> Self {
        let (output, errors) = match says {
            Says::Output => (Stdio::piped(), Stdio::null()),
            Says::Errors => (Stdio::null(), Stdio::piped()),
        };
        let mut process = command
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}; `cargo xtask test` installs it"));
        let output: Box<dyn Read + Send> = match says {
            Says::Output => Box::new(process.stdout.take().expect("its messages")),
            Says::Errors => Box::new(process.stderr.take().expect("its messages")),
        };
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let said = lines.find_map(|line| Some(line.split_once(mark)?.1.split_whitespace().next()?.to_owned()));
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, said: said.expect("it says where it listens") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A folder of what `cargo xtask test` has installed.
pub fn installed(folder: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache"))).expect("a home");
    cache.join("farshore").join(folder)
}
