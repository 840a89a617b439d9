//! What the virtual machine does on its root, as a shell script.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::kernel::Kernel;
use super::machine::END;
use super::root::Root;
use crate::suite::COMPLEXITY;

const MOUNTS: &str = include_str!("guest/mounts.sh");
const SUITE: &str = include_str!("guest/suite.sh");
const PROOF: &str = include_str!("guest/proof.sh");
const REST: &str = include_str!("guest/end.sh");
/// How much longer the tests may wait than on a real machine. Emulation takes ten times as long.
const SLOWNESS: u32 = 20;

/// What the script runs.
pub(super) struct Task<'a> {
    /// The agent's file.
    pub(super) agent: &'a Path,
    /// What it does.
    pub(super) work: &'a Work,
    /// Debian's name of the architecture.
    pub(super) architecture: &'static str,
    /// The kernel, for its modules.
    pub(super) kernel: &'a Kernel,
    /// The files around it.
    pub(super) root: &'a Root,
}

/// What the virtual machine does.
pub(super) enum Work {
    /// Runs tests of the suite.
    Suite {
        /// The suite's file.
        program: PathBuf,
        /// Parts of the tests' names.
        filters: Vec<String>,
    },
    /// Proves that a cluster works, as `cargo xtask run --once` does.
    Proof {
        /// The file of the chores.
        program: PathBuf,
    },
}

/// Returns the script.
pub(super) fn write(task: &Task) -> Result<String> {
    let Task { agent, work, architecture, kernel, root } = task;
    let (program, filters, work) = match work {
        Work::Suite { program, filters } => (program, filters.join(" "), SUITE),
        Work::Proof { program } => (program, String::new(), PROOF),
    };
    let text = |path: &Path| path.display().to_string();
    let mut variables = String::new();
    for (name, value) in [
        ("PATH", root.path()?),
        ("FLANNEL_AGENT", text(agent)),
        ("FLANNEL_BED_SLOWNESS", SLOWNESS.to_string()),
        // etcd 3.4 does not start on arm64 without being told so.
        ("ETCD_UNSUPPORTED_ARCH", (*architecture).to_owned()),
        ("MODULES", text(&kernel.modules())),
        ("TARGET", root.target().map(text).unwrap_or_default()),
        ("FOLDER", text(&root.tests())),
        ("PROGRAM", text(program)),
        ("COMPLEXITY", COMPLEXITY.to_owned()),
        ("FILTERS", filters),
        ("END", END.to_owned()),
    ] {
        variables += &format!("export {name}={}\n", quoted(&value));
    }
    Ok(variables + MOUNTS + work + REST)
}

fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_do_not_end_a_value() {
        assert_eq!(quoted("/a b"), "'/a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
