use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use farshore_core::Coded as _;
use tokio::net::TcpListener;

use super::{
    servers::{MailServer, Script},
    *,
};
use crate::{AlertError, Sender};

fn target(server: &MailServer) -> MailTarget {
    mail_target(server.address.to_string())
}

fn with_user(server: &MailServer) -> Sender {
    let target = MailTarget { user: Some("farshore".to_owned()), ..target(server) };
    Sender::mail(&target, secret(), None).expect("a sender")
}

fn assert_hides_secrets(error: &AlertError) {
    let shown = format!("{error} {error:?}");
    let encoded = [BASE64.encode(SECRET), BASE64.encode(format!("\0farshore\0{SECRET}"))];
    assert!(!shown.contains(SECRET) && !encoded.iter().any(|secret| shown.contains(secret)), "{shown}");
    assert_eq!(error.code().to_string(), "FS6301");
}

#[tokio::test]
async fn an_event_arrives_as_a_plain_mail() {
    let server = MailServer::plain(&[]).await;
    let sender = Sender::mail(&target(&server), None, None).expect("a sender");
    let mut happened = event("\u{1b}[2Jit is late\r\nBcc: all@example.org\nreally");
    happened.details.insert("a\nb".to_owned(), "c\r\n.\r\nd".into());
    sender.send("left\r\nhost", &happened).await.expect("taken");
    let lines = server.lines();
    let expected = [
        "MAIL FROM:<farshore@example.org>",
        "RCPT TO:<ops@example.org>",
        "RCPT TO:<boss@example.org>",
        "DATA",
        "From: Farshore <farshore@example.org>",
        "To: ops@example.org, Boss <boss@example.org>",
        "Subject: [farshore] lefthost: [2Jit is late",
        "Date: Mon, 21 Sep 2026 14:13:20 +0000",
        "Auto-Submitted: auto-generated",
        "Content-Type: text/plain; charset=utf-8",
        "[2Jit is late",
        "really",
        "host: lefthost",
        "time: 2026-09-21T14:13:20.123Z",
        "event: objective-missed",
        "severity: warning",
        "group: orders",
        "age-seconds: 90",
        "site: left",
        "ab: c.d",
        ".",
        "QUIT",
    ];
    for line in expected {
        assert!(lines.iter().any(|found| found == line), "{line} is not in {lines:#?}");
    }
    let blank = lines.iter().position(String::is_empty).expect("an end of the headers");
    assert!(!lines[..blank].iter().any(|line| line.starts_with("Bcc")), "a header came out of a text: {lines:#?}");
    assert_eq!(lines.iter().filter(|line| *line == ".").count(), 1);
}

#[tokio::test]
async fn long_and_foreign_texts_and_impossible_dates_arrive() {
    let server = MailServer::plain(&[]).await;
    let sender = Sender::mail(&target(&server), None, None).expect("a sender");
    for milliseconds in [i64::MIN, -1, i64::MAX] {
        let mut happened = event(&"é".repeat(3_000));
        happened.at = Timestamp::from_unix_milliseconds(milliseconds);
        sender.send("left", &happened).await.expect("taken");
    }
    for line in server.lines() {
        assert!(line.len() <= 998 && line.is_ascii(), "{line}");
    }
}

#[tokio::test]
async fn a_user_gives_the_password_to_the_server_and_to_nobody_else() {
    let server = MailServer::plain(&[]).await;
    with_user(&server).send("left", &event("late")).await.expect("taken");
    let told = format!("AUTH PLAIN {}", BASE64.encode(format!("\0farshore\0{SECRET}")));
    assert!(server.lines().contains(&told));

    // Servers are known to repeat the line that they do not like.
    let server = MailServer::plain(&[("AUTH", "535 5.7.8 not you: {said}")]).await;
    let error = with_user(&server).send("left", &event("late")).await.expect_err("refused");
    assert_hides_secrets(&error);
    assert!(error.is_final());
    assert_eq!(
        error.to_string(),
        format!("the mail server {} refused the mail with 535: 5.7.8 not you: AUTH PLAIN (hidden)", server.address)
    );
}

#[tokio::test]
async fn a_refusal_is_final_if_the_server_says_so() {
    let cases: [(Script, u16, bool); 4] = [
        (&[("MAIL", "451 later")], 451, false),
        (&[("MAIL", "550 never\u{7}")], 550, true),
        (&[("RCPT TO:<boss", "550-no\r\n550 such boss")], 550, true),
        (&[("DATA", "452 full")], 452, false),
    ];
    for (script, expected, is_final) in cases {
        let server = MailServer::plain(script).await;
        let error = with_user(&server).send("left", &event("late")).await.expect_err("refused");
        assert!(matches!(error, AlertError::MailRefused { status, .. } if status == expected), "{error}");
        assert_eq!(error.is_final(), is_final, "{error}");
        assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
        assert_hides_secrets(&error);
    }
}

#[tokio::test]
async fn nothing_is_said_before_tls_and_only_to_a_server_that_is_vouched_for() {
    let server = MailServer::secured().await;
    let target = MailTarget {
        server: format!("localhost:{}", server.address.port()),
        security: MailSecurity::Tls,
        user: Some("farshore".to_owned()),
        ..target(&server)
    };
    let sender = Sender::mail(&target, secret(), Some(server.certificate.clone().into_bytes())).expect("a sender");
    sender.send("left", &event("late")).await.expect("taken");
    let lines = server.lines().len();
    let (_, other) = super::servers::acceptor();
    let sender = Sender::mail(&target, secret(), Some(other.into_bytes())).expect("a sender");
    let error = sender.send("left", &event("late")).await.expect_err("nobody vouches for it");
    assert!(matches!(error, AlertError::Unreachable { .. }), "{error}");
    assert_hides_secrets(&error);
    assert_eq!(server.lines().len(), lines);
}

#[tokio::test]
async fn starttls_comes_before_password_and_mail_or_neither_is_told() {
    let server = MailServer::plain(&[("EHLO", "250-here\r\n250-AUTH PLAIN\r\n250 STARTTLS")]).await;
    let target = |server: &MailServer| MailTarget {
        server: format!("localhost:{}", server.address.port()),
        security: MailSecurity::StartTls,
        user: Some("farshore".to_owned()),
        ..target(server)
    };
    let pem = server.certificate.clone().into_bytes();
    let sender = Sender::mail(&target(&server), secret(), Some(pem)).expect("a sender");
    sender.send("left", &event("late")).await.expect("taken");
    let lines = server.lines();
    let clear = lines.iter().position(|line| line == "(TLS)").expect("TLS");
    assert!(lines[..clear].iter().all(|line| line.starts_with("EHLO") || line == "STARTTLS"), "{lines:?}");
    assert!(lines[clear..].iter().any(|line| line.starts_with("AUTH PLAIN")), "{lines:?}");

    let server = MailServer::plain(&[]).await;
    let sender = Sender::mail(&target(&server), secret(), None).expect("a sender");
    let error = sender.send("left", &event("late")).await.expect_err("no TLS");
    assert!(matches!(error, AlertError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("STARTTLS"), "{error}");
    assert!(server.lines().iter().all(|line| line.starts_with("EHLO") || line == "QUIT"), "{:?}", server.lines());
}

#[tokio::test]
async fn a_mail_server_that_is_slow_or_absent_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = mail_target(listener.local_addr().expect("an address").to_string());
    let sender = Sender::mail(&target, None, None).expect("a sender").with_limit(Duration::from_millis(200));
    let error = sender.send("left", &event("late")).await.expect_err("no greeting");
    assert!(matches!(error, AlertError::TimedOut { .. }) && !error.is_final(), "{error}");
    drop(listener);
    let error = sender.send("left", &event("late")).await.expect_err("nobody");
    assert!(matches!(error, AlertError::Unreachable { .. }) && !error.is_final(), "{error}");
}
