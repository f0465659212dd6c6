use farshore_core::Coded as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{
    servers::{Answer, Server, acceptor, nobody},
    *,
};

async fn send(collector: &Collector) -> Result<(), TelemetryError> {
    in_time(collector.send(collector.body(Vec::new()), &*TestClock::standing())).await
}

async fn refused(answer: Answer) -> TelemetryError {
    let server = Server::with_answers([answer]).await;
    let error = send(&collector(server.endpoint())).await.expect_err("refused");
    assert_hides_secrets(&error);
    error
}

fn assert_hides_secrets(error: &TelemetryError) {
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains(SECRET) && !shown.contains("path-that"), "{shown}");
}

#[tokio::test]
async fn headers_go_with_each_request_and_are_not_shown() {
    let server = Server::with_answers([Answer::taken()]).await;
    let collector = collector(format!("{}/path-that-is-secret", server.endpoint()));
    assert_eq!(format!("{collector:?}"), "Collector(the collector at 127.0.0.1)");
    send(&collector).await.expect("taken");
    let heard = server.heard();
    let [heard] = heard.as_slice() else { panic!("{heard:?}") };
    assert_eq!(heard.path, "POST /path-that-is-secret/v1/traces");
    assert_eq!(heard.headers["authorization"], format!("Bearer {SECRET}"));
    assert_eq!(heard.headers["content-type"], "application/x-protobuf");
    assert_eq!(heard.headers["user-agent"], "farshore");
}

#[tokio::test]
async fn a_refusal_is_quoted_shortly_without_control_characters_and_secrets() {
    let text = format!("\u{1b}[2Jno: Bearer {SECRET}, token={SECRET} {}", "x".repeat(20_000));
    let error = refused(Answer::new(401, &text)).await;
    let TelemetryError::Status { status: 401, said, .. } = &error else { panic!("{error}") };
    assert!(said.starts_with("[2Jno: (hidden), token=(hidden) xxx") && said.chars().count() == 200, "{said}");
    assert_eq!(error.code().to_string(), "FS6502");
}

#[tokio::test]
async fn a_refusal_in_protobuf_is_read() {
    /// `google.rpc.Status`
    #[derive(Clone, PartialEq, prost::Message)]
    struct Status {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(string, tag = "2")]
        message: String,
        #[prost(bytes = "vec", repeated, tag = "3")]
        details: Vec<Vec<u8>>,
    }
    let status = Status { code: 3, message: format!("no {SECRET}"), details: vec![b"more".to_vec()] };
    let error = refused(Answer::protobuf(400, &status)).await;
    assert_eq!(error.to_string(), "the collector at 127.0.0.1 answered with status 400: no (hidden)");
}

#[tokio::test]
async fn only_what_the_protocol_says_is_tried_again() {
    for status in [429, 502, 503, 504] {
        let error = refused(Answer::new(status, "")).await;
        assert!(!error.is_final() && error.code().to_string() == "FS6501", "{error}");
    }
    for status in [302, 400, 401, 403, 404, 408, 413, 500, 501] {
        let error = refused(Answer::new(status, "")).await;
        assert!(error.is_final() && error.code().to_string() == "FS6502", "{error}");
    }
}

#[tokio::test]
async fn how_long_it_wants_to_be_left_alone_is_understood() {
    let wanted = [("7", Some(7)), ("Mon, 21 Sep 2026 14:13:30 GMT", Some(10)), ("soon", None), ("-1", None)];
    for (text, seconds) in wanted {
        let error = refused(Answer::new(503, "").with("retry-after", text)).await;
        let TelemetryError::Status { retry_after, .. } = error else { panic!("{error}") };
        assert_eq!(retry_after, seconds.map(Duration::from_secs), "{text}");
    }
    let error = refused(Answer::new(503, "").with("retry-after", "Mon, 21 Sep 2020 14:13:30 GMT")).await;
    assert!(matches!(error, TelemetryError::Status { retry_after: Some(Duration::ZERO), .. }), "{error}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::with_answers([Answer::taken()]).await;
    for status in [301, 302, 303, 307, 308] {
        let error =
            refused(Answer::new(status, "").with("location", format!("{}/v1/traces", elsewhere.endpoint()))).await;
        assert!(matches!(error, TelemetryError::Status { status: found, .. } if found == status), "{error}");
    }
    assert_eq!(elsewhere.heard().len(), 0);
}

#[tokio::test]
async fn a_part_that_is_refused_is_told_and_an_answer_that_cannot_be_read_is_none() {
    let error = refused(Answer::partly(3, &format!("too old, {SECRET}"))).await;
    let text = "the collector at 127.0.0.1 took the request, but rejected 3 spans of it: too old, (hidden)";
    assert_eq!((error.to_string().as_str(), error.is_final()), (text, true));
    let error = refused(Answer::partly(0, "old words")).await;
    assert!(matches!(error, TelemetryError::Partly { rejected_spans: 0, .. }), "{error}");
    let garbage = Answer::new(200, "\u{ff}\u{ff}").with("content-type", "application/x-protobuf");
    for answer in [Answer::partly(0, ""), garbage, Answer::new(202, "fine"), Answer::new(204, "")] {
        let server = Server::with_answers([answer]).await;
        send(&collector(server.endpoint())).await.expect("taken");
    }
}

#[tokio::test]
async fn nobody_there_is_an_error_that_shows_the_host_only() {
    let (_closed, endpoint) = nobody();
    let error = send(&collector(format!("{endpoint}/path-that-is-secret"))).await.expect_err("nobody");
    assert!(matches!(error, TelemetryError::Unreachable { .. }) && !error.is_final(), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert_hides_secrets(&error);
}

#[tokio::test]
async fn a_slow_collector_is_given_up_when_its_time_is_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let collector = collector(format!("http://{}", listener.local_addr().expect("an address")));
    let clock = TestClock::standing();
    let passes = async {
        let held = listener.accept().await.expect("a connection");
        clock.advance(TIMEOUT - Duration::from_millis(1));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        clock.advance(Duration::from_millis(1));
        held
    };
    let sends = async { (collector.send(collector.body(Vec::new()), &*clock).await, clock.monotonic()) };
    let ((result, ended), _held) = in_time(async { tokio::join!(sends, passes) }).await;
    let error = result.expect_err("no answer");
    assert!(matches!(error, TelemetryError::TimedOut { limit: TIMEOUT, .. }) && !error.is_final(), "{error}");
    assert_eq!(ended, TIMEOUT);
    assert_hides_secrets(&error);
}

#[tokio::test]
async fn a_status_counts_though_what_follows_it_never_ends() {
    for (head, is_taken) in [("200 OK", true), ("403 No", false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let collector = collector(format!("http://{}", listener.local_addr().expect("an address")));
        let clock = TestClock::standing();
        let speaks = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.read_exact(&mut [0; 64]).await.expect("the beginning of a request");
            let answer = format!("HTTP/1.1 {head}\r\ncontent-length: 9\r\n\r\nabc");
            stream.write_all(answer.as_bytes()).await.expect("written");
            until(|| clock.sleeps().contains(&Duration::from_secs(1))).await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            clock.advance(Duration::from_secs(1));
            stream
        };
        let sends = collector.send(collector.body(Vec::new()), &*clock);
        let (result, _stream) = in_time(async { tokio::join!(sends, speaks) }).await;
        assert_eq!(result.is_ok(), is_taken);
        assert!(result.err().is_none_or(|error| error.to_string().ends_with("status 403: abc")));
    }
}

#[tokio::test]
async fn only_the_authorities_that_are_named_may_vouch_for_a_collector() {
    let (acceptor, certificate) = acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
        }
    });
    let target = target(format!("https://localhost:{port}"));
    let trusting = |pem: &str| Collector::new(&target, &service(), headers(), Some(pem.as_bytes())).expect("one");
    send(&trusting(&certificate)).await.expect("taken");
    let (_, other) = super::servers::acceptor();
    let error = send(&trusting(&other)).await.expect_err("nobody vouches for it");
    assert!(matches!(error, TelemetryError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}
