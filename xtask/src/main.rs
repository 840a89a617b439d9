//! The project's chores, one subcommand each: `cargo xtask --help`.

mod bench;
mod complexity;
mod lint;
mod phase;
mod run;
mod setup;
mod test;
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's chores.
///
/// Every chore first looks for the tools it needs. As root on Debian or Ubuntu it installs what is
/// missing; elsewhere it lists what is missing, and the commands that get it, and stops.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Only find or install the tools: the BPF toolchain, bpf-linker, what the tests call
    Setup,
    /// A cluster on this machine: nodes, etcd, agents, pods; proves that it works, then stays up for you
    Run(run::Args),
    /// Lint, build the agent, run every test (needs root: nodes are network namespaces)
    Test(test::Args),
    /// Measure the dataplane against bare veth, host-gw routing and the kernel's vxlan, in one run
    Bench(bench::Args),
    /// The tests that depend on the kernel, on Debian's kernel in a virtual machine; part of `test`
    Vm(vm::Args),
    /// How many instructions the BPF programs have, and how many this kernel's verifier walks through
    Complexity,
    /// Formatting, clippy for the host and for BPF, documentation; warnings are errors
    Lint,
}

fn main() -> ExitCode {
    match execute(Cli::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            phase::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn execute(chore: Chore) -> Result<()> {
    match chore {
        Chore::Setup => {
            let bpf = setup::ensure_with_vm()?;
            let vm = vm::Parts::get();
            let there = if vm.is_ok() { "everything" } else { "everything else" };
            vm.map(drop).unwrap_or_else(|error| phase::note(&format!("{error:#}")));
            phase::note(&format!("{there} is there; BPF programs are built by `{}`", bpf.name));
            Ok(())
        }
        Chore::Run(args) => run::run(&args),
        Chore::Test(args) => test::run(&args),
        Chore::Vm(args) => setup::ensure_with_vm().and_then(|_| vm::run(&args, &vm::Parts::get()?)),
        Chore::Complexity => setup::ensure().and_then(|_| complexity::run()),
        Chore::Bench(args) => setup::ensure().and_then(|_| bench::run(&args)),
        Chore::Lint => lint::run(&setup::ensure()?),
    }
}
