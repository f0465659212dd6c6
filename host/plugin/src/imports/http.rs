//! HTTP APIs that the operator named.

use std::{sync::Arc, time::Duration};

use farshore_core::{Coded as _, EndpointName};
use farshore_http::{Endpoint, Header as SentHeader, HttpError, Method as SentMethod, RESPONSE_BYTES_MAX};
use wasmtime::component::Resource;

use super::shortened;
use crate::{
    TransportGrant,
    limits::{
        BLOCK_BYTES, HTTP_GRACE, HTTP_TIME_MAX, LIST_BYTES_MAX, NUMBER_END, THROTTLE_WORD_BYTES_MAX, THROTTLE_WORDS_MAX,
    },
    refusal::Wanted,
    state::CallState,
    transport,
    v0_1::host::{
        errors::HostError,
        http::{BlockDisk, BlockRead, BlockWrite, Header, Host, Method, Request, Response},
    },
};

/// What a component hears of a request that has no answer.
fn http_error(error: &HttpError) -> HostError {
    // The component passes the sentence on to the operator, who finds the page by the code.
    let told = format!("{error} [{}]", error.code());
    match error {
        HttpError::Unreachable { .. } => HostError::Unreachable(told),
        HttpError::TimedOut { .. } | HttpError::NoTurn { .. } => HostError::TimedOut(told),
        HttpError::TooLarge { .. } => HostError::Limit(told),
        HttpError::Invalid { .. } => HostError::Invalid(told),
        HttpError::AddressRefused { .. } | HttpError::Credential { .. } | HttpError::ClockDiffers { .. } => {
            HostError::Failed(told)
        }
    }
}

fn headers(from: Vec<Header>) -> Vec<SentHeader> {
    from.into_iter().map(|header| (header.name, header.value)).collect()
}

fn check_words(words: &[String]) -> Result<(), HostError> {
    let fits = |word: &String| (1..=THROTTLE_WORD_BYTES_MAX).contains(&word.len());
    if words.len() <= THROTTLE_WORDS_MAX && words.iter().all(fits) {
        return Ok(());
    }
    Err(HostError::Invalid(format!(
        "there are at most {THROTTLE_WORDS_MAX} throttle words, each of 1 to {THROTTLE_WORD_BYTES_MAX} bytes"
    )))
}

impl CallState {
    /// The endpoint of this name. The outer error refuses.
    fn granted_endpoint(&self, name: &str) -> wasmtime::Result<Result<Arc<Endpoint>, HostError>> {
        let Ok(parsed) = name.parse::<EndpointName>() else {
            let told = format!("{:?} is not the name of an endpoint", shortened(name));
            return Ok(Err(HostError::Invalid(told)));
        };
        let wanted = || Wanted::Endpoint { name: name.to_owned() };
        if !self.bound.wants().endpoints.contains(name) {
            return Err(self.judge().not_in_manifest(wanted()));
        }
        match self.bound.endpoints.get(&parsed) {
            Some(endpoint) => Ok(Ok(Arc::clone(endpoint))),
            None => Err(self.judge().not_granted(wanted())),
        }
    }
}

fn to_send(request: Request) -> Result<farshore_http::Request, HostError> {
    let timeout = Duration::from_millis(u64::from(request.timeout_milliseconds));
    if timeout.is_zero() || timeout > HTTP_TIME_MAX {
        return Err(HostError::Invalid(format!("a request has 1 to {} ms", HTTP_TIME_MAX.as_millis())));
    }
    if request.body.len() > LIST_BYTES_MAX {
        return Err(HostError::Limit(format!("a body has at most {LIST_BYTES_MAX} bytes")));
    }
    check_words(&request.throttle_words)?;
    Ok(farshore_http::Request {
        method: match request.method {
            Method::Get => SentMethod::Get,
            Method::Post => SentMethod::Post,
            Method::Put => SentMethod::Put,
            Method::Patch => SentMethod::Patch,
            Method::Delete => SentMethod::Delete,
        },
        target: request.target,
        headers: headers(request.headers),
        body: request.body.into(),
        body_sha256: None,
        response_bytes_max: RESPONSE_BYTES_MAX,
        timeout,
        repeatable: request.repeatable,
        throttle_words: request.throttle_words,
    })
}

/// The words of a disk of blocks, if they have the form that they must have. What a request may hold is checked when one is
/// made of them.
fn block_words(disk: BlockDisk) -> Result<transport::BlockWords, HostError> {
    let BlockDisk { endpoint: _, size_bytes, block_bytes, read, write, throttle_words } = disk;
    if size_bytes == 0 || size_bytes >= NUMBER_END || !size_bytes.is_multiple_of(512) {
        return Err(HostError::Invalid(format!("a disk of blocks has {size_bytes} bytes, not a multiple of 512")));
    }
    if !block_bytes.is_power_of_two() || !BLOCK_BYTES.contains(&block_bytes) {
        return Err(HostError::Invalid(format!(
            "a block has {block_bytes} bytes, not a power of two from 4 KiB to 1 MiB"
        )));
    }
    check_words(&throttle_words)?;
    let needs = |target: &str, slots: &[&str]| match slots.iter().find(|slot| !target.contains(**slot)) {
        Some(missing) => Err(HostError::Invalid(format!("the target of a block does not say where {missing} stands"))),
        None => Ok(()),
    };
    if let Some(read) = &read {
        needs(&read.target, &["{index}", "{key}"])?;
    }
    if let Some(write) = &write {
        needs(&write.target, &["{index}"])?;
    }
    Ok(transport::BlockWords {
        size_bytes,
        block_bytes,
        read: read.map(|BlockRead { target, checksum_header }| transport::BlockRead {
            target,
            checksum_header: checksum_header.to_ascii_lowercase(),
        }),
        write: write.map(|BlockWrite { target, headers: of_write }| transport::BlockWrite {
            target,
            headers: headers(of_write),
        }),
        throttle_words,
    })
}

impl Host for CallState {
    async fn send(&mut self, endpoint: String, request: Request) -> wasmtime::Result<Result<Response, HostError>> {
        let endpoint = match self.granted_endpoint(&endpoint)? {
            Ok(endpoint) => endpoint,
            Err(error) => return Ok(Err(error)),
        };
        let request = match to_send(request) {
            Ok(request) => request,
            Err(error) => return Ok(Err(error)),
        };
        let limit = request.timeout.saturating_add(HTTP_GRACE);
        let told = || format!("{} did not answer in time", endpoint.address());
        let answer = self.waiting("http.send", limit, async { Ok(endpoint.send(&request).await) }, told).await;
        match answer {
            Ok(Ok(answer)) => Ok(Ok(Response {
                status: answer.status,
                headers: answer.headers.into_iter().map(|(name, value)| Header { name, value }).collect(),
                body: answer.body.to_vec(),
            })),
            Ok(Err(HttpError::AddressRefused { endpoint, host, found })) => {
                Err(self.judge().address_not_allowed(endpoint.as_str(), host, found))
            }
            Ok(Err(error)) => Ok(Err(http_error(&error))),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn open_blocks(&mut self, disk: BlockDisk) -> wasmtime::Result<Result<Resource<TransportGrant>, HostError>> {
        let endpoint = match self.granted_endpoint(&disk.endpoint)? {
            Ok(endpoint) => endpoint,
            Err(error) => return Ok(Err(error)),
        };
        Ok(block_words(disk).and_then(|words| self.push(TransportGrant::Blocks { endpoint, words })))
    }
}
