//! `cargo xtask test`: lint, build, every test.

use std::{env, thread};

use anyhow::Result;

use crate::toolchain::Toolchain;
use crate::workspace::{agent, cargo};
use crate::{lint, phase};

/// The package of the integration suite.
const SUITE: &str = "flannel-tests";

/// How many tests run at once, to Rust's test harness.
const THREADS: &str = "RUST_TEST_THREADS";

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only the integration suite, with these arguments (a filter, --list, --nocapture, ...)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    suite: Vec<String>,
}

/// Cheapest first, so that a mistake shows early.
pub(crate) fn run(args: &Args, bpf: &Toolchain) -> Result<()> {
    let everything = args.suite.is_empty();
    if everything {
        lint::run(bpf)?;
    }
    phase::run("build of the agent", &mut cargo(["build", "--package", "flannel-agent"]))?;
    if everything {
        phase::run("unit tests", &mut cargo(["test", "--workspace", "--exclude", SUITE]))?;
    }
    let mut suite = cargo(["test", "--package", SUITE, "--test", "suite", "--"]);
    suite.args(&args.suite).env("FLANNEL_AGENT", agent()?);
    if env::var_os(THREADS).is_none() {
        suite.env(THREADS, at_once()?.to_string());
    }
    phase::run("integration suite", &mut suite)
}

/// Two tests for each processor: every other one waits for a timer, a kernel or an etcd.
fn at_once() -> Result<usize> {
    Ok(2 * thread::available_parallelism()?.get())
}
