//! `cargo xtask test`: lint, build, every test, and those that depend on the kernel on a second kernel.

use std::{env, thread};

use anyhow::Result;
use flannel_tests::tools::Part;

use crate::workspace::{agent, cargo};
use crate::{lint, phase, setup, suite, vm};

/// The variable of Rust's test harness that says how many tests run at once.
const THREADS: &str = "RUST_TEST_THREADS";
/// The parts of the work whose tools it needs, without those of the virtual machine.
pub(crate) const NEEDS: [Part; 5] = [Part::Lint, Part::Build, Part::Cluster, Part::Etcd, Part::Suite];

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

/// Runs the cheapest checks first, so that a mistake shows early.
pub(crate) fn run(args: &Args) -> Result<()> {
    let everything = args.suite.is_empty();
    let vm = everything && !args.no_vm;
    let needs = NEEDS.into_iter().filter(|part| everything || *part != Part::Lint);
    setup::ensure(&needs.chain(vm.then_some(Part::Vm)).collect::<Vec<_>>())?;
    // Fails here, before anything that takes long, if it cannot be downloaded.
    let parts = vm.then(vm::Parts::get).transpose()?;
    if everything {
        lint::run()?;
    }
    phase::run("build of the agent", &mut cargo(["build", "--package", "flannel-agent"]))?;
    if everything {
        phase::run("unit tests", &mut cargo(["test", "--workspace", "--exclude", suite::PACKAGE]))?;
    }
    let mut command = suite::command();
    command.arg("--").args(&args.suite).env("FLANNEL_AGENT", agent()?);
    if env::var_os(THREADS).is_none() {
        command.env(THREADS, at_once()?.to_string());
    }
    phase::run("integration suite", &mut command)?;
    match parts {
        Some(parts) => vm::run(&vm::Args::default(), &parts)?,
        None if everything => phase::note("not run, because of --no-vm: tests on Debian's kernel"),
        None => phase::note("not run with a filter: lint, unit tests, tests on Debian's kernel"),
    }
    Ok(())
}

/// Returns two tests for each processor: half of them wait for a timer, the kernel or etcd.
fn at_once() -> Result<usize> {
    Ok(2 * thread::available_parallelism()?.get())
}
