//! The client of paced requests, made from store options, and what its errors are to `object_store`.

use std::{error::Error as StdError, io, str::ParseBoolError, time::Duration};

use object_store::{
    ClientConfigKey as Key, ClientOptions, Error as ObjectError, Result as ObjectResult,
    client::{HttpError, HttpErrorKind},
};
use reqwest::{Certificate, ClientBuilder, NoProxy};

/// What the options say of it if they say nothing.
const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// For how long nothing may move: the shorter of the two that the options can set.
pub(super) fn stall_timeout(options: &ClientOptions) -> ObjectResult<Duration> {
    let timeouts = [duration(options, Key::Timeout)?, duration(options, Key::ReadTimeout)?];
    Ok(timeouts.into_iter().flatten().min().unwrap_or(Duration::MAX))
}

/// Sorted as `object_store` sorts the errors of its own client: the kind decides whether it repeats the request.
pub(super) fn failed(error: reqwest::Error) -> HttpError {
    let kind = if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else if error.is_decode() {
        HttpErrorKind::Decode
    } else {
        let sources = std::iter::successors(error.source(), |source| StdError::source(*source));
        sources.filter_map(kind).next().unwrap_or(HttpErrorKind::Unknown)
    };
    HttpError::new(kind, error.without_url())
}

fn kind(source: &(dyn StdError + 'static)) -> Option<HttpErrorKind> {
    if let Some(error) = source.downcast_ref::<hyper::Error>() {
        let lost = error.is_closed() || error.is_incomplete_message() || error.is_body_write_aborted();
        return if lost { Some(HttpErrorKind::Request) } else { error.is_timeout().then_some(HttpErrorKind::Timeout) };
    }
    match source.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::TimedOut => Some(HttpErrorKind::Timeout),
        io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Some(HttpErrorKind::Interrupted),
        _ => None,
    }
}

/// A client as `object_store` makes it of these options, but for three things: it has no timeout of a whole request, it
/// does not shuffle the addresses of a name, and it knows no certificates that were added by code.
pub(super) fn client(options: &ClientOptions) -> ObjectResult<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(options.get_config_value(&Key::UserAgent).unwrap_or_else(|| USER_AGENT.to_owned()))
        .default_headers(options.get_default_headers().cloned().unwrap_or_default())
        .https_only(!flag(options, Key::AllowHttp)?)
        .danger_accept_invalid_certs(flag(options, Key::AllowInvalidCertificates)?)
        .http2_keep_alive_interval(duration(options, Key::Http2KeepAliveInterval)?)
        .http2_keep_alive_while_idle(flag(options, Key::Http2KeepAliveWhileIdle)?)
        .http2_max_frame_size(value(options, Key::Http2MaxFrameSize, str::parse)?)
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate();
    builder = set(builder, duration(options, Key::ConnectTimeout)?, ClientBuilder::connect_timeout);
    builder = set(builder, duration(options, Key::PoolIdleTimeout)?, ClientBuilder::pool_idle_timeout);
    builder = set(builder, duration(options, Key::Http2KeepAliveTimeout)?, ClientBuilder::http2_keep_alive_timeout);
    let connections = value(options, Key::PoolMaxIdlePerHost, str::parse)?;
    builder = set(builder, connections, ClientBuilder::pool_max_idle_per_host);
    if let Some(proxy) = value(options, Key::ProxyUrl, |url| reqwest::Proxy::all(url))? {
        let excludes = options.get_config_value(&Key::ProxyExcludes);
        builder = builder.proxy(proxy.no_proxy(excludes.and_then(|hosts| NoProxy::from_string(&hosts))));
        let certificate = value(options, Key::ProxyCaCertificate, |pem| Certificate::from_pem(pem.as_bytes()))?;
        builder = builder.tls_certs_merge(certificate);
    }
    if flag(options, Key::NoSystemCertificates)? {
        builder = builder.tls_certs_only([]);
    }
    if flag(options, Key::Http1Only)? {
        builder = builder.http1_only();
    }
    if flag(options, Key::Http2Only)? {
        builder = builder.http2_prior_knowledge();
    }
    builder.build().map_err(unfit)
}

fn set<T>(builder: ClientBuilder, value: Option<T>, with: fn(ClientBuilder, T) -> ClientBuilder) -> ClientBuilder {
    match value {
        Some(value) => with(builder, value),
        None => builder,
    }
}

fn unfit(error: impl StdError + Send + Sync + 'static) -> ObjectError {
    ObjectError::Generic { store: "HTTP client", source: Box::new(error) }
}

fn value<T, E: StdError + Send + Sync + 'static>(
    options: &ClientOptions,
    key: Key,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> ObjectResult<Option<T>> {
    options.get_config_value(&key).map(|text| parse(&text)).transpose().map_err(unfit)
}

fn duration(options: &ClientOptions, key: Key) -> ObjectResult<Option<Duration>> {
    value(options, key, humantime::parse_duration)
}

fn flag(options: &ClientOptions, key: Key) -> ObjectResult<bool> {
    let parse = |text: &str| -> Result<bool, ParseBoolError> {
        match text.to_ascii_lowercase().as_str() {
            "1" | "on" | "yes" | "y" => Ok(true),
            "0" | "off" | "no" | "n" => Ok(false),
            text => text.parse(),
        }
    };
    Ok(value(options, key, parse)?.unwrap_or_default())
}
