//! `cargo xtask complexity`: what the BPF programs cost this kernel's verifier.

use anyhow::Result;

use crate::phase;
use crate::test::SUITE;
use crate::workspace::cargo;

/// The test that loads them, prints the table, and fails where a program leaves too little room.
pub(crate) const TEST: &str = "program::complexity::every_program_leaves_room_to_grow";

pub(crate) fn run() -> Result<()> {
    let mut suite =
        cargo(["test", "--package", SUITE, "--test", "suite", "--", "--exact", "--nocapture", TEST]);
    phase::run("complexity of the BPF programs", &mut suite)
}
