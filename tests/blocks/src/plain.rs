//! The limit: EBS direct's blocks copied by plain HTTP, signed and in parallel, by a program that does nothing else. It compares nothing, repeats
//! nothing and keeps nothing.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use anyhow::{Context as _, Result, ensure};
use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{self, SignableBody, SignableRequest, SigningSettings},
    sign::v4,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::{Method, Url};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{BLOCK_BYTES, KEY_ID, REGION, SECRET, content};

/// Whoever copies.
pub struct Plain {
    client: reqwest::Client,
    ebs: String,
    in_flight: usize,
}

impl Plain {
    /// Copies from and to this address of EBS direct, with so many requests at once.
    pub fn new(ebs: String, in_flight: usize) -> Self {
        Self { client: reqwest::Client::new(), ebs, in_flight }
    }

    async fn send(&self, method: Method, target: &str, headers: &[(&str, String)], body: Bytes) -> Result<Bytes> {
        let url: Url = format!("{}{target}", self.ebs).parse()?;
        let identity = Credentials::new(KEY_ID, SECRET, None, None, "plain").into();
        let signing = v4::SigningParams::builder().identity(&identity).region(REGION).name("ebs");
        // The machine's time is part of what is signed.
        #[expect(clippy::disallowed_methods, reason = "the limit uses nothing of ours")]
        let signing = signing.time(SystemTime::now()).settings(SigningSettings::default()).build()?.into();
        let named = headers.iter().map(|(name, value)| (*name, value.as_str()));
        let signable = SignableRequest::new(method.as_str(), url.as_str(), named, SignableBody::Bytes(&body))?;
        let (signed, _) = http_request::sign(signable, &signing)?.into_parts();
        let mut request = self.client.request(method, url).body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        for (name, value) in signed.headers() {
            request = request.header(name, value);
        }
        let response = request.send().await?;
        let status = response.status();
        let answer = response.bytes().await?;
        ensure!(status.is_success(), "{target}: {status}: {}", String::from_utf8_lossy(&answer));
        Ok(answer)
    }

    async fn json(&self, method: Method, target: &str, headers: &[(&str, String)], body: Value) -> Result<Value> {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        Ok(serde_json::from_slice(&self.send(method, target, headers, body).await?)?)
    }

    /// Reads all blocks of a snapshot, and says how many bytes came. `is_checked`: their SHA-256 is computed, too.
    ///
    /// # Errors
    /// A request is refused or not answered.
    pub async fn read(&self, snapshot: &str, is_checked: bool) -> Result<u64> {
        let mut blocks = Vec::new();
        let mut next = String::new();
        loop {
            let target = format!("/snapshots/{snapshot}/blocks?maxResults=10000{next}");
            let page = self.json(Method::GET, &target, &[], Value::Null).await?;
            for block in page["Blocks"].as_array().context("a list")? {
                let index = block["BlockIndex"].as_u64().context("a number")?;
                blocks.push((index, block["BlockToken"].as_str().context("a token")?.to_owned()));
            }
            match page["NextToken"].as_str() {
                Some(token) => next = format!("&pageToken={}", encoded(token)),
                None => break,
            }
        }
        let bytes = AtomicU64::new(0);
        let all = stream::iter(blocks.into_iter().map(anyhow::Ok));
        all.try_for_each_concurrent(self.in_flight, |(index, token)| {
            let bytes = &bytes;
            async move {
                let target = format!("/snapshots/{snapshot}/blocks/{index}?blockToken={}", encoded(&token));
                let block = self.send(Method::GET, &target, &[], Bytes::new()).await?;
                bytes.fetch_add(block.len() as u64, Ordering::Relaxed);
                if is_checked {
                    let digest = tokio::task::spawn_blocking(move || Sha256::digest(&block)).await?;
                    std::hint::black_box(digest);
                }
                Ok(())
            }
        })
        .await?;
        Ok(bytes.into_inner())
    }

    /// Writes so many blocks to a new snapshot and completes it.
    ///
    /// # Errors
    /// A request is refused or not answered.
    pub async fn write(&self, gibibytes: u64, blocks: u64, token: &str) -> Result<String> {
        let begun = json!({"VolumeSize": gibibytes, "ClientToken": token});
        let begun = self.json(Method::POST, "/snapshots", &[], begun).await?;
        let snapshot = begun["SnapshotId"].as_str().context("an id")?.to_owned();
        let id = snapshot.as_str();
        let digests: Vec<[u8; 32]> = stream::iter(0..blocks)
            .map(|index| async move {
                let data = content(index);
                let digest: [u8; 32] = Sha256::digest(&data).into();
                let headers = [
                    ("x-amz-data-length", BLOCK_BYTES.to_string()),
                    ("x-amz-checksum", STANDARD.encode(digest)),
                    ("x-amz-checksum-algorithm", "SHA256".to_owned()),
                ];
                self.send(Method::PUT, &format!("/snapshots/{id}/blocks/{index}"), &headers, data).await?;
                anyhow::Ok(digest)
            })
            .buffered(self.in_flight)
            .try_collect()
            .await?;
        let headers = [
            ("x-amz-changedblockscount", blocks.to_string()),
            ("x-amz-checksum", STANDARD.encode(Sha256::digest(digests.concat()))),
            ("x-amz-checksum-algorithm", "SHA256".to_owned()),
            ("x-amz-checksum-aggregation-method", "LINEAR".to_owned()),
        ];
        self.json(Method::POST, &format!("/snapshots/completion/{id}"), &headers, Value::Null).await?;
        Ok(snapshot)
    }
}

/// As it can stand in a query.
fn encoded(token: &str) -> String {
    token.replace('%', "%25").replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}
