//! `cargo xtask`: what builds, installs, demonstrates and tests the project.
//!
//! It must not depend on a crate of the host: it has to work while those do not compile.

mod bench;
mod blocks;
mod checkout;
mod clock;
mod components;
mod debian;
mod demo;
mod echo;
mod fingerprint;
mod fuzz;
mod long;
mod machine;
mod needs;
mod node_tools;
mod process;
mod python_tools;
mod scale;
mod sim;
mod stages;
mod suites;
mod test;
mod tools;
mod wasm;
mod wit_check;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::checkout::Checkout;
use crate::debian::Stop;

/// Something failed: a build, a check, a test, the demonstration.
const EXIT_FAILED: u8 = 1;
/// The operator has to do something first; also clap's status for a command line that makes no sense.
const EXIT_ACT_FIRST: u8 = 2;

const EXIT_STATUSES: &str = "\
Exit status:
  0  all went well
  1  something failed: a build, a check, a test, the demonstration
  2  nothing was done, and the message says what to do first: packages are missing and you are not root, installing them
     would remove or downgrade a package and --yes was not given, this is not Debian and programs are missing, or the
     command line makes no sense";

/// What builds, installs, demonstrates and tests Farshore.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXIT_STATUSES)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build the components that are written in Rust, into target/components.
    Components(ComponentsArguments),
    /// Check the rules for WIT that no parser knows: no bare numbers as results, no lists without pages, no asynchrony.
    Wit,
    /// Install what is missing, check everything, and run all tests.
    Test(TestArguments),
    /// Install what is missing, build Farshore, and show it: a machine is protected, lost, and brought back.
    Demo(DemoArguments),
    /// Install what is missing, build Farshore, and measure it beside restic, borg, rustic and kopia; writes
    /// tests/bench/RESULTS.md. `bench rpo` measures how old the newest point gets of a guest that writes all the time.
    Bench(BenchArguments),
    /// Run worlds in which hosts, stores and clocks fail as seeds decide; the vault must keep its promises in all of them.
    Sim(SimArguments),
    /// Give mutated bytes to every decoder of what a vault stores, and of the files that people keep.
    Fuzz(FuzzArguments),
    /// Measure what a vault costs in the long run: stored bytes, requests and dollars, a lineage of very many commits.
    Scale(ScaleArguments),
    /// Measure what it costs to move a disk through the component for EC2, beside a plain parallel copy by HTTP.
    Blocks(BlocksArguments),
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUSES)]
struct ComponentsArguments {
    /// Which ones; all, if none is named.
    names: Vec<String>,
    /// Also the echo components in Python and JavaScript, whose tools are downloaded from PyPI and npm the first time.
    #[arg(long)]
    languages: bool,
    /// The compiler to use.
    #[arg(long, value_enum, default_value = "auto")]
    compiler: wasm::Choice,
    /// Let apt remove or downgrade packages if installing Debian's compiler takes that.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUSES)]
struct TestArguments {
    /// Only tests whose name contains this. Formatting, lints and WIT are not checked then.
    filter: Option<String>,
    /// Soaks, many seeds and long fuzzing (FARSHORE_LONG=1 for the tests); writes tests/RESULTS-long.md.
    #[arg(long)]
    long: bool,
    /// Let apt remove or downgrade packages if installing what is missing takes that.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUSES)]
struct DemoArguments {
    /// Let apt remove or downgrade packages if installing what is missing takes that. Goes before what is passed on.
    #[arg(long)]
    yes: bool,
    /// Passed on to `farshore demo`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed_on: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUSES)]
struct BenchArguments {
    /// Let apt remove or downgrade packages if installing what is missing takes that. Goes before what is passed on.
    #[arg(long)]
    yes: bool,
    /// Measure Farshore as built with cargo's profile `release`. Goes before what is passed on.
    #[arg(long)]
    release: bool,
    /// Passed on to the bench: --rounds, --minutes, --mebibytes, --seed, --output; or `rpo` and its options. `-- --help` and
    /// `rpo --help` describe them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed_on: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUSES)]
struct SimArguments {
    /// Let apt remove or downgrade packages if installing what is missing takes that. Goes before what is passed on.
    #[arg(long)]
    yes: bool,
    /// Passed on to the simulator: --seeds, --from, --threads, --plan, --permille, --trace. `-- --help` describes them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed_on: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUSES)]
struct FuzzArguments {
    /// How long each target is fuzzed.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only the target of this name.
    #[arg(long)]
    target: Option<String>,
    /// Give only this file to the target: what a failure has left.
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
    /// Let apt remove or downgrade packages if installing what is missing takes that.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUSES)]
struct ScaleArguments {
    /// Let apt remove or downgrade packages if installing what is missing takes that. Goes before what is passed on.
    #[arg(long)]
    yes: bool,
    /// Passed on: thinning, requests or commits, and their options. `-- --help` describes them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed_on: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUSES)]
struct BlocksArguments {
    /// Let apt remove or downgrade packages if installing what is missing takes that. Goes before what is passed on.
    #[arg(long)]
    yes: bool,
    /// Passed on: --mebibytes, --rounds, --component. `-- --help` describes them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed_on: Vec<OsString>,
}

fn main() -> ExitCode {
    match Command::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(exit_status(&error))
        }
    }
}

fn exit_status(error: &anyhow::Error) -> u8 {
    if error.chain().any(|cause| cause.is::<Stop>()) { EXIT_ACT_FIRST } else { EXIT_FAILED }
}

impl Command {
    fn run(self) -> Result<()> {
        let checkout = Checkout::find()?;
        match self.verb {
            Verb::Components(arguments) => {
                let ComponentsArguments { names, languages, compiler, yes } = arguments;
                let mut built = components::build(&checkout, &names, compiler, yes)?;
                if languages {
                    built.extend(echo::build(&checkout)?);
                }
                for component in built {
                    let state = if component.changed { "new" } else { "unchanged" };
                    println!("{}  {} KiB  {state}", component.path.display(), component.bytes.div_ceil(1024));
                }
                Ok(())
            }
            Verb::Wit => test::check_wit(&checkout),
            Verb::Test(TestArguments { filter, long, yes }) => {
                test::run(&checkout, &test::Request { filter, long, allow_costs: yes })
            }
            Verb::Demo(arguments) => demo::run(&checkout, &arguments.passed_on, arguments.yes),
            Verb::Bench(BenchArguments { yes, release, passed_on }) => {
                bench::run(&checkout, &bench::Request { release, passed_on }, yes)
            }
            Verb::Sim(arguments) => sim::run(&checkout, &arguments.passed_on, arguments.yes),
            Verb::Fuzz(FuzzArguments { seconds, target, input, yes }) => {
                fuzz::run(&checkout, &fuzz::Request { seconds, target, input }, yes)
            }
            Verb::Scale(arguments) => scale::run(&checkout, &arguments.passed_on, arguments.yes),
            Verb::Blocks(arguments) => blocks::run(&checkout, &arguments.passed_on, arguments.yes),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Command::command().debug_assert();
    }

    #[test]
    fn the_demonstration_gets_every_argument_that_is_not_ours() {
        let command = Command::parse_from(["xtask", "demo", "--yes", "--report", "out.json", "--yes"]);
        let Verb::Demo(arguments) = command.verb else { panic!("{command:?}") };
        assert!(arguments.yes);
        assert_eq!(arguments.passed_on, ["--report", "out.json", "--yes"]);
    }

    #[test]
    fn what_the_operator_must_do_first_has_a_status_of_its_own() {
        let stop = Stop::Missing { what: "clippy".into(), hint: "rustup component add clippy".into() };
        let wrapped = Err::<(), _>(stop).context("stage failed: clippy").unwrap_err();
        assert_eq!(exit_status(&wrapped), EXIT_ACT_FIRST);
        assert_eq!(exit_status(&anyhow::anyhow!("a test failed")), EXIT_FAILED);
    }
}
