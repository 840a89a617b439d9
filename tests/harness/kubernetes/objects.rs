//! Objects that a test adds to a cluster.

use anyhow::Result;

use super::view::KubeCluster;

/// Objects that are deleted when dropped.
#[derive(Debug)]
pub struct Objects<'a> {
    cluster: &'a KubeCluster,
    text: String,
}

impl<'a> Objects<'a> {
    /// Creates objects from YAML or JSON.
    pub fn apply(cluster: &'a KubeCluster, text: &str) -> Result<Self> {
        // Made first, so that those that were created before an error are deleted.
        let objects = Self { cluster, text: text.to_owned() };
        cluster.kubectl().apply(text)?;
        Ok(objects)
    }
}

impl Drop for Objects<'_> {
    fn drop(&mut self) {
        let arguments = ["delete", "--ignore-not-found", "--filename", "-"];
        if let Err(error) = self.cluster.kubectl().run_with(&arguments, &self.text) {
            eprintln!("test bed: {error:#}");
        }
    }
}
