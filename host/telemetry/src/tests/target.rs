use farshore_core::Coded as _;

use super::*;
use crate::CODES;

fn read(text: &str) -> TelemetryTarget {
    toml::from_str(text).expect(text)
}

#[test]
fn a_target_is_read_from_toml_with_its_defaults() {
    let short = read("endpoint = 'https://otel.example.org:4318'");
    assert_eq!((short.timeout, short.certificates.as_ref(), short.resource.len()), (Duration::from_secs(10), None, 0));
    let long = read(
        "endpoint = 'https://otel.example.org/otlp'
         timeout = '2s500ms'
         certificates = '/etc/farshore/otel.pem'
         resource.'deployment.environment.name' = 'production'",
    );
    assert_eq!(long.problems(), []);
    assert_eq!(long.timeout, Duration::from_millis(2_500));
    assert_eq!(read(&toml::to_string(&long).expect("TOML")), long);
    for text in ["headers.authorization = 'a'", "timeout = '-1s'", "timeout = 10", "timeout = 'soon'"] {
        toml::from_str::<TelemetryTarget>(&format!("endpoint = 'https://a'\n{text}")).expect_err(text);
    }
}

#[test]
fn spans_are_posted_below_the_address_unless_it_is_the_place_itself() {
    let wanted = [
        ("https://a:4318", "https://a:4318/v1/traces"),
        ("https://a:4318/", "https://a:4318/v1/traces"),
        ("https://a/otlp", "https://a/otlp/v1/traces"),
        ("https://a/otlp/", "https://a/otlp/v1/traces"),
        ("https://a/otlp/v1/traces", "https://a/otlp/v1/traces"),
        ("https://a/v1/traces/?b=c#d", "https://a/v1/traces?b=c"),
        ("http://localhost:4318", "http://localhost:4318/v1/traces"),
        ("http://127.0.0.9:4318", "http://127.0.0.9:4318/v1/traces"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
    ];
    for (endpoint, url) in wanted {
        assert_eq!(target(endpoint).url().expect(endpoint).as_str(), url);
    }
}

#[test]
fn each_problem_of_a_target_is_found_at_its_key() {
    let wrong = [
        ("endpoint", "endpoint = 'otel.example.org'"),
        ("endpoint", "endpoint = 'http://otel.example.org:4318'"),
        ("endpoint", "endpoint = 'http://localhost.example.org'"),
        ("endpoint", "endpoint = 'grpc://otel.example.org:4317'"),
        ("endpoint", "endpoint = 'https://a:b@otel.example.org'"),
        ("timeout", "endpoint = 'https://a'\ntimeout = '0s'"),
        ("timeout", "endpoint = 'https://a'\ntimeout = '2m'"),
        ("certificates", "endpoint = 'http://localhost'\ncertificates = 'a.pem'"),
        ("resource", "endpoint = 'https://a'\nresource.'' = 'b'"),
    ];
    for (key, text) in wrong {
        let target = read(text);
        let keys: Vec<&str> = target.problems().iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, [key], "{text}");
        let error = Collector::new(&target, &service(), headers(), Some(b"")).expect_err(text);
        assert!(error.to_string().contains(&format!("cannot be used: `{key}`: ")), "{error}");
        assert_eq!(error.code().to_string(), "FS6500");
    }
}

#[test]
fn headers_that_cannot_be_sent_are_refused_and_not_shown() {
    let wrong = [
        ("content-type", "text/plain", "the header `content-type` is written by the exporter itself"),
        ("Host", "a", "the header `host` is written by the exporter itself"),
        ("x token", "a", "\"x token\" is no name of a header"),
        ("", "a", "\"\" is no name of a header"),
        ("x-token", " ", "the value of the header `x-token` is empty"),
        ("x-token", "s3cret-Of-The\nOperator", "the value of the header `x-token` is empty or has a character"),
    ];
    for (name, value, why) in wrong {
        let headers = BTreeMap::from([(name.to_owned(), Passphrase::new(value))]);
        let error = Collector::new(&target("https://a"), &service(), headers, None).expect_err(name);
        assert!(error.to_string().starts_with(&format!("the collector at a cannot be used: {why}")), "{error}");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }
}

#[test]
fn certificates_that_were_not_read_or_are_none_are_no_reason_to_trust_others() {
    let target = TelemetryTarget { certificates: Some("a.pem".into()), ..target("https://a") };
    for (pem, why) in [(None, "was not read"), (Some(&b"no"[..]), "there is none in the file")] {
        let error = Collector::new(&target, &service(), headers(), pem).expect_err(why);
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn every_code_has_a_page() {
    assert_eq!(CODES.iter().map(|page| page.code.to_string()).collect::<Vec<_>>(), ["FS6500", "FS6501", "FS6502"]);
    assert!(CODES.iter().all(|page| page.page.contains("## What to do")));
}
