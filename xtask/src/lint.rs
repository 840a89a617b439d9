//! `cargo xtask lint`: everything that can be said about the sources without running them.

use anyhow::Result;

use crate::phase;
use crate::toolchain::Toolchain;
use crate::workspace::{cargo, cargo_bpf};

/// Quickest first. Clippy also runs the agent's build script, so BPF programs that do not compile end here.
pub(crate) fn run(bpf: &Toolchain) -> Result<()> {
    phase::run("formatting", &mut cargo(["fmt", "--all", "--check"]))?;
    phase::run(
        "clippy",
        &mut cargo(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]),
    )?;
    phase::run(
        "clippy of the BPF programs",
        cargo_bpf("clippy", bpf)?.args(["--quiet", "--", "-D", "warnings"]),
    )?;
    let mut doc = cargo(["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]);
    phase::run("documentation", doc.env("RUSTDOCFLAGS", "-D warnings"))
}
