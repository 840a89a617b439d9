//! `cargo xtask lint`: checks the sources without running them.

use std::process::Command;

use anyhow::Result;
use flannel_tests::tools::Part;

use crate::workspace::{cargo, cargo_bpf};
use crate::{phase, setup};

/// The parts of the work whose tools it needs.
pub(crate) const NEEDS: [Part; 1] = [Part::Lint];

/// Runs every check, the quickest first.
pub(crate) fn run() -> Result<()> {
    setup::ensure(&NEEDS)?;
    phase::run("formatting", &mut cargo(["fmt", "--all", "--check"]))?;
    let mut deny = cargo(["deny", "--locked", "check", "--hide-inclusion-graph"]);
    phase::run(
        "licences, duplicates and sources of dependencies",
        deny.args(["licenses", "bans", "sources"]),
    )?;
    let mut clippy = without_programs(["clippy", "--workspace", "--all-targets", "--quiet"]);
    phase::run("clippy", clippy.args(["--", "-D", "warnings"]))?;
    let mut clippy = without_programs(["clippy", "-p", "flannel-agent", "--no-default-features", "--quiet"]);
    phase::run("clippy of the agent without clouds", clippy.args(["--", "-D", "warnings"]))?;
    let mut clippy = cargo_bpf(["clippy", "--lib", "--bins", "--examples"], &setup::bpf_toolchain()?)?;
    phase::run("clippy of the BPF programs", clippy.args(["--quiet", "--", "-D", "warnings"]))?;
    let mut doc = without_programs(["doc", "--workspace", "--no-deps", "--quiet"]);
    phase::run("documentation", doc.arg("--document-private-items").env("RUSTDOCFLAGS", "-D warnings"))
}

/// Returns a cargo command that does not build the BPF programs. Clippy and rustdoc would build them once each, for
/// half a minute, and read nothing of them.
fn without_programs<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = cargo(arguments);
    command.env("AYA_BUILD_SKIP", "1");
    command
}
