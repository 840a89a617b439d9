//! Finds executables.
//!
//! Compiled twice: in the test bed, and by path into `flannel-agent`'s build script. So it uses `std` alone.

use std::env;
use std::path::PathBuf;

/// Finds an executable in `PATH`, where cargo installs, or in root's folders, which `PATH` may lack.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let rest = [cargo_home().join("bin"), "/usr/sbin".into(), "/sbin".into()];
    env::split_paths(&path).chain(rest).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME")
        .map_or_else(|| env::home_dir().unwrap_or_default().join(".cargo"), PathBuf::from)
}
