//! The command line's end of the API.

use std::{io::ErrorKind, path::PathBuf};

use farshore_core::GroupName;
use farshore_replication::{CycleReport, Wishes};
use reqwest::{Method, Response};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::{CycleRequest, HostStatus, Problem, ReloadReport};
use crate::{config::Configuration, error::CliError, output::Failure};

/// A daemon that runs on this machine.
pub struct Client {
    http: reqwest::Client,
    socket: PathBuf,
}

impl Client {
    /// The daemon of this configuration; none if none runs.
    ///
    /// # Errors
    /// [`CliError::Daemon`] when one may run, and may not be asked.
    pub async fn find(configuration: &Configuration) -> Result<Option<Self>, CliError> {
        let socket = configuration.socket();
        match UnixStream::connect(&socket).await {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(source) => return Err(CliError::Daemon { socket, why: source.to_string() }),
        }
        let http = reqwest::Client::builder().unix_socket(socket.as_path()).no_proxy().build();
        match http {
            Ok(http) => Ok(Some(Self { http, socket })),
            Err(error) => Err(CliError::Daemon { socket, why: error.to_string() }),
        }
    }

    /// How everything stands.
    ///
    /// # Errors
    /// What the daemon says, or [`CliError::Daemon`].
    pub async fn status(&self) -> Result<HostStatus, Failure> {
        self.ask(Method::GET, "/v1/status", None::<&()>).await
    }

    /// A point of a group, now.
    ///
    /// # Errors
    /// Why it did not come to be.
    pub async fn cycle(&self, group: &GroupName, wishes: &Wishes) -> Result<CycleReport, Failure> {
        let Wishes { label, consistency, is_asked: _, only_catches_up: _ } = wishes.clone();
        self.ask(Method::POST, &format!("/v1/groups/{group}/cycles"), Some(&CycleRequest { label, consistency })).await
    }

    /// The daemon takes the configuration's file as it is now.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn reload(&self) -> Result<ReloadReport, Failure> {
        self.ask(Method::POST, "/v1/reload", None::<&()>).await
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Q>,
    ) -> Result<A, Failure> {
        let failed = |why: String| CliError::Daemon { socket: self.socket.clone(), why };
        let mut request = self.http.request(method, format!("http://farshore{path}"));
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| failed(innermost(&error)))?;
        if response.status().is_success() {
            return Ok(response.json().await.map_err(|error| failed(innermost(&error)))?);
        }
        Err(Self::problem(response).await.unwrap_or_else(|why| failed(why).into()))
    }

    /// The error that a response tells.
    async fn problem(response: Response) -> Result<Failure, String> {
        let status = response.status();
        match response.json::<Problem>().await {
            Ok(problem) => Ok(problem.failure),
            Err(_) => Err(format!("it answered {status}")),
        }
    }
}

/// The cause that says most.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}
