//! What the virtual machine does on its root, as a shell script.

use std::path::Path;

use anyhow::Result;

use super::kernel::Kernel;
use super::machine::END;
use super::root::Root;
use crate::suite::COMPLEXITY;

const GUEST: &str = include_str!("guest.sh");
/// How much longer the tests may wait than on a real machine. Emulation takes ten times as long.
const SLOWNESS: u32 = 20;

/// What the script runs.
pub(super) struct Task<'a> {
    /// The agent's file.
    pub(super) agent: &'a Path,
    /// The suite's file.
    pub(super) suite: &'a Path,
    /// Debian's name of the architecture.
    pub(super) architecture: &'static str,
    /// The kernel, for its modules.
    pub(super) kernel: &'a Kernel,
    /// The files around it.
    pub(super) root: &'a Root,
    /// The tests to run.
    pub(super) filters: &'a [String],
}

/// Returns the script. It runs the tests if this kernel loads the programs, and prints at the end what they cost it.
pub(super) fn write(task: &Task) -> Result<String> {
    let Task { agent, suite, architecture, kernel, root, filters } = task;
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
        ("SUITE", text(suite)),
        ("COMPLEXITY", COMPLEXITY.to_owned()),
        ("FILTERS", filters.join(" ")),
        ("END", END.to_owned()),
    ] {
        variables += &format!("export {name}={}\n", quoted(&value));
    }
    Ok(variables + GUEST)
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
