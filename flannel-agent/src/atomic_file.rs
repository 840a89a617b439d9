//! Files that are seen whole or not at all.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::NamedTempFile;

/// Replaces the file in one step, so that a reader sees the old bytes or the new ones. `mode`: its permissions.
///
/// # Errors
/// The file cannot be written, or its folder is not there.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    staged(path, bytes, mode)?.persist(path)?;
    sync_name(path)
}

/// The file to be, on disk under a hidden name beside its place; gone again unless it is persisted.
///
/// # Errors
/// The file cannot be written, or its folder is not there.
pub(crate) fn staged(path: &Path, bytes: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new_in(folder(path))?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Makes the file's name survive a power cut: it does only once its folder is on disk.
///
/// # Errors
/// The disk fails.
pub(crate) fn sync_name(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

/// The folder that the file is in.
#[must_use]
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
