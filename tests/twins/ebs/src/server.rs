//! The twin's server, on loopback.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State as Extracted},
    http::{HeaderMap, Response, StatusCode},
};
use serde_json::json;
use tokio::{net::TcpListener, sync::oneshot};

use crate::{
    account::{Account, Caller, Options},
    direct, ec2,
    failure::Failure,
    faults::Fault,
    model::{Call, InstanceState},
    query::{Parameters, escaped},
    signature::{Refusal, Signed, signer},
};

/// The largest body of a call.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The twin, while it serves. Dropping it ends it and its instances.
#[derive(Debug)]
pub struct Twin {
    account: Arc<Account>,
    address: SocketAddr,
    ends: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What somebody sees who looks into the account from behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The ids of snapshots.
    pub snapshots: Vec<String>,
    /// The ids of volumes.
    pub volumes: Vec<String>,
    /// The ids of images.
    pub images: Vec<String>,
    /// The ids and states of instances that are not terminated.
    pub instances: Vec<(String, InstanceState)>,
}

impl Twin {
    /// Serves an account at this port of loopback, or at one that is free if it is 0.
    ///
    /// # Errors
    /// The port is taken, or the folder cannot be made.
    pub fn start(options: Options, port: u16) -> Result<Self> {
        let account = Arc::new(Account::new(options)?);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", port))).context("listening on loopback")?;
        let address = listener.local_addr()?;
        let (ends, ended) = oneshot::channel::<()>();
        let router = Router::new().fallback(serve).with_state(Arc::clone(&account));
        let thread = std::thread::spawn(move || {
            let served = axum::serve(listener, router);
            // Whoever is still being served is not waited for.
            runtime.block_on(async {
                tokio::select! {
                    _ = ended => {}
                    _ = served => {}
                }
            });
        });
        Ok(Self { account, address, ends: Some(ends), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was called, oldest first.
    pub fn calls(&self) -> Vec<Call> {
        self.account.state().calls.iter().cloned().collect()
    }

    /// What there is.
    pub fn seen(&self) -> Seen {
        let mut state = self.account.state();
        self.account.look_after(&mut state);
        let running = state.instances.iter().filter(|(_, instance)| instance.state != InstanceState::Terminated);
        Seen {
            snapshots: state.snapshots.keys().cloned().collect(),
            volumes: state.volumes.keys().cloned().collect(),
            images: state.images.keys().cloned().collect(),
            instances: running.map(|(id, instance)| (id.clone(), instance.state)).collect(),
        }
    }

    /// What an instance's guest has written to its console.
    pub fn console_of(&self, instance: &str) -> PathBuf {
        self.account.options.folder.join(instance).join("serial.log")
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        if let Some(ends) = self.ends.take() {
            // It may have ended by itself.
            let _ = ends.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for instance in self.account.state().instances.values_mut() {
            instance.guest = None;
        }
    }
}

async fn serve(Extracted(account): Extracted<Arc<Account>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = match to_bytes(body, BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => {
            return plain(StatusCode::BAD_REQUEST, &format!("The body is too large, or did not arrive: {error:?}"));
        }
    };
    let (method, path) = (parts.method.to_string(), parts.uri.path().to_owned());
    let asked =
        Asked { method, path, query: parts.uri.query().unwrap_or_default().to_owned(), headers: parts.headers, body };
    let answered = tokio::task::spawn_blocking(move || answer(&account, &asked)).await;
    answered.unwrap_or_else(|error| plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))
}

struct Asked {
    method: String,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
}

fn answer(account: &Arc<Account>, asked: &Asked) -> Response<Body> {
    let fault = account.options.faults.next(account);
    let answered = match asked.path.strip_prefix("/snapshots") {
        Some(rest) => of_ebs(account, asked, rest, fault),
        None if asked.path == "/" && asked.method == "POST" => of_ec2(account, asked, fault),
        None => {
            plain(StatusCode::NOT_FOUND, "This twin knows EC2's query protocol at / and EBS direct below /snapshots")
        }
    };
    if fault == Some(Fault::Lost) { lost() } else { answered }
}

/// An answer that breaks off.
fn lost() -> Response<Body> {
    let broken = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "lost");
    let mut response = Response::new(Body::from_stream(futures::stream::once(async { Err::<Bytes, _>(broken) })));
    response.headers_mut().insert("content-length", axum::http::HeaderValue::from_static("1000"));
    response
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(text.to_owned()));
    *response.status_mut() = status;
    response
}

/// Who signed the call.
fn caller(account: &Account, asked: &Asked, service: &str, may_leave_body_out: bool) -> Result<Caller, Refusal> {
    let Asked { method, path, query, headers, body } = asked;
    let signed = Signed { method, path, query, headers, body, may_leave_body_out };
    let principals = &account.options.principals;
    let key_of = |id: &str| principals.get(id).map(|principal| principal.key.clone());
    let key_id = signer(signed, key_of, account.now(), &account.options.region, service)?;
    let principal = principals.get(&key_id).cloned().ok_or(Refusal::UnknownKey)?;
    Ok(Caller { key_id, principal })
}

fn of_ebs(account: &Arc<Account>, asked: &Asked, rest: &str, fault: Option<Fault>) -> Response<Body> {
    let path: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
    let action = direct::action_of(&asked.method, &path).unwrap_or("ebs:Unknown");
    let caller = match caller(account, asked, "ebs", action == "ebs:PutSnapshotBlock") {
        Ok(caller) => caller,
        Err(refusal) => return ebs_failure(&refused(refusal, false)),
    };
    let answered = match fault {
        Some(Fault::Throttled) => {
            let failure = Failure::new(400, "RequestThrottledException", "Rate exceeded");
            Err(Failure { reason: Some("ACCOUNT_THROTTLED"), ..failure })
        }
        Some(Fault::Failing) => Err(Failure::new(500, "InternalServerException", "An internal error has occurred")),
        Some(Fault::Lost) | None => {
            let Asked { method, query, headers, body, .. } = asked;
            direct::call(account, &caller, &direct::Asked { method, path, query, headers, body })
        }
    };
    account.note(&caller.key_id, action, answered.as_ref().err().map(|failure| failure.code.clone()));
    match answered {
        Ok(answer) => {
            let mut response = Response::builder().status(answer.status);
            for (name, value) in answer.headers {
                response = response.header(name, value);
            }
            response.body(Body::from(answer.body)).unwrap_or_default()
        }
        Err(failure) => ebs_failure(&failure),
    }
}

fn ebs_failure(failure: &Failure) -> Response<Body> {
    let mut body = json!({"Message": failure.message});
    if let (Some(reason), Some(fields)) = (failure.reason, body.as_object_mut()) {
        fields.insert("Reason".to_owned(), reason.into());
    }
    let response = Response::builder()
        .status(failure.status)
        .header("content-type", "application/json")
        .header("x-amzn-errortype", &failure.code);
    response.body(Body::from(body.to_string())).unwrap_or_default()
}

fn of_ec2(account: &Arc<Account>, asked: &Asked, fault: Option<Fault>) -> Response<Body> {
    let request = account.new_id("req");
    let caller = match caller(account, asked, "ec2", false) {
        Ok(caller) => caller,
        Err(refusal) => return ec2_failure(&refused(refusal, true), &request),
    };
    let mut action = String::new();
    let answered = Parameters::parse(&asked.body).and_then(|mut parameters| {
        action = parameters.require("Action")?;
        let version = parameters.require("Version")?;
        if version != "2016-11-15" {
            return Err(Failure::new(400, "InvalidParameterValue", format!("The version {version} is not known here")));
        }
        match fault {
            Some(Fault::Throttled) => Err(Failure::new(503, "RequestLimitExceeded", "Request limit exceeded.")),
            Some(Fault::Failing) => Err(Failure::new(500, "InternalError", "An internal error has occurred")),
            Some(Fault::Lost) | None => {
                // Calls that change something have looked for what they do not know before they did it.
                let answered = ec2::call(account, &caller, &action, &mut parameters)?;
                parameters.finish()?;
                Ok(answered)
            }
        }
    });
    let error = answered.as_ref().err().map(|failure| failure.code.clone());
    account.note(&caller.key_id, &format!("ec2:{action}"), error);
    match answered {
        Ok(node) => {
            let mut xml = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
                 <requestId>{request}</requestId>"
            );
            node.write(&mut xml);
            xml.push_str(&format!("</{action}Response>"));
            let response = Response::builder().header("content-type", "text/xml;charset=UTF-8");
            response.body(Body::from(xml)).unwrap_or_default()
        }
        Err(failure) => ec2_failure(&failure, &request),
    }
}

fn ec2_failure(failure: &Failure, request: &str) -> Response<Body> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{}</Code><Message>{}</Message></Error></Errors>\
         <RequestID>{request}</RequestID></Response>",
        escaped(&failure.code),
        escaped(&failure.message)
    );
    let response = Response::builder().status(failure.status).header("content-type", "text/xml;charset=UTF-8");
    response.body(Body::from(xml)).unwrap_or_default()
}

/// What somebody is told whose signature is not accepted: the two services have words of their own.
fn refused(refusal: Refusal, is_ec2: bool) -> Failure {
    let words = |of_ec2: &str, of_ebs: &str| if is_ec2 { of_ec2.to_owned() } else { of_ebs.to_owned() };
    let (status, code, message) = match refusal {
        Refusal::Missing => (
            if is_ec2 { 400 } else { 403 },
            words("MissingAuthenticationToken", "MissingAuthenticationTokenException"),
            "The request is not signed".to_owned(),
        ),
        Refusal::Malformed(what) => (400, words("AuthFailure", "IncompleteSignatureException"), what),
        Refusal::UnknownKey => (
            if is_ec2 { 401 } else { 403 },
            words("AuthFailure", "UnrecognizedClientException"),
            "The access key is not known".to_owned(),
        ),
        Refusal::WrongToken => (
            if is_ec2 { 401 } else { 403 },
            words("AuthFailure", "UnrecognizedClientException"),
            "The security token is not the key's".to_owned(),
        ),
        Refusal::Skewed(when) => {
            (if is_ec2 { 400 } else { 403 }, words("RequestExpired", "InvalidSignatureException"), when)
        }
        Refusal::WrongScope(scope) => {
            (if is_ec2 { 401 } else { 403 }, words("AuthFailure", "InvalidSignatureException"), scope)
        }
        Refusal::Mismatch(canonical) => {
            let message =
                format!("The signature is not the one of this request. What should have been signed: {canonical:?}");
            (403, words("SignatureDoesNotMatch", "InvalidSignatureException"), message)
        }
    };
    Failure::new(status, &code, message)
}
