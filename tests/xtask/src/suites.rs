//! Reads what `cargo test` prints, as it prints it.
//!
//! Only stable text is used: cargo's `Running` and `Doc-tests` lines name a suite, and the test runner's `test result:`
//! line closes it. A suite that ends without one (a crash, an abort) leaves no result; cargo's exit status tells that.

/// One suite, as the test runner summed it up.
#[derive(Debug, Clone, PartialEq)]
pub struct Suite {
    /// Crate or file: `farshore_core (src/lib.rs)`, `drill (tests/drill.rs)`, `farshore_core (documentation)`.
    pub name: String,
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// How long it took, in seconds, as the runner says.
    pub seconds: f64,
}

/// Collects suites from lines.
#[derive(Debug, Default)]
pub struct Reader {
    running: String,
    /// The closed suites, in order.
    pub suites: Vec<Suite>,
}

impl Reader {
    /// Takes the next line of output.
    pub fn line(&mut self, line: &str) {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("Running ") {
            if let Some(name) = running(rest) {
                self.running = name;
            }
        } else if let Some(name) = line.strip_prefix("Doc-tests ") {
            self.running = format!("{name} (documentation)");
        } else if let Some(result) = line.strip_prefix("test result: ")
            && let Some(suite) = result_line(&self.running, result)
        {
            self.suites.push(suite);
        }
    }

    /// Passed and failed tests of all suites.
    pub fn totals(&self) -> (u64, u64) {
        let sum = |count: fn(&Suite) -> u64| self.suites.iter().map(count).fold(0, u64::saturating_add);
        (sum(|suite| suite.passed), sum(|suite| suite.failed))
    }
}

/// `unittests src/lib.rs (target/debug/deps/farshore_core-0123456789abcdef)` is `farshore_core (src/lib.rs)`.
fn running(rest: &str) -> Option<String> {
    let (source, binary) = rest.strip_suffix(')')?.split_once(" (")?;
    let file = binary.rsplit('/').next()?;
    let (name, _hash) = file.rsplit_once('-')?;
    Some(format!("{name} ({})", source.trim_start_matches("unittests ")))
}

/// `ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.12s`
fn result_line(name: &str, result: &str) -> Option<Suite> {
    let (_verdict, counts) = result.split_once(". ")?;
    let mut suite = Suite { name: name.to_owned(), passed: 0, failed: 0, seconds: 0.0 };
    for part in counts.split("; ") {
        if let Some(count) = part.strip_suffix(" passed") {
            suite.passed = count.parse().ok()?;
        } else if let Some(count) = part.strip_suffix(" failed") {
            suite.failed = count.parse().ok()?;
        } else if let Some(seconds) = part.strip_prefix("finished in ") {
            suite.seconds = seconds.trim_end_matches('s').parse().ok()?;
        }
    }
    Some(suite)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
   Compiling farshore-core v0.1.0 (/somewhere/host/core)
    Finished `dev` profile [optimized + debuginfo] target(s) in 1.00s
     Running unittests src/lib.rs (/cache/target/debug/deps/farshore_core-0123456789abcdef)

running 2 tests
test extent::tests::one ... ok
test extent::tests::two ... FAILED
test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.25s

     Running tests/drill.rs (target/debug/deps/drill-fedcba9876543210)
test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 61.50s

   Doc-tests farshore_core
test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn suites_have_names_counts_and_durations() {
        let mut reader = Reader::default();
        OUTPUT.lines().for_each(|line| reader.line(line));
        let suite = |name: &str, passed, failed, seconds| Suite { name: name.into(), passed, failed, seconds };
        let expected = [
            suite("farshore_core (src/lib.rs)", 1, 1, 0.25),
            suite("drill (tests/drill.rs)", 7, 0, 61.5),
            suite("farshore_core (documentation)", 0, 0, 0.0),
        ];
        assert_eq!(reader.suites, expected);
        assert_eq!(reader.totals(), (8, 1));
    }

    #[test]
    fn what_only_looks_like_a_result_is_left_out() {
        let mut reader = Reader::default();
        reader.line("test result: unclear");
        reader.line("test result: ok. many passed; 0 failed");
        reader.line("Running away");
        assert_eq!(reader.suites, []);
        assert_eq!(reader.running, "");
    }
}
