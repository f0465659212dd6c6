//! What must stay secret is nowhere to be seen: not in any bytes that were ever sent to the store, not in a key's name, not
//! in an error's text. The canary stands for the plaintext of disks.

use aho_corasick::AhoCorasick;

use super::{Report, Violation};
use crate::{content::CANARY, evidence::Evidence, history::History, template::Secret};

/// See the module.
///
/// # Panics
/// When there are too many secrets to search for.
pub fn check(history: &History, evidence: &Evidence, secrets: &[Secret]) -> Vec<Violation> {
    let mut report = Report::of("secrecy");
    let needles = || std::iter::once(CANARY).chain(secrets.iter().map(|secret| secret.bytes.as_slice()));
    let search = AhoCorasick::new(needles()).expect("a few secrets can be searched for");
    let mut look = |place: String, bytes: &[u8]| {
        if let Some(hit) = search.find(bytes) {
            let what = match hit.pattern().as_usize().checked_sub(1) {
                None => "the plaintext of a chunk",
                Some(index) => &secrets[index].what,
            };
            report.add(format!("{what} stands {place}"));
        }
    };
    for (key, bytes) in &evidence.sent {
        look(format!("in the bytes of {key}"), bytes);
        look("in the name of a key".to_owned(), key.as_bytes());
    }
    for key in evidence.objects.keys() {
        look("in the name of a key".to_owned(), key.as_bytes());
    }
    for text in history.errors.keys() {
        look(format!("in an error: {text}"), text.as_bytes());
    }
    report.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sound;

    fn broken(change: impl FnOnce(&mut History, &mut Evidence)) -> String {
        let (mut history, mut evidence) = sound::world();
        change(&mut history, &mut evidence);
        let found = check(&history, &evidence, &sound::secrets());
        assert!(!found.is_empty(), "it must be found");
        found.iter().map(Violation::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn it_fails_when_a_secret_is_sent_or_told() {
        let secret = "open sesame, please";
        let found = broken(|_, evidence| evidence.sent.push(("v/y".to_owned(), format!("..{secret}").into())));
        assert!(found.contains("the passphrase stands in the bytes of v/y"), "{found}");
        let found = broken(|_, evidence| {
            evidence.objects.insert(format!("v/{secret}"), [0; 32]);
        });
        assert!(found.contains("in the name of a key"), "{found}");
        let found = broken(|history, _| history.note_error(format!("cannot open with {secret}")));
        assert!(found.contains("in an error"), "{found}");
    }

    #[test]
    fn it_fails_when_a_chunk_lies_open() {
        let found = broken(|_, evidence| {
            let mut bytes = vec![0; 1000];
            bytes.extend_from_slice(CANARY);
            evidence.sent.push(("v/y".to_owned(), bytes.into()));
        });
        assert!(found.contains("the plaintext of a chunk stands in the bytes of v/y"), "{found}");
    }
}
