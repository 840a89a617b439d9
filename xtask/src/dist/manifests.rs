//! What a cluster is given: the manifest, the kustomize folders, and the Helm chart as `helm package` names it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use flannel_tests::tree::Tree;

use super::VERSION;
use crate::image::gzip;
use crate::workspace::root;

const MANIFEST: &str = "kube-flannel.yml";

/// Writes them.
pub(super) fn write(folder: &Path) -> Result<()> {
    let deploy = root().join("deploy");
    fs::copy(deploy.join(MANIFEST), folder.join(MANIFEST))
        .with_context(|| format!("cannot write {MANIFEST}"))?;
    pack(&deploy.join("helm"), &folder.join(format!("flannel-{VERSION}.tgz")))?;
    pack(&deploy.join("kustomize"), &folder.join(format!("flannel-agent-{VERSION}-kustomize.tgz")))
}

/// Packs what is in a folder.
fn pack(folder: &Path, archive: &Path) -> Result<()> {
    let mut tree = Tree::default();
    tree.contents("", folder)?;
    fs::write(archive, gzip(&tree.archive()?)?).with_context(|| format!("cannot write {}", archive.display()))
}
