//! What the virtual machine does on its root, as a shell script.

use std::env;
use std::path::Path;

use anyhow::Result;

use super::kernel::Kernel;
use super::machine::END;
use crate::suite::COMPLEXITY;
use crate::workspace::{agent, root};

const GUEST: &str = include_str!("guest.sh");
/// How much longer than on the machine itself the tests may wait: what emulation costs, and some more.
const SLOWNESS: u32 = 20;

/// Runs these tests of the suite, if this kernel takes the programs; what they cost it is printed at the end.
pub(super) fn write(suite: &Path, kernel: &Kernel, filters: &[String]) -> Result<String> {
    let mut variables = String::new();
    for (name, value) in [
        ("PATH", env::var("PATH")?),
        ("FLANNEL_AGENT", agent()?.display().to_string()),
        ("FLANNEL_BED_SLOWNESS", SLOWNESS.to_string()),
        ("MODULES", kernel.modules().display().to_string()),
        ("FOLDER", root().join("tests").display().to_string()),
        ("SUITE", suite.display().to_string()),
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
