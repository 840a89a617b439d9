//! `cargo xtask test`: lint, build, every test, the release, and tests on other kernels.

mod faults;
mod tries;

use std::ffi::OsStr;
use std::process::Stdio;
use std::{env, thread};

use anyhow::{Context, Result, ensure};
use flannel_tests::interrupt;
use flannel_tests::kubernetes::{Binaries, CLUSTER, VARIABLE};
use flannel_tests::tools::Part;

use crate::kube::{self, Kubernetes};
use crate::workspace::{agent, cargo};
use crate::{architecture, dist, fuzz, lint, phase, setup, soak, suite, vm};
pub(crate) use tries::Tries;

/// The variable of Rust's test harness that says how many tests run at once.
const THREADS: &str = "RUST_TEST_THREADS";
/// The parts of the work without which no test runs.
pub(crate) const SUITE: [Part; 4] = [Part::Build, Part::Cluster, Part::Etcd, Part::Suite];
/// The parts of the work whose tools it needs, without those of virtual machines and releases.
pub(crate) const NEEDS: [Part; 6] =
    [Part::Lint, Part::Build, Part::Fuzz, Part::Cluster, Part::Etcd, Part::Suite];
/// Makes the suite print the names of the tests that it would run.
const LIST: &str = "--list";
/// Arguments of the suite that only say what is printed.
const OUTPUT: [&str; 5] = ["--nocapture", "--no-capture", "--show-output", "--quiet", "-q"];
/// The tests of the release's files, as parts of their names. They are ignored where no release has been made.
const RELEASE: [&str; 2] = ["package::", "image::"];

/// Minutes and seed of the soak. The seed is fixed: what fails once fails again.
const SOAK: (u64, u64) = (5, 1);

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out the tests on Debian's kernel (`cargo xtask vm`)
    #[arg(long)]
    no_vm: bool,
    /// Leave out the release (`cargo xtask dist`), the tests of its package and image, and its binary for another architecture
    #[arg(long)]
    no_dist: bool,
    /// Leave out the tests on a real Kubernetes, and its build (`cargo xtask kube`)
    #[arg(long)]
    no_kube: bool,
    /// Leave out the soak (`cargo xtask soak`), of which five minutes are run
    #[arg(long)]
    no_soak: bool,
    /// Run only the faults (kill, hang, delete, detach, ...), one at a time, and print what each costs pods that talk
    #[arg(long, conflicts_with = "suite")]
    faults: bool,
    /// Run only the integration suite, with these arguments (a filter, --list, --nocapture, ...)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    suite: Vec<String>,
}

/// Runs the tests. With arguments for the suite, that is all.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.faults {
        setup::ensure(&SUITE)?;
        build_agent()?;
        return faults::run();
    }
    if args.suite.is_empty() {
        return run_all(args);
    }
    setup::ensure(&SUITE)?;
    build_agent()?;
    let kubernetes =
        if args.no_kube || !needs_kubernetes(&args.suite)? { None } else { Some(build_kubernetes()?) };
    run_suite(&args.suite, kubernetes.as_ref(), Tries::One)?;
    phase::note(
        "not run with a filter: lint, unit tests, fuzz targets, tests on Debian's kernel, tests of the release",
    );
    if args.no_kube {
        phase::note("not run, as was asked for: tests on Kubernetes");
    }
    Ok(())
}

/// Runs the cheapest checks first, so that a mistake shows early.
fn run_all(args: &Args) -> Result<()> {
    let (vm, dist, kube) = (!args.no_vm, !args.no_dist, !args.no_kube);
    let mut needs = NEEDS.to_vec();
    needs.extend(vm.then_some(vm::NEEDS).into_iter().flatten());
    needs.extend(dist.then_some(dist::NEEDS).into_iter().flatten());
    needs.extend(kube.then_some(kube::NEEDS).into_iter().flatten());
    setup::ensure(&needs)?;
    // Fails here, before anything that takes long, if Kubernetes' source or a virtual machine cannot be downloaded.
    let kubernetes = kube.then(Kubernetes::get).transpose()?;
    let machines = architecture::ALL.iter().filter(|machine| vm && (dist || machine.is_native()));
    let machines = machines.map(vm::Parts::get).collect::<Result<Vec<_>>>()?;
    lint::run()?;
    build_agent()?;
    phase::run("unit tests", &mut cargo(["test", "--workspace", "--exclude", suite::PACKAGE]))?;
    fuzz::check()?;
    let kubernetes = kubernetes.map(Kubernetes::build).transpose()?;
    let mut unsteady = run_suite(&[], kubernetes.as_ref(), Tries::Two)?;
    if !args.no_soak {
        soak::run_with(SOAK.0, SOAK.1)?;
    }
    if dist {
        dist::run(&dist::Args::default())?;
        let arguments = ["--ignored"].into_iter().chain(RELEASE).map(str::to_owned);
        unsteady.extend(run_suite(&arguments.collect::<Vec<_>>(), None, Tries::Two)?);
    }
    machines.iter().try_for_each(|parts| vm::run(&[], parts))?;
    let parts = [
        ("tests on Debian's kernel", vm),
        ("tests of the release", dist),
        ("tests on Kubernetes", kube),
        ("the soak", !args.no_soak),
    ];
    for (part, run) in parts {
        if !run {
            phase::note(&format!("not run, as was asked for: {part}"));
        }
    }
    tries::report(&unsteady);
    Ok(())
}

pub(crate) fn build_agent() -> Result<()> {
    phase::run("build of the agent", &mut cargo(["build", "--package", "flannel-agent"]))
}

/// Builds Kubernetes, or finds what was built before.
fn build_kubernetes() -> Result<Binaries> {
    setup::ensure(&kube::NEEDS)?;
    Kubernetes::get()?.build()
}

/// Asks the suite whether these arguments select a test on Kubernetes.
fn needs_kubernetes(arguments: &[String]) -> Result<bool> {
    if arguments.iter().any(|argument| argument == LIST) {
        return Ok(false);
    }
    Ok(selected(arguments)?.iter().any(|test| kube::TESTS.iter().any(|name| test.starts_with(name))))
}

/// Asks the suite for the names of the tests that these arguments select.
fn selected(arguments: &[String]) -> Result<Vec<String>> {
    let mut command = suite::command();
    let output = command.arg("--").args(arguments).arg(LIST).stderr(Stdio::inherit()).output();
    let output = output.context("cannot run cargo")?;
    ensure!(output.status.success(), "the suite does not list its tests");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(lines.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// Runs the suite: first all tests that make what they need, then those that need a cluster of Kubernetes, on one that is
/// started for them. Without Kubernetes, its tests are left out. Returns the tests that have failed at first.
fn run_suite(arguments: &[String], kubernetes: Option<&Binaries>, tries: Tries) -> Result<Vec<String>> {
    let Some(binaries) = kubernetes else {
        return run_tests(arguments, &kube::TESTS.map(|name| format!("--skip={name}")), &[], tries);
    };
    let mut failed = Vec::new();
    let (on_cluster, others): (Vec<_>, Vec<_>) =
        selected(arguments)?.into_iter().partition(|test| test.starts_with(kube::ON_CLUSTER));
    let variable = (VARIABLE, binaries.folder().as_os_str());
    if !others.is_empty() || on_cluster.is_empty() {
        failed = run_tests(arguments, &[format!("--skip={}", kube::ON_CLUSTER)], &[variable], tries)?;
    }
    if on_cluster.is_empty() {
        return Ok(failed);
    }
    // Tests change the cluster: one runs at a time.
    let mut chosen = vec!["--test-threads=1".to_owned(), "--exact".to_owned()];
    chosen.extend(arguments.iter().filter(|argument| OUTPUT.contains(&argument.as_str())).cloned());
    chosen.extend(on_cluster);
    // Ctrl-C ends the tests, and then the cluster is removed.
    interrupt::catch()?;
    let cluster = kube::up::start(binaries, kube::up::NODES)?;
    let variables = [variable, (CLUSTER, cluster.folder().as_os_str())];
    failed.extend(run_tests(&chosen, &[], &variables, tries)?);
    Ok(failed)
}

/// Runs tests with these arguments and variables for the suite. Returns those that have failed at first.
pub(crate) fn run_tests(
    arguments: &[String],
    more: &[String],
    variables: &[(&str, &OsStr)],
    tries: Tries,
) -> Result<Vec<String>> {
    let command = |arguments: &mut dyn Iterator<Item = &String>| {
        let mut command = suite::command();
        command.arg("--").args(arguments).env("FLANNEL_AGENT", agent()?);
        command.envs(variables.iter().copied());
        if env::var_os(THREADS).is_none() {
            command.env(THREADS, at_once()?.to_string());
        }
        Ok(command)
    };
    let all = command(&mut arguments.iter().chain(more))?;
    tries::run("integration suite", all, tries, |failed| {
        let exactly = ["--include-ignored", "--exact", "--test-threads=1"].map(str::to_owned);
        command(&mut exactly.iter().chain(failed))
    })
}

/// Returns two tests for each processor: half of them wait for a timer, the kernel or etcd.
fn at_once() -> Result<usize> {
    Ok(2 * thread::available_parallelism()?.get())
}
