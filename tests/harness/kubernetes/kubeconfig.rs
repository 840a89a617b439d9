//! Writes kubeconfig files.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// Writes one with one server and one user. JSON is YAML, too.
pub(super) fn write(path: &Path, server: &str, authority: &Path, user: &Value) -> Result<()> {
    let name = "test-bed";
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    });
    fs::write(path, config.to_string()).with_context(|| format!("write {}", path.display()))
}
