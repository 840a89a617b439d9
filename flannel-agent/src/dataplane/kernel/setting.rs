//! A kernel setting that is read every second. Opening its file takes several times as long as reading it.

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// A number in /proc/sys.
#[derive(Debug)]
pub(super) struct Setting {
    path: PathBuf,
    /// Open since it was read first.
    file: Option<File>,
}

impl Setting {
    /// Opens nothing yet.
    pub(super) fn new(folder: &Path, name: &str) -> Self {
        Self { path: folder.join(name), file: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the last part of its name.
    pub(super) fn name(&self) -> impl Display {
        self.path.file_name().unwrap_or_default().display()
    }

    /// Returns its value.
    ///
    /// # Errors
    /// The kernel does not have it, or it cannot be read.
    pub(super) fn read(&mut self) -> io::Result<u32> {
        // The file of a module that was unloaded has an error for ever.
        if let Some(Ok(value)) = self.file.as_ref().map(number) {
            return Ok(value);
        }
        self.file = None;
        number(self.file.insert(File::open(&self.path)?))
    }
}

/// Reads a file that consists of a number.
fn number(file: &File) -> io::Result<u32> {
    let mut text = [0; 16];
    let length = file.read_at(&mut text, 0)?;
    let text = str::from_utf8(&text[..length]).map_err(io::Error::other)?;
    text.trim().parse().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_present_value_is_read_also_after_the_file_was_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("setting");
        let mut setting = Setting::new(folder.path(), "setting");
        assert_eq!(setting.read().unwrap_err().kind(), io::ErrorKind::NotFound);
        for value in [1, 432_000, 0] {
            fs::write(&path, format!("{value}\n")).unwrap();
            assert_eq!(setting.read().unwrap(), value);
        }
        fs::write(&path, "").unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(setting.read().unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&path, "7\n").unwrap();
        assert_eq!(setting.read().unwrap(), 7);
    }
}
