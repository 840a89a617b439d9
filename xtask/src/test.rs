//! `cargo xtask test`: lint, build, every test, the release, and tests on other kernels.

use std::{env, thread};

use anyhow::Result;
use flannel_tests::tools::Part;

use crate::workspace::{agent, cargo};
use crate::{architecture, dist, lint, phase, setup, suite, vm};

/// The variable of Rust's test harness that says how many tests run at once.
const THREADS: &str = "RUST_TEST_THREADS";
/// The parts of the work without which no test runs.
const SUITE: [Part; 4] = [Part::Build, Part::Cluster, Part::Etcd, Part::Suite];
/// The parts of the work whose tools it needs, without those of virtual machines and releases.
pub(crate) const NEEDS: [Part; 5] = [Part::Lint, Part::Build, Part::Cluster, Part::Etcd, Part::Suite];
/// The tests of the Debian package, as a part of their names. They are ignored where no package has been made.
const PACKAGE: &str = "package::";

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out the tests on Debian's kernel (`cargo xtask vm`)
    #[arg(long)]
    no_vm: bool,
    /// Leave out the release (`cargo xtask dist`), the test of its package, and its binary for another architecture
    #[arg(long)]
    no_dist: bool,
    /// Run only the integration suite, with these arguments (a filter, --list, --nocapture, ...)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    suite: Vec<String>,
}

/// Runs the tests. With arguments for the suite, that is all.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.suite.is_empty() {
        return run_all(args);
    }
    setup::ensure(&SUITE)?;
    build_agent()?;
    run_suite(&args.suite)?;
    phase::note("not run with a filter: lint, unit tests, tests on Debian's kernel, tests of the release");
    Ok(())
}

/// Runs the cheapest checks first, so that a mistake shows early.
fn run_all(args: &Args) -> Result<()> {
    let (vm, dist) = (!args.no_vm, !args.no_dist);
    let mut needs = NEEDS.to_vec();
    needs.extend(vm.then_some(vm::NEEDS).into_iter().flatten());
    needs.extend(dist.then_some(dist::NEEDS).into_iter().flatten());
    setup::ensure(&needs)?;
    // Fails here, before anything that takes long, if a virtual machine cannot be downloaded.
    let machines = architecture::ALL.iter().filter(|machine| vm && (dist || machine.is_native()));
    let machines = machines.map(vm::Parts::get).collect::<Result<Vec<_>>>()?;
    lint::run()?;
    build_agent()?;
    phase::run("unit tests", &mut cargo(["test", "--workspace", "--exclude", suite::PACKAGE]))?;
    run_suite(&[])?;
    if dist {
        dist::run(&dist::Args::default())?;
        run_suite(&["--ignored", PACKAGE].map(str::to_owned))?;
    }
    machines.iter().try_for_each(|parts| vm::run(&[], parts))?;
    for (part, run) in [("tests on Debian's kernel", vm), ("tests of the release", dist)] {
        if !run {
            phase::note(&format!("not run, as was asked for: {part}"));
        }
    }
    Ok(())
}

fn build_agent() -> Result<()> {
    phase::run("build of the agent", &mut cargo(["build", "--package", "flannel-agent"]))
}

fn run_suite(arguments: &[String]) -> Result<()> {
    let mut command = suite::command();
    command.arg("--").args(arguments).env("FLANNEL_AGENT", agent()?);
    if env::var_os(THREADS).is_none() {
        command.env(THREADS, at_once()?.to_string());
    }
    phase::run("integration suite", &mut command)
}

/// Returns two tests for each processor: half of them wait for a timer, the kernel or etcd.
fn at_once() -> Result<usize> {
    Ok(2 * thread::available_parallelism()?.get())
}
