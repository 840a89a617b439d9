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

/// The agent's files.
#[derive(Clone, Copy)]
pub(crate) struct Agent<'a> {
    /// Its binary.
    pub(crate) binary: &'a Path,
    /// The folder of what belongs below `/usr/share`, each file at its place.
    pub(crate) share: &'a Path,
}

/// Returns the layer for an agent.
pub(super) fn tree(Agent { binary, share }: Agent) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.program(AGENT, fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?);
    for name in NAMES {
        tree.link(name, Path::new("/").join(AGENT));
    }
    tree.contents("usr/share", share)?;
    Ok(tree)
}
