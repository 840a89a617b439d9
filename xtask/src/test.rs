//! `cargo xtask test`: lint, build, every test, and those that depend on the kernel on another one, too.

use std::{env, thread};

use anyhow::Result;

use crate::workspace::{agent, cargo};
use crate::{lint, phase, setup, vm};

/// The package of the integration suite.
pub(crate) const SUITE: &str = "flannel-tests";

/// How many tests run at once, to Rust's test harness.
const THREADS: &str = "RUST_TEST_THREADS";

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out the tests on Debian's kernel (`cargo xtask vm`)
    #[arg(long)]
    no_vm: bool,
    /// Run only the integration suite, with these arguments (a filter, --list, --nocapture, ...)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    suite: Vec<String>,
}

/// Cheapest first, so that a mistake shows early.
pub(crate) fn run(args: &Args) -> Result<()> {
    let everything = args.suite.is_empty();
    let vm = everything && !args.no_vm;
    let bpf = if vm { setup::ensure_with_vm()? } else { setup::ensure()? };
    // Before anything that takes long: where it cannot be had, that is said at once.
    let parts = vm.then(vm::Parts::get).transpose()?;
    if everything {
        lint::run(&bpf)?;
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
    phase::run("integration suite", &mut suite)?;
    match parts {
        Some(parts) => vm::run(&vm::Args::default(), &parts)?,
        None if everything => phase::note("not run, as --no-vm says: tests on Debian's kernel"),
        None => phase::note("not run, as a part was asked for: lint, unit tests, tests on Debian's kernel"),
    }
    Ok(())
}

/// Two tests for each processor: every other one waits for a timer, a kernel or an etcd.
fn at_once() -> Result<usize> {
    Ok(2 * thread::available_parallelism()?.get())
}
