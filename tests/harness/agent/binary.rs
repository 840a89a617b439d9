//! Finds the agent's binary.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

const NAME: &str = "flannel-agent";
const VARIABLE: &str = "FLANNEL_AGENT";

/// Returns `$FLANNEL_AGENT`. None if it is not set.
pub fn named_agent() -> Result<Option<PathBuf>> {
    let Some(path) = env::var_os(VARIABLE).map(PathBuf::from) else { return Ok(None) };
    ensure!(path.is_file(), "{VARIABLE} is {}, which is not a file", path.display());
    Ok(Some(path))
}

/// Returns `$FLANNEL_AGENT`, or the agent built beside the current program. Prefers the same build profile.
pub fn agent_binary() -> Result<PathBuf> {
    if let Some(path) = named_agent()? {
        return Ok(path);
    }
    let current = env::current_exe().context("find the current program")?;
    match candidates(&current).into_iter().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("{NAME} is not built: cargo build -p {NAME} (or set {VARIABLE} to its path)"),
    }
}

fn candidates(current: &Path) -> Vec<PathBuf> {
    let profile =
        current.parent().map(|dir| if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir });
    let Some(profile) = profile else { return Vec::new() };
    let target = profile.parent().unwrap_or(profile);
    vec![profile.join(NAME), target.join("debug").join(NAME), target.join("release").join(NAME)]
}
