//! The integration suite, as several chores run it.

use std::process::Command;

use crate::workspace::cargo;

/// Its package.
pub(crate) const PACKAGE: &str = "flannel-tests";
/// The test that loads the BPF programs, prints what they cost the verifier, and fails where one leaves too little room.
pub(crate) const COMPLEXITY: &str = "program::complexity::every_program_leaves_room_to_grow";

/// Returns the command that builds and runs it. Arguments for the suite itself follow `--`.
pub(crate) fn command() -> Command {
    cargo(["test", "--package", PACKAGE, "--test", "suite"])
}
