//! `cargo xtask lint`: everything that can be said about the sources without running them.

use std::process::Command;

use anyhow::Result;

use crate::phase;
use crate::toolchain::Toolchain;
use crate::workspace::{cargo, cargo_bpf};

/// Quickest first.
pub(crate) fn run(bpf: &Toolchain) -> Result<()> {
    phase::run("formatting", &mut cargo(["fmt", "--all", "--check"]))?;
    let mut clippy = without_programs(["clippy", "--workspace", "--all-targets", "--quiet"]);
    phase::run("clippy", clippy.args(["--", "-D", "warnings"]))?;
    let mut clippy = cargo_bpf("clippy", bpf)?;
    phase::run("clippy of the BPF programs", clippy.args(["--quiet", "--", "-D", "warnings"]))?;
    let mut doc = without_programs(["doc", "--workspace", "--no-deps", "--quiet"]);
    phase::run("documentation", doc.arg("--document-private-items").env("RUSTDOCFLAGS", "-D warnings"))
}

/// Clippy and rustdoc each have a build script's output of their own, and would each build the BPF programs,
/// for half a minute, to no use.
fn without_programs<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = cargo(arguments);
    command.env("AYA_BUILD_SKIP", "1");
    command
}
