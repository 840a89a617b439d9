//! `cargo xtask soak`: faults at random, for some time.

use std::ffi::OsString;
use std::time::SystemTime;

use anyhow::Result;

use crate::{phase, setup, test};

/// The test that it runs, and the variables that it reads.
const TEST: &str = "soak::";
const SECONDS: &str = "FLANNEL_SOAK_SECONDS";
const SEED: &str = "FLANNEL_SOAK_SEED";

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
    let seed = args.seed.unwrap_or_else(from_clock);
    phase::note(&format!("{} min of faults; `cargo xtask soak --seed {seed}` repeats them", args.minutes));
    let values = [60 * args.minutes, seed].map(|number| OsString::from(number.to_string()));
    let variables = [(SECONDS, values[0].as_os_str()), (SEED, values[1].as_os_str())];
    test::run_tests(&[TEST, "--ignored", "--nocapture"].map(str::to_owned), &[], &variables)
}

fn from_clock() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_secs() % 100_000)
}
