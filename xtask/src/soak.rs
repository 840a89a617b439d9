//! `cargo xtask soak`: faults at random, for some time.

use std::ffi::OsString;
use std::time::SystemTime;

use anyhow::Result;
use flannel_tests::fault::{SOAK_SECONDS, SOAK_SEED};

use crate::test::Tries;
use crate::{phase, setup, test};

/// The test that it runs.
const TEST: &str = "soak::";

/// How long, and which faults.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// For how long; the step that has begun by then is ended
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// The number that an earlier soak has printed, to repeat its steps [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
}

/// Builds the agent and runs the soak. It prints each step.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&test::SUITE)?;
    test::build_agent()?;
    run_with(args.minutes, args.seed.unwrap_or_else(from_clock))
}

/// Runs the soak with the agent that is built.
pub(crate) fn run_with(minutes: u64, seed: u64) -> Result<()> {
    phase::note(&format!("{minutes} min of faults; `cargo xtask soak --seed {seed}` repeats them"));
    let values = [60 * minutes, seed].map(|number| OsString::from(number.to_string()));
    let variables = [(SOAK_SECONDS, values[0].as_os_str()), (SOAK_SEED, values[1].as_os_str())];
    let arguments = [TEST, "--ignored", "--nocapture"].map(str::to_owned);
    test::run_tests(&arguments, &[], &variables, Tries::One).map(drop)
}

fn from_clock() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_secs() % 100_000)
}
