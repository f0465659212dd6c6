//! The error codes of all crates, and their pages.

use farshore_core::{Code, CodePage};

/// Each crate's table, with the range of numbers that is its own.
pub fn tables() -> [(&'static str, std::ops::RangeInclusive<u16>, &'static [CodePage]); 12] {
    [
        ("vault", 1000..=1999, farshore_vault::CODES),
        ("component host", 2000..=2499, farshore_plugin::CODES),
        ("HTTP APIs", 2500..=2999, farshore_http::CODES),
        ("platform and transports", 3000..=3999, farshore_platform::CODES),
        ("replication", 4000..=4999, farshore_replication::CODES),
        ("failover", 5000..=5999, farshore_failover::CODES),
        ("command line and configuration", 6000..=6199, crate::error::CODES),
        ("state file", 6200..=6299, farshore_state::CODES),
        ("spool", 6400..=6499, farshore_spool::CODES),
        ("telemetry", 6500..=6599, farshore_telemetry::CODES),
        ("alerts", 6300..=6399, farshore_alerts::CODES),
        ("demonstration", 6900..=6999, farshore_demo::CODES),
    ]
}

/// The page of a code.
pub fn page(code: Code) -> Option<&'static CodePage> {
    tables().into_iter().flat_map(|(_, _, pages)| pages).find(|page| page.code == code)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_is_unique_and_in_its_crates_range() {
        let mut seen = BTreeSet::new();
        for (area, range, pages) in tables() {
            assert!(!pages.is_empty(), "{area} has codes");
            for page in pages {
                let code = page.code.to_string();
                let in_range = range.clone().any(|number| Code::new(number) == page.code);
                assert!(in_range, "{code} is in the range of {area}");
                assert!(seen.insert(page.code), "{code} is used once");
            }
        }
    }

    #[test]
    fn every_page_says_what_happened_and_what_to_do() {
        for (_, _, pages) in tables() {
            for CodePage { code, title, page } in pages {
                assert!(!title.is_empty() && !title.ends_with('.'), "{code}: {title:?}");
                for part in ["## What happened", "## What to do"] {
                    assert!(page.contains(part), "the page of {code} has {part:?}");
                }
                assert!(page.trim().lines().count() >= 3, "the page of {code} says what happened");
                assert!(!page.contains("TODO"), "{code}");
            }
        }
    }
}
