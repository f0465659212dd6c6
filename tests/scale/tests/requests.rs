//! What a cycle asks of the store: a fast group makes a million of them in a month, and each request is paid for.

use std::time::Duration;

use farshore_scale::requests::{self, Prices, Settings};

#[test]
fn an_idle_cycle_puts_its_commit_and_asks_four_questions() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let settings = Settings { cycles: 12, written: 3 };
    let measured = runtime.block_on(requests::measure(settings)).expect("measured");
    let verbs = |log: &[String]| {
        let verb = |line: &String| line.split(' ').next().unwrap_or_default().to_owned();
        log.iter().map(verb).collect::<Vec<_>>().join(" ")
    };
    // Is there a next commit? What does the newest say? Is there a newer boundary, or ring? Then the commit; and whether a boundary
    // came meanwhile.
    assert_eq!(verbs(&measured.idle.log), "HEAD GET HEAD HEAD PUT HEAD", "{:#?}", measured.idle.log);
    // A data pack, a map pack and a commit besides; the maps above what changed are known from the cycle before.
    assert_eq!(verbs(&measured.changing.log), "HEAD GET HEAD HEAD PUT PUT PUT HEAD", "{:#?}", measured.changing.log);
    let table = requests::table(settings, &measured, Prices { puts: 5.0, gets: 0.0 }, &[Duration::from_secs(3)]);
    assert!(table.contains("| 3 s | 864000 |"), "{table}");
}
