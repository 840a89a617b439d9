//! `cargo xtask complexity`: what the BPF programs cost this kernel's verifier.

use anyhow::Result;
use flannel_tests::tools::Part;

use crate::{phase, setup, suite};

/// Runs the one test that prints it.
pub(crate) fn run() -> Result<()> {
    setup::ensure(&[Part::Build])?;
    let mut command = suite::command();
    command.args(["--", "--exact", "--nocapture", suite::COMPLEXITY]);
    phase::run("complexity of the BPF programs", &mut command)
}
