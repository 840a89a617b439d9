//! Where programs are. Each is looked for in `PATH` once, and again when it is not there any more.

use std::collections::HashMap;
use std::env;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

static FOUND: LazyLock<Mutex<HashMap<String, PathBuf>>> = LazyLock::new(Mutex::default);

/// Returns the path of the program with this name.
pub(super) fn path(name: &str) -> io::Result<PathBuf> {
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = found.get(name) {
        return Ok(path.clone());
    }
    let path = search(name).ok_or_else(|| io::Error::from(ErrorKind::NotFound))?;
    found.insert(name.to_owned(), path.clone());
    Ok(path)
}

/// The program could not be started: it is looked for again the next time.
pub(super) fn forget(name: &str) {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
}

fn search(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_in_path_and_looked_for_again_once_it_was_forgotten() {
        let found = path("sh").unwrap();
        assert!(found.is_absolute() && found.ends_with("sh"), "{found:?}");
        forget("sh");
        assert_eq!(path("sh").unwrap(), found);
        assert_eq!(path("no-such-program").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(search("/etc/passwd"), None, "not executable");
    }
}
