use farshore_core::Coded as _;

use super::*;
use crate::{AlertError, AlertRule, CODES, Sender};

fn rule(text: &str) -> AlertRule {
    toml::from_str(text).expect(text)
}

const MAIL: &str = "mail = { server = 'mail.example.org', from = 'a@example.org', to = ['b@example.org'] }";

#[test]
fn a_rule_is_read_from_toml_with_its_defaults() {
    let short = rule("webhook.address = 'https://hooks.example.org/a'");
    assert_eq!(short.severity, Severity::Warning);
    assert_eq!((short.groups.len(), &short.mail), (0, &None));
    let mail = rule(MAIL).mail.expect("a target");
    assert_eq!(mail.security, MailSecurity::Tls);
    let long = rule(
        "severity = 'error'
         groups = ['orders']
         [mail]
         server = 'mail.example.org:2525'
         security = 'start-tls'
         from = 'Farshore <a@example.org>'
         to = ['b@example.org', 'C <c@example.org>']
         user = 'farshore'
         certificates = '/etc/farshore/mail.pem'",
    );
    assert_eq!(long.problems(), []);
    assert_eq!(long.mail.as_ref().expect("a target").security, MailSecurity::StartTls);
    assert_eq!(rule(&toml::to_string(&long).expect("TOML")), long);
    for text in ["password = 'a'", "webhook = { address = 'https://a', bearer = 'b' }", "severity = 'fatal'"] {
        toml::from_str::<AlertRule>(text).expect_err(text);
    }
}

#[test]
fn a_rule_wants_what_is_severe_enough_and_about_its_groups() {
    let mut happened = event("late");
    let all = rule(MAIL);
    let few = rule(&format!("groups = ['orders', 'mail']\n{MAIL}"));
    let other = rule(&format!("groups = ['mail']\n{MAIL}"));
    assert!(all.wants(&happened) && few.wants(&happened) && !other.wants(&happened));
    happened.severity = Severity::Info;
    assert!(!all.wants(&happened) && rule(&format!("severity = 'info'\n{MAIL}")).wants(&happened));
    happened.severity = Severity::Error;
    assert!(all.wants(&happened));
    happened.group = None;
    assert!(all.wants(&happened) && !few.wants(&happened));
}

#[test]
fn each_problem_of_a_rule_is_found_at_its_key() {
    let mail = |rest: &str| format!("[mail]\nserver = 'mail.example.org'\nfrom = 'a@b.org'\nto = ['c@d.org']\n{rest}");
    let with = |from: &str, to: &str| mail("").replace(from, to);
    let wrong = [
        ("webhook", String::new()),
        ("mail", format!("webhook.address = 'https://a'\n{MAIL}")),
        ("webhook.address", "webhook.address = 'hooks.example.org'".to_owned()),
        ("webhook.address", "webhook.address = 'http://hooks.example.org'".to_owned()),
        ("webhook.address", "webhook.address = 'http://127.0.0.1.example.org'".to_owned()),
        ("webhook.address", "webhook.address = 'http://10.0.0.1'".to_owned()),
        ("webhook.address", "webhook.address = 'ftp://hooks.example.org'".to_owned()),
        ("webhook.address", "webhook.address = 'https://me:word@hooks.example.org'".to_owned()),
        ("webhook.certificates", "webhook = { address = 'http://127.0.0.1', certificates = 'a' }".to_owned()),
        ("mail.server", with("'mail.example.org'", "''")),
        ("mail.server", with("'mail.example.org'", "'a:b'")),
        ("mail.server", with("'mail.example.org'", "'smtps://a'")),
        ("mail.server", with("'mail.example.org'", "'me@a'")),
        ("mail.server", with("'mail.example.org'", "'a/b'")),
        ("mail.server", with("'mail.example.org'", "'a b'")),
        ("mail.security", mail("security = 'none'")),
        ("mail.certificates", with("mail.example.org", "localhost") + "security = 'none'\ncertificates = 'a'"),
        ("mail.from", with("a@b.org", "a")),
        ("mail.from", with("'a@b.org'", "\"a\\n@b.org\"")),
        ("mail.to", with("['c@d.org']", "[]")),
        ("mail.to", with("c@d.org", "c@d.org, e@f.org")),
        ("mail.to", with("c@d.org", "c at d.org")),
        ("mail.to", with("['c@d.org']", &format!("{:?}", vec!["c@d.org"; 33]))),
        ("mail.user", mail("user = ''")),
    ];
    for (key, text) in wrong {
        let problems = rule(&text).problems();
        assert_eq!(problems.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [key], "{text}: {problems:?}");
    }
    let fine = [
        "webhook.address = 'http://localhost:80/a?b'",
        "webhook.address = 'http://[::1]:80'",
        "webhook.address = 'http://127.3.4.5'",
        "webhook = { address = 'https://hooks.example.org', certificates = 'a' }",
        &(with("mail.example.org", "127.0.0.1:25") + "security = 'none'"),
        &(with("mail.example.org", "[::1]") + "security = 'none'"),
        &with("a@b.org", "\"Doe, J\" <a@b.org>"),
    ];
    for text in fine {
        assert_eq!(rule(text).problems(), [], "{text}");
    }
}

#[test]
fn a_server_has_the_port_of_its_security_if_none_is_written() {
    let of = |server: &str, security| MailTarget { security, ..mail_target(server) }.server().expect(server);
    assert_eq!(of("a.example.org", MailSecurity::Tls), ("a.example.org".to_owned(), 465));
    assert_eq!(of("a.example.org", MailSecurity::StartTls), ("a.example.org".to_owned(), 587));
    assert_eq!(of("localhost", MailSecurity::None), ("localhost".to_owned(), 25));
    assert_eq!(of("a.example.org:26", MailSecurity::Tls), ("a.example.org".to_owned(), 26));
    assert_eq!(of("[::1]:26", MailSecurity::None), ("::1".to_owned(), 26));
}

#[test]
fn a_sender_is_not_made_of_what_contradicts_itself_and_no_secret_is_shown() {
    let mail = |user: Option<&str>| MailTarget { user: user.map(str::to_owned), ..mail_target("127.0.0.1") };
    let secured = MailTarget { security: MailSecurity::Tls, ..mail(None) };
    let https = webhook_target("https://hooks.example.org/services/T0/path-that-is-secret");
    let named = WebhookTarget { certificates: Some("a.pem".into()), ..https.clone() };
    let wrong = [
        Sender::webhook(&webhook_target("http://hooks.example.org/path-that-is-secret"), secret(), None),
        Sender::webhook(&https, Some(Passphrase::new(format!("{SECRET}\n"))), None),
        Sender::webhook(&https, Some(Passphrase::new("")), None),
        Sender::webhook(&https, secret(), Some(b"no certificate".to_vec())),
        Sender::webhook(&named, secret(), None),
        Sender::mail(&mail(Some("me")), None, None),
        Sender::mail(&mail(None), secret(), None),
        Sender::mail(&secured, None, Some(b"no certificate".to_vec())),
        Sender::mail(&MailTarget { certificates: Some("a.pem".into()), ..secured.clone() }, None, None),
    ];
    for (case, result) in wrong.into_iter().enumerate() {
        let error = result.expect_err("a contradiction");
        assert!(matches!(error, AlertError::Unusable { .. }) && error.is_final(), "{case}: {error}");
        assert_eq!(error.code().to_string(), "FS6300");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(SECRET) && !shown.contains("path-that"), "{shown}");
    }
    let sender = Sender::webhook(&https, secret(), None).expect("a sender");
    assert_eq!(sender.name(), "the webhook at hooks.example.org");
    assert_eq!(format!("{sender:?}"), "Sender(the webhook at hooks.example.org)");
    let sender = Sender::mail(&mail(Some("me")), secret(), None).expect("a sender");
    assert_eq!(format!("{sender:?}"), "Sender(the mail server 127.0.0.1)");
}

#[test]
fn each_code_has_a_page() {
    for page in CODES {
        assert!(
            page.page.starts_with("## What happened\n") && page.page.contains("\n## What to do\n"),
            "{}",
            page.code
        );
    }
}
