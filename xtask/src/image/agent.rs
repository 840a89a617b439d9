//! The layer with the agent.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use flannel_tests::tree::Tree;

/// Where the agent is in the image.
pub(super) const AGENT: &str = "opt/bin/flannel-agent";
/// Its other names, under which it is called by flannel's own manifests: the daemon, the CNI plugin that is copied to the
/// node, and the two commands that copy. The agent looks at the name that it is called by.
const NAMES: [&str; 4] = ["flannel", "opt/bin/flanneld", "opt/bin/install-conf", "usr/bin/cp"];

/// Returns the layer for a binary.
pub(super) fn tree(binary: &Path) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.program(AGENT, fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?);
    for name in NAMES {
        tree.link(name, Path::new("/").join(AGENT));
    }
    Ok(tree)
}
