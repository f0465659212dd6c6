//! The requests that move a block.

use std::{io, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use farshore_core::Coded as _;
use farshore_http::{HttpError, Method, Request, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::BlockDisk;
use crate::TransportError;

/// One block has this long, with all attempts and the waiting for its turn. A service that throttles a storm of requests
/// wants minutes.
const BLOCK_TIME_MAX: Duration = Duration::from_secs(300);
/// A block whose bytes do not have its checksum is read this often in all.
const READS_MAX: u32 = 3;
/// What the answer to a write may have.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// What is shown of a refusal.
const REFUSAL_CHARACTERS_SHOWN: usize = 300;

/// What stands in a part of a path or a query as it is (RFC 3986, 2.3).
const UNRESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How reading a block went wrong.
pub(super) enum ReadFailure {
    /// The service refuses: perhaps the key is too old.
    Refused(TransportError),
    /// Anything else.
    Other(TransportError),
}

impl BlockDisk {
    /// Reads a block by its key.
    pub(super) async fn get(&self, index: u64, key: &str) -> Result<Bytes, ReadFailure> {
        let other = |source| ReadFailure::Other(self.failed("read", self.extent_of(index), source));
        let Some(read) = &self.words.read else {
            return Err(ReadFailure::Other(self.unsupported("it is not for reading")));
        };
        let target = read
            .target
            .replace("{index}", &index.to_string())
            .replace("{key}", &utf8_percent_encode(key, &UNRESERVED).to_string());
        let bytes = self.words.block_bytes as usize;
        let request = Request {
            response_bytes_max: bytes.max(ANSWER_BYTES_MAX),
            throttle_words: self.words.throttle_words.clone(),
            ..Request::get(target, BLOCK_TIME_MAX)
        };
        let mut wrong = String::new();
        for _ in 0..READS_MAX {
            let response = self.endpoint.send(&request).await.map_err(|error| other(unanswered(&error)))?;
            if matches!(response.status, 400..=499) && !request.is_throttled_by(&response) {
                return Err(ReadFailure::Refused(self.failed("read", self.extent_of(index), refusal(&response))));
            }
            if !response.is_success() {
                return Err(other(refusal(&response)));
            }
            if response.body.len() != bytes {
                wrong = format!("block {index} has {} bytes, not {bytes}", response.body.len());
                continue;
            }
            let digest = STANDARD.encode(sha256_elsewhere(&response.body).await);
            match response.header(&read.checksum_header) {
                Some(told) if told == digest => return Ok(response.body),
                Some(told) => wrong = format!("block {index} has the SHA-256 {digest}, not {told} as it should"),
                None => wrong = format!("block {index} came without its checksum ({})", read.checksum_header),
            }
        }
        Err(other(io::Error::new(io::ErrorKind::InvalidData, wrong)))
    }

    /// Writes a block whose SHA-256 is this.
    pub(super) async fn put(&self, index: u64, data: Bytes, digest: [u8; 32]) -> Result<(), TransportError> {
        let failed = |source| self.failed("write", self.extent_of(index), source);
        let Some(write) = &self.words.write else { return Err(self.unsupported("it is not for writing")) };
        let (length, checksum) = (data.len().to_string(), STANDARD.encode(digest));
        let filled = |value: &String| value.replace("{length}", &length).replace("{sha256}", &checksum);
        let request = Request {
            method: Method::Put,
            headers: write.headers.iter().map(|(name, value)| (name.clone(), filled(value))).collect(),
            body: data,
            body_sha256: Some(digest),
            response_bytes_max: ANSWER_BYTES_MAX,
            throttle_words: self.words.throttle_words.clone(),
            ..Request::get(write.target.replace("{index}", &index.to_string()), BLOCK_TIME_MAX)
        };
        let response = self.endpoint.send(&request).await.map_err(|error| failed(unanswered(&error)))?;
        if response.is_success() { Ok(()) } else { Err(failed(refusal(&response))) }
    }
}

/// Why there is no answer, with the code of its page.
fn unanswered(error: &HttpError) -> io::Error {
    io::Error::other(format!("{error} [{}]", error.code()))
}

/// What a service said when it refused.
fn refusal(response: &Response) -> io::Error {
    let body = String::from_utf8_lossy(&response.body);
    let shown: String =
        body.chars().filter(|character| !character.is_control()).take(REFUSAL_CHARACTERS_SHOWN).collect();
    io::Error::other(format!("the service answered with the status {}: {shown}", response.status))
}

/// The SHA-256 of a block, by another thread: whoever reads many at once is one task, and would hash one after the other.
async fn sha256_elsewhere(block: &Bytes) -> [u8; 32] {
    let moved = block.clone();
    // A runtime that is ending starts no threads.
    tokio::task::spawn_blocking(move || sha256(&moved)).await.unwrap_or_else(|_| sha256(block))
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut copied = [0; 32];
    copied.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    copied
}
