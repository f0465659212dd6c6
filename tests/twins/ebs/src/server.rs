//! The twin's servers, on loopback: one for EC2 and Service Quotas, and one for EBS direct.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State as Extracted},
    http::{HeaderMap, Response},
};
use farshore_core::{Clock as _, SystemClock};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot};

use crate::{
    account::{Account, Caller, Options},
    direct::{self, Answer},
    ec2,
    failure::Failure,
    faults::Fault,
    model::{Call, InstanceState},
    query::{Parameters, escaped},
    quotas,
    signature::{Refusal, Signed, signer},
};

/// The largest body of a call.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The twin, while it serves. Dropping it ends it and its instances.
#[derive(Debug)]
pub struct Twin {
    account: Arc<Account>,
    ec2: SocketAddr,
    ebs: SocketAddr,
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
    /// Serves an account at these ports of loopback, for EC2 and for EBS direct; at one that is free where it is 0.
    ///
    /// # Errors
    /// A port is taken, or the folder cannot be made.
    pub fn start(options: Options, [ec2, ebs]: [u16; 2]) -> Result<Self> {
        let account = Arc::new(Account::new(options)?);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        // Bound before anything waits, so that a twin can also be started where a test is asynchronous itself.
        let listen = |port| {
            let listener = std::net::TcpListener::bind(("127.0.0.1", port)).context("listening on loopback")?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            let _entered = runtime.enter();
            anyhow::Ok((TcpListener::from_std(listener)?, address))
        };
        let ((ec2_listener, ec2), (ebs_listener, ebs)) = (listen(ec2)?, listen(ebs)?);
        let (ends, ended) = oneshot::channel::<()>();
        let of_ec2 = Router::new().fallback(serve_ec2).with_state(Arc::clone(&account));
        let of_ebs = Router::new().fallback(serve_ebs).with_state(Arc::clone(&account));
        let thread = std::thread::spawn(move || {
            // Whoever is still being served is not waited for.
            runtime.block_on(async {
                tokio::select! {
                    _ = ended => {}
                    _ = axum::serve(ec2_listener, of_ec2) => {}
                    _ = axum::serve(ebs_listener, of_ebs) => {}
                }
            });
            runtime.shutdown_background();
        });
        Ok(Self { account, ec2, ebs, ends: Some(ends), thread: Some(thread) })
    }

    /// Where EC2 is.
    pub fn ec2_url(&self) -> String {
        format!("http://{}", self.ec2)
    }

    /// Where EBS direct is.
    pub fn ebs_url(&self) -> String {
        format!("http://{}", self.ebs)
    }

    /// Lets time pass in the account: tokens expire, and snapshots whose blocks do not come. Signatures are judged by the
    /// machine's time all the same.
    pub fn pass(&self, span: Duration) {
        self.account.pass(span);
    }

    /// Lets the next call of this kind, such as `ec2:RunInstances`, go wrong in this way; said twice, the next two.
    pub fn fail_next(&self, action: &str, fault: Fault) {
        self.account.state().wanted.push((action.to_owned(), fault));
    }

    /// What was called, oldest first.
    pub fn calls(&self) -> Vec<Call> {
        self.account.state().calls.iter().cloned().collect()
    }

    /// What this key's policy was asked for and has allowed: actions, each with a kind of resources. It is more than the calls
    /// say, because one call asks for several.
    pub fn allowed(&self, key_id: &str) -> BTreeSet<(String, String)> {
        let all = self.account.lock_allowed();
        let own = all.iter().filter(|allowed| allowed.by == key_id);
        own.map(|allowed| (allowed.action.clone(), allowed.kind.clone())).collect()
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

    /// The file of what an instance's guest has written to its console.
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
        self.account.end();
    }
}

async fn serve_ec2(Extracted(account): Extracted<Arc<Account>>, request: Request) -> Response<Body> {
    serve(account, request, of_ec2).await
}

async fn serve_ebs(Extracted(account): Extracted<Arc<Account>>, request: Request) -> Response<Body> {
    serve(account, request, of_ebs).await
}

async fn serve(
    account: Arc<Account>,
    request: Request,
    answer: fn(&Arc<Account>, &Asked) -> (Answer, Option<Fault>),
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = match to_bytes(body, BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => {
            return Answer::plain(400, &format!("The body is too large, or did not arrive: {error}")).whole();
        }
    };
    let asked = Asked {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
    };
    let answered = tokio::task::spawn_blocking(move || {
        let (answer, fault) = answer(&account, &asked);
        match fault {
            Some(Fault::Lost) => answer.broken(account.count("lost")),
            _ => answer.whole(),
        }
    });
    answered.await.unwrap_or_else(|error| Answer::plain(500, &error.to_string()).whole())
}

struct Asked {
    method: String,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn plain(status: u16, text: &str) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::from(text.to_owned()) }
    }

    fn xml(status: u16, xml: String) -> Self {
        Self { status, headers: vec![("content-type", "text/xml;charset=UTF-8".to_owned())], body: Bytes::from(xml) }
    }

    fn json(status: u16, value: &Value) -> Self {
        let headers = vec![("content-type", quotas::CONTENT_TYPE.to_owned())];
        Self { status, headers, body: Bytes::from(value.to_string()) }
    }

    fn head(&self) -> axum::http::response::Builder {
        let response = Response::builder().status(self.status);
        self.headers.iter().fold(response, |response, (name, value)| response.header(*name, value))
    }

    fn whole(self) -> Response<Body> {
        self.head().body(Body::from(self.body)).unwrap_or_default()
    }

    /// It breaks off: before anything of it has come, or, every other one, in its middle.
    fn broken(self, nth: u64) -> Response<Body> {
        let lost = Err(std::io::Error::new(std::io::ErrorKind::ConnectionReset, "lost"));
        let half = self.body.slice(..self.body.len() / 2);
        let came = if nth.is_multiple_of(2) || half.is_empty() { vec![lost] } else { vec![Ok(half), lost] };
        // What came goes out before the rest is asked for.
        let slowly = futures::stream::iter(came).then(|piece| async {
            tokio::task::yield_now().await;
            piece
        });
        self.head().header("content-length", self.body.len()).body(Body::from_stream(slowly)).unwrap_or_default()
    }
}

/// Who signed the call.
fn caller(account: &Account, asked: &Asked, service: &str, may_leave_body_out: bool) -> Result<Caller, Refusal> {
    let Asked { method, path, query, headers, body } = asked;
    let signed = Signed { method, path, query, headers, body, may_leave_body_out };
    let principals = &account.options.principals;
    let key_of = |id: &str| principals.get(id).map(|principal| principal.key.clone());
    let key_id = signer(signed, key_of, SystemClock.now(), &account.options.region, service)?;
    let principal = principals.get(&key_id).cloned().ok_or(Refusal::UnknownKey)?;
    Ok(Caller { key_id, principal })
}

fn of_ebs(account: &Arc<Account>, asked: &Asked) -> (Answer, Option<Fault>) {
    let path: Vec<&str> = asked.path.split('/').filter(|part| !part.is_empty()).collect();
    let Some((&"snapshots", path)) = path.split_first() else {
        return (Answer::plain(404, "This is EBS direct: it has /snapshots"), None);
    };
    let action = direct::action_of(&asked.method, path).unwrap_or("ebs:Unknown");
    let caller = match caller(account, asked, "ebs", action == "ebs:PutSnapshotBlock") {
        Ok(caller) => caller,
        Err(refusal) => return (ebs_failure(&refused(refusal, false)), None),
    };
    let fault = account.fault_of(action);
    let answered = match fault {
        // Of blocks there is a limit for each snapshot, and one for the account of everything.
        Some(Fault::Throttled) if action.ends_with("SnapshotBlock") => {
            let failure = Failure::new(400, "RequestThrottledException", "Rate exceeded");
            Err(Failure { reason: Some("ACCOUNT_THROTTLED"), ..failure })
        }
        Some(Fault::Throttled) => Err(Failure::new(400, "ThrottlingException", "Rate exceeded")),
        Some(Fault::Failing) => Err(Failure::new(500, "InternalServerException", "An internal error has occurred")),
        Some(Fault::Lost) | None => {
            let Asked { method, query, headers, body, .. } = asked;
            direct::call(account, &caller, &direct::Asked { method, path: path.to_vec(), query, headers, body })
        }
    };
    let error = answered.as_ref().err().map(|failure| failure.code.clone());
    account.note(&caller.key_id, action, error, fault);
    (answered.unwrap_or_else(|failure| ebs_failure(&failure)), fault)
}

fn ebs_failure(failure: &Failure) -> Answer {
    let mut body = json!({"Message": failure.message});
    if let (Some(reason), Some(fields)) = (failure.reason, body.as_object_mut()) {
        fields.insert("Reason".to_owned(), reason.into());
    }
    let headers = vec![("content-type", "application/json".to_owned()), ("x-amzn-errortype", failure.code.clone())];
    Answer { status: failure.status, headers, body: Bytes::from(body.to_string()) }
}

fn of_ec2(account: &Arc<Account>, asked: &Asked) -> (Answer, Option<Fault>) {
    if asked.path != "/" || asked.method != "POST" {
        return (Answer::plain(404, "This is EC2: its query protocol is at /"), None);
    }
    if let Some(target) = asked.headers.get("x-amz-target") {
        return of_quotas(account, asked, target.to_str().unwrap_or_default());
    }
    let request = account.new_id("req");
    let caller = match caller(account, asked, "ec2", false) {
        Ok(caller) => caller,
        Err(refusal) => return (ec2_failure(&refused(refusal, true), &request), None),
    };
    let (mut action, mut fault) = (String::new(), None);
    let answered = Parameters::parse(&asked.body).and_then(|mut parameters| {
        action = parameters.require("Action")?;
        let version = parameters.require("Version")?;
        if version != "2016-11-15" {
            return Err(Failure::new(400, "InvalidParameterValue", format!("The version {version} is not known here")));
        }
        fault = account.fault_of(&format!("ec2:{action}"));
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
    account.note(&caller.key_id, &format!("ec2:{action}"), error, fault);
    let answer = match answered {
        Ok(node) => {
            let mut xml = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
                 <requestId>{request}</requestId>"
            );
            node.write(&mut xml);
            xml.push_str(&format!("</{action}Response>"));
            Answer::xml(200, xml)
        }
        Err(failure) => ec2_failure(&failure, &request),
    };
    (answer, fault)
}

fn ec2_failure(failure: &Failure, request: &str) -> Answer {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{}</Code><Message>{}</Message></Error></Errors>\
         <RequestID>{request}</RequestID></Response>",
        escaped(&failure.code),
        escaped(&failure.message)
    );
    Answer::xml(failure.status, xml)
}

fn of_quotas(account: &Arc<Account>, asked: &Asked, target: &str) -> (Answer, Option<Fault>) {
    let caller = match caller(account, asked, "servicequotas", false) {
        Ok(caller) => caller,
        Err(refusal) => return (quotas_failure(&Failure { status: 400, ..refused(refusal, false) }), None),
    };
    let action = quotas::action_of(target).unwrap_or("servicequotas:Unknown");
    let fault = account.fault_of(action);
    let answered = match fault {
        Some(Fault::Throttled) => Err(Failure::new(400, "TooManyRequestsException", "Rate exceeded")),
        Some(Fault::Failing) => Err(Failure::new(500, "ServiceException", "An internal error has occurred")),
        Some(Fault::Lost) | None => quotas::call(account, &caller, action, &asked.headers, &asked.body),
    };
    let error = answered.as_ref().err().map(|failure| failure.code.clone());
    account.note(&caller.key_id, action, error, fault);
    let answer = match answered {
        Ok(value) => Answer::json(200, &value),
        Err(failure) => quotas_failure(&failure),
    };
    (answer, fault)
}

fn quotas_failure(failure: &Failure) -> Answer {
    Answer::json(failure.status, &json!({"__type": failure.code, "Message": failure.message}))
}

/// What somebody is told whose signature is not accepted: the two services have words of their own.
fn refused(refusal: Refusal, is_ec2: bool) -> Failure {
    let words = |of_ec2: (u16, &str), of_ebs: (u16, &str), message: String| {
        let (status, code) = if is_ec2 { of_ec2 } else { of_ebs };
        Failure::new(status, code, message)
    };
    let (unknown, wrong) = ((403, "UnrecognizedClientException"), (403, "InvalidSignatureException"));
    // EC2 tells nobody what exactly is wrong.
    let denied = (401, "AuthFailure");
    match refusal {
        Refusal::Missing => {
            let unsigned = (403, "MissingAuthenticationTokenException");
            words((400, "MissingAuthenticationToken"), unsigned, "The request is not signed".to_owned())
        }
        Refusal::Malformed(what) => words((400, "AuthFailure"), (400, "IncompleteSignatureException"), what),
        Refusal::UnknownKey => words(denied, unknown, "The access key is not known".to_owned()),
        Refusal::WrongToken => words(denied, unknown, "The security token is not the key's".to_owned()),
        Refusal::Expired => {
            let expired = (403, "ExpiredTokenException");
            words((400, "RequestExpired"), expired, "The security token has expired".to_owned())
        }
        Refusal::Late(when) => words((400, "RequestExpired"), wrong, when),
        Refusal::Early(when) => words(denied, wrong, when),
        Refusal::WrongScope(scope) => words(denied, wrong, scope),
        Refusal::Mismatch(canonical) => {
            let what = format!("The signature is not the one of this request. To be signed was {canonical:?}");
            words(denied, wrong, what)
        }
    }
}
