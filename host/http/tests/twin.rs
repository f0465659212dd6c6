//! What is signed here is accepted by a server that checks signatures, and what it throttles comes through.

use std::{path::Path, sync::Arc, time::Duration};

use farshore_core::{SeededEntropy, SystemClock};
use farshore_http::{Endpoint, EndpointGrant, EndpointOptions, KeyError, KeySource, Method, Request, SigV4, SigV4Keys};
use farshore_twin_ebs::{Fault, Key, Options, Policy, Principal, Twin};

/// The names and secrets of the keys that the twin knows.
const KEYS: [(&str, &str, Option<&str>); 2] =
    [("TWIN", "twin-secret/+=", None), ("TEMPORARY", "temporary-secret", Some("a+token/=="))];

fn twin(folder: &Path) -> Twin {
    let principal = |(id, secret, token): (&str, &str, Option<&str>)| {
        let key = Key { secret: secret.to_owned(), token: token.map(str::to_owned), expires_at: None };
        (id.to_owned(), Principal { key, policy: Policy::everything() })
    };
    let options = Options { principals: KEYS.map(principal).into(), ..Options::new(folder) };
    Twin::start(options, [0, 0]).expect("it serves")
}

struct Fixed(usize);

impl KeySource for Fixed {
    fn keys(&self) -> Result<SigV4Keys, KeyError> {
        let (id, secret, token) = KEYS[self.0];
        let text = |text: &str| text.to_owned().into();
        Ok(SigV4Keys { access_key_id: text(id), secret_access_key: text(secret), session_token: token.map(text) })
    }
}

fn endpoint(url: &str, service: &str, keys: usize) -> Endpoint {
    let grant: EndpointGrant =
        toml::from_str(&format!("address = '{url}'\nallow-http = true\ncredential = 'keys'")).expect("a grant");
    let (region, service) = ("eu-west-1".to_owned(), service.to_owned());
    let options = EndpointOptions {
        name: service.parse().expect("a name"),
        grant,
        certificates: None,
        signing: Some(SigV4 { region, service, keys: Arc::new(Fixed(keys)) }),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SeededEntropy::new(1)),
    };
    Endpoint::new(options).expect("an endpoint")
}

fn describe(words: &str) -> Request {
    Request {
        method: Method::Post,
        headers: vec![("content-type".to_owned(), "application/x-www-form-urlencoded".to_owned())],
        body: format!("Action=DescribeSnapshots&Version=2016-11-15&{words}").into(),
        ..Request::get("/", Duration::from_secs(20))
    }
}

#[tokio::test]
async fn a_signature_is_accepted_and_another_service_or_body_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let twin = twin(folder.path());
    for keys in [0, 1] {
        let response = endpoint(&twin.ec2_url(), "ec2", keys).send(&describe("Owner.1=self")).await.expect("an answer");
        assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
        // Signs in a path and a query that are easily encoded twice, or not at all.
        let target = "/snapshots/snap%2Fa%20b/blocks?maxResults=100&pageToken=a%2Bb%2F%3D%3D&startingBlockIndex=0";
        let response = endpoint(&twin.ebs_url(), "ebs", keys)
            .send(&Request::get(target, Duration::from_secs(5)))
            .await
            .expect("an answer");
        let told = String::from_utf8_lossy(&response.body).into_owned();
        assert!(matches!(response.status, 400 | 404) && !told.contains("Signature"), "{} {told}", response.status);
    }
    let response = endpoint(&twin.ec2_url(), "ebs", 0).send(&describe("a=b")).await.expect("an answer");
    assert!(matches!(response.status, 401 | 403), "signed for another service: {}", response.status);
    let wrong = Request { body_sha256: Some([7; 32]), ..describe("a=b") };
    let response = endpoint(&twin.ec2_url(), "ec2", 0).send(&wrong).await.expect("an answer");
    assert!(matches!(response.status, 401 | 403), "signed for another body: {}", response.status);
}

#[tokio::test]
async fn a_storm_is_waited_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let twin = twin(folder.path());
    for fault in [Fault::Throttled, Fault::Failing, Fault::Lost, Fault::Throttled] {
        twin.fail_next("ec2:DescribeSnapshots", fault);
    }
    let response = endpoint(&twin.ec2_url(), "ec2", 0).send(&describe("Owner.1=self")).await.expect("an answer");
    assert_eq!(response.status, 200);
    assert_eq!(twin.calls().len(), 5);
}
