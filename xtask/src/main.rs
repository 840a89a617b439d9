//! The project's chores, one subcommand each: `cargo xtask --help`.

mod architecture;
mod bench;
mod complexity;
mod dashboard;
mod descriptors;
mod dist;
mod fuzz;
mod image;
mod kube;
mod lint;
mod phase;
mod prepare;
mod run;
mod setup;
mod soak;
mod suite;
mod svg;
mod test;
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's chores.
///
/// A chore first looks for the tools it needs. As root on Debian or Ubuntu it says which are missing and installs
/// them. Elsewhere it says which are missing, prints the commands that install them, and stops.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install the tools of chores: the BPF toolchain, bpf-linker, the programs that tests run
    Setup(prepare::Args),
    /// Start a cluster on this machine (nodes, etcd, agents, pods), show that it works, and keep it for you
    Run(run::Args),
    /// Lint, build the agent, run every test (needs root: nodes are network namespaces)
    Test(test::Args),
    /// Let faults happen to eight nodes at random while their pods talk, and check that nothing is lost and nothing grows
    Soak(soak::Args),
    /// Give mutated data to what reads it: configurations, leases, subnet.env, CNI requests, Nodes, packets
    Fuzz(fuzz::Args),
    /// Measure the dataplane against bare veth, host-gw routing and the kernel's vxlan, in one run
    Bench(bench::Args),
    /// Draw Grafana's dashboard from what a real Prometheus reads of a cluster on this machine
    Dashboard(dashboard::Args),
    /// Run the tests that depend on the kernel on Debian's kernel, in a virtual machine; part of `test`
    Vm(vm::Args),
    /// Start a Kubernetes cluster on this machine with the agent as its network, show that it works, and keep it for you
    Kube(kube::Args),
    /// Count the BPF programs' instructions, and those that this kernel's verifier walks through
    Complexity,
    /// Compile the interface of etcd's client anew, after a change of its version
    Descriptors,
    /// Build static binaries, Debian packages and container images of a release into dist/, for x86_64 and aarch64
    Dist(dist::Args),
    /// Make the container image, without a base image, a daemon or a registry
    Image(image::Args),
    /// Check formatting, clippy for the host and for BPF, and documentation; warnings are errors
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
        Chore::Setup(args) => prepare::run(&args),
        Chore::Run(args) => run::run(&args),
        Chore::Test(args) => test::run(&args),
        Chore::Soak(args) => soak::run(&args),
        Chore::Fuzz(args) => fuzz::run(&args),
        Chore::Bench(args) => bench::run(&args),
        Chore::Dashboard(args) => dashboard::run(&args),
        Chore::Vm(args) => vm::execute(&args),
        Chore::Kube(args) => kube::run(&args),
        Chore::Complexity => complexity::run(),
        Chore::Descriptors => descriptors::run(),
        Chore::Dist(args) => dist::run(&args),
        Chore::Image(args) => image::run(&args),
        Chore::Lint => lint::run(),
    }
}
