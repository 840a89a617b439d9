//! Files that readers see whole or not at all.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::NamedTempFile;

/// Replaces a file in one step: a reader sees the old bytes or the new ones. `mode` is its permissions.
///
/// # Errors
/// The file cannot be written, or its folder does not exist.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    staged(path, bytes, mode)?.persist(path)?;
    sync_name(path)
}

/// [`replace`] with what a function writes.
///
/// # Errors
/// The function fails, the file cannot be written, or its folder does not exist.
pub(crate) fn replace_with(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> io::Result<()> {
    let buffered = |file: &mut File| {
        let mut file = BufWriter::new(file);
        write(&mut file)?;
        file.flush()
    };
    stage(path, buffered, mode)?.persist(path)?;
    sync_name(path)
}

/// [`replace`] with the bytes of another file.
///
/// # Errors
/// A file cannot be read or written, or the folder of `path` does not exist.
pub(crate) fn copy(source: &Path, path: &Path, mode: u32) -> io::Result<()> {
    let mut source = File::open(source)?;
    stage(path, |file| io::copy(&mut source, file).map(drop), mode)?.persist(path)?;
    sync_name(path)
}

/// Writes a file under a hidden name in the same folder. It is deleted unless it is persisted.
///
/// # Errors
/// The file cannot be written, or its folder does not exist.
pub(crate) fn staged(path: &Path, bytes: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    stage(path, |file| file.write_all(bytes), mode)
}

fn stage(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
    mode: u32,
) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new_in(folder(path))?;
    write(file.as_file_mut())?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Writes the folder of a file to disk. Only then does the file's name survive a power cut.
///
/// # Errors
/// The folder cannot be written.
pub(crate) fn sync_name(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

/// Returns the folder of a file.
#[must_use]
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
