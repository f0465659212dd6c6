//! How a request fails. No sentence holds a key, a signature or a query.

use std::{error::Error as StdError, time::Duration};

use farshore_core::{Code, Coded, CredentialName, EndpointName};

use crate::KeyError;

/// Why an endpoint cannot be made of what the operator granted.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The grant contradicts itself.
    #[error("the endpoint {endpoint} cannot be used: {why}")]
    Contradiction {
        /// The endpoint.
        endpoint: EndpointName,
        /// Why.
        why: &'static str,
    },
    /// The certificates are none.
    #[error("the certificates of the endpoint {endpoint} cannot be read: {why}")]
    Certificates {
        /// The endpoint.
        endpoint: EndpointName,
        /// Why.
        why: String,
    },
    /// The client cannot be made, such as when the system has no authorities.
    #[error("the endpoint {endpoint} cannot be used: {}", causes(source))]
    Client {
        /// The endpoint.
        endpoint: EndpointName,
        /// Why.
        source: reqwest::Error,
    },
}

impl Coded for EndpointError {
    fn code(&self) -> Code {
        Code::new(2501)
    }
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nothing listens, the name is not known, TLS failed, or the connection broke.
    #[error("{address} cannot be reached for {request}: {}", causes(source))]
    Unreachable {
        /// Where it went.
        address: String,
        /// Method and path.
        request: String,
        /// Whether it may have been carried out.
        was_sent: bool,
        /// What the system said.
        source: reqwest::Error,
    },
    /// The name leads to an address that the grant does not allow.
    #[error(
        "{host} leads to {found}, which the endpoint {endpoint} does not allow. If it is right, add its network to \
         `networks` of the endpoint"
    )]
    AddressRefused {
        /// The endpoint.
        endpoint: EndpointName,
        /// The name.
        host: String,
        /// What it leads to.
        found: String,
    },
    /// No answer came in time.
    #[error("{address} did not answer {request} within {} ms", limit.as_millis())]
    TimedOut {
        /// Where it went.
        address: String,
        /// Method and path.
        request: String,
        /// How long was waited.
        limit: Duration,
    },
    /// Its turn would come after its time.
    #[error(
        "{address} was not asked for {request}: so many requests wait for their turn that its time would be over. The \
         endpoint's `requests-per-second`, or the service's own throttling, lets no more go"
    )]
    NoTurn {
        /// Where it should go.
        address: String,
        /// Method and path.
        request: String,
    },
    /// The answer is larger than the caller can take.
    #[error("{address} answered {request} with more than {bytes_max} bytes")]
    TooLarge {
        /// Where it went.
        address: String,
        /// Method and path.
        request: String,
        /// What is allowed.
        bytes_max: usize,
    },
    /// The request is none that may be sent.
    #[error("a request to {address} cannot be sent: {why}")]
    Invalid {
        /// Where it should go.
        address: String,
        /// Why.
        why: String,
    },
    /// The credential cannot be had.
    #[error("the credential {credential} of the endpoint {endpoint} cannot be had: {source}")]
    Credential {
        /// The endpoint.
        endpoint: EndpointName,
        /// The credential.
        credential: CredentialName,
        /// Why.
        source: KeyError,
    },
    /// The request was refused, and the clocks differ so much that no signature of this machine is accepted.
    #[error(
        "{address} refused {request} (status {status}), and the clock of this machine is {seconds} s {direction} its own, \
         which makes every signature invalid. Set the clock of this machine (`timedatectl` shows whether it follows a time \
         server)"
    )]
    ClockDiffers {
        /// Where it went.
        address: String,
        /// Method and path.
        request: String,
        /// The status of the refusal.
        status: u16,
        /// How much.
        seconds: u64,
        /// `ahead of` or `behind`.
        direction: &'static str,
    },
}

impl HttpError {
    /// Whether it is certain that this attempt was not carried out.
    pub(crate) const fn was_not_sent(&self) -> bool {
        match self {
            Self::Unreachable { was_sent, .. } => !*was_sent,
            Self::AddressRefused { .. } | Self::NoTurn { .. } | Self::Invalid { .. } | Self::Credential { .. } => true,
            Self::TimedOut { .. } | Self::TooLarge { .. } | Self::ClockDiffers { .. } => false,
        }
    }
}

impl Coded for HttpError {
    fn code(&self) -> Code {
        match self {
            Self::Unreachable { .. } => Code::new(2502),
            Self::AddressRefused { .. } => Code::new(2503),
            Self::TimedOut { .. } | Self::NoTurn { .. } => Code::new(2504),
            Self::TooLarge { .. } => Code::new(2505),
            Self::Invalid { .. } => Code::new(2506),
            Self::Credential { .. } => Code::new(2507),
            Self::ClockDiffers { .. } => Code::new(2508),
        }
    }
}

/// What the system said, without what the client puts around it: its own first sentence holds the whole URL, and with it
/// the query.
fn causes(error: &reqwest::Error) -> String {
    let mut deepest: &dyn StdError = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    if deepest.source().is_none() && std::ptr::addr_eq(deepest, error) {
        return "the connection broke".to_owned();
    }
    deepest.to_string()
}
