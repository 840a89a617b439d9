//! Packages of PyPI, which have a folder of their own: nothing of the system's Python changes.

use std::path::PathBuf;
use std::{env, fs};

/// The file in [`folder`] that has the packages that are installed there.
pub const INSTALLED: &str = "installed.txt";

/// Returns the folder, which serves all clones of the repository: below `$XDG_CACHE_HOME`, else `~/.cache`.
pub fn folder() -> PathBuf {
    let given = |name| env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let caches = given("XDG_CACHE_HOME").or_else(|| Some(given("HOME")?.join(".cache")));
    caches.unwrap_or_else(env::temp_dir).join("flannel-xtask/python")
}

/// Returns a program of these packages, if they are all installed in these versions.
pub fn find(program: &str, requirements: &str) -> Option<PathBuf> {
    let installed = fs::read_to_string(folder().join(INSTALLED)).ok()?;
    let file = folder().join("bin").join(program);
    (installed == requirements && file.is_file()).then_some(file)
}
