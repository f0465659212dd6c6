use std::time::Duration;

use farshore_core::Coded as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{
    servers::{HttpServer, acceptor},
    *,
};
use crate::{AlertError, Sender};

fn sender(server: &HttpServer) -> Sender {
    let target = webhook_target(format!("http://{}/hook?to=path-that-is-secret", server.address));
    Sender::webhook(&target, secret(), None).expect("a sender")
}

fn assert_hides_secrets(error: &AlertError) {
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains(SECRET) && !shown.contains("path-that"), "{shown}");
    assert_eq!(error.code().to_string(), "FS6301");
}

#[tokio::test]
async fn an_event_arrives_as_json_with_its_bearer() {
    let server = HttpServer::with_answers(&[(204, "")]).await;
    sender(&server).send("left-host", &event("it is late")).await.expect("taken");
    let heard = server.heard();
    let [heard] = heard.as_slice() else { panic!("{heard:?}") };
    assert_eq!(heard.path, "POST /hook?to=path-that-is-secret");
    assert_eq!(heard.headers["authorization"], format!("Bearer {SECRET}"));
    assert_eq!(heard.headers["content-type"], "application/json");
    assert_eq!(heard.headers["user-agent"], "farshore");
    let expected = json!({
        "version": 1,
        "host": "left-host",
        "event": {
            "at": "2026-09-21T14:13:20.123Z", "name": "objective-missed", "severity": "warning", "group": "orders",
            "text": "it is late", "details": {"age-seconds": 90, "site": "left"},
        },
    });
    assert_eq!(heard.body, expected);
}

#[tokio::test]
async fn a_refusal_is_quoted_shortly_without_control_characters_and_secrets() {
    let body = format!("\u{1b}[2Jno: Bearer {SECRET} {}", "x".repeat(20_000));
    let server = HttpServer::with_answers(&[(503, &body)]).await;
    let error = sender(&server).send("left", &event("late")).await.expect_err("refused");
    assert_hides_secrets(&error);
    let AlertError::Status { status: 503, said, .. } = &error else { panic!("{error}") };
    assert!(said.starts_with("[2Jno: Bearer (hidden) xxx") && said.chars().count() == 200, "{said}");
    assert!(error.to_string().starts_with("the webhook at 127.0.0.1 answered with status 503: [2Jno"), "{error}");
}

#[tokio::test]
async fn a_status_is_final_if_it_would_stay_the_same() {
    let wanted = [(400, true), (401, true), (404, true), (410, true), (302, true)];
    let unwanted = [(408, false), (425, false), (429, false), (500, false), (502, false), (503, false)];
    for (status, is_final) in wanted.into_iter().chain(unwanted) {
        let server = HttpServer::with_answers(&[(status, "")]).await;
        let error = sender(&server).send("left", &event("late")).await.expect_err("refused");
        assert_eq!(error.is_final(), is_final, "{error}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = HttpServer::with_answers(&[(200, "")]).await;
    for status in [301, 302, 307, 308] {
        let server = HttpServer::with_answers(&[(status, &format!("http://{}/", elsewhere.address))]).await;
        let error = sender(&server).send("left", &event("late")).await.expect_err("no success");
        assert!(matches!(error, AlertError::Status { status: found, .. } if found == status), "{error}");
    }
    assert_eq!(elsewhere.heard().len(), 0);
}

#[tokio::test]
async fn nobody_there_is_an_error_that_shows_the_host_only() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let target = webhook_target(format!("http://{address}/path-that-is-secret"));
    let sender = Sender::webhook(&target, secret(), None).expect("a sender");
    let error = sender.send("left", &event("late")).await.expect_err("nobody");
    assert!(matches!(error, AlertError::Unreachable { .. }) && !error.is_final(), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert_hides_secrets(&error);
}

#[tokio::test]
async fn a_slow_server_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = webhook_target(format!("http://{}/", listener.local_addr().expect("an address")));
    let sender = Sender::webhook(&target, secret(), None).expect("a sender").with_limit(Duration::from_millis(200));
    let error = sender.send("left", &event("late")).await.expect_err("no answer");
    assert!(matches!(error, AlertError::TimedOut { .. }) && !error.is_final(), "{error}");
    assert_hides_secrets(&error);
}

#[tokio::test]
async fn a_status_counts_though_what_follows_it_never_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = webhook_target(format!("http://{}/", listener.local_addr().expect("an address")));
    let sender = Sender::webhook(&target, secret(), None).expect("a sender");
    let speaks = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.read_exact(&mut [0; 64]).await.expect("the beginning of a request");
        stream.write_all(b"HTTP/1.1 403 No\r\ncontent-length: 9\r\n\r\nabc").await.expect("written");
        std::future::pending::<()>().await;
    };
    let happened = event("late");
    tokio::select! {
        result = sender.send("left", &happened) => {
            let error = result.expect_err("refused");
            assert!(error.is_final() && error.to_string().ends_with("status 403: abc"), "{error}");
        }
        () = speaks => unreachable!(),
    }
}

#[tokio::test]
async fn only_the_authorities_that_are_named_may_vouch_for_a_server() {
    let (acceptor, certificate) = acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(b"HTTP/1.1 204 None\r\nconnection: close\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
        }
    });
    let target = webhook_target(format!("https://localhost:{port}/"));
    let sender = Sender::webhook(&target, secret(), Some(certificate.into_bytes())).expect("a sender");
    sender.send("left", &event("late")).await.expect("taken");
    let (_, other) = super::servers::acceptor();
    let sender = Sender::webhook(&target, secret(), Some(other.into_bytes())).expect("a sender");
    let error = sender.send("left", &event("late")).await.expect_err("nobody vouches for it");
    assert!(matches!(error, AlertError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}
