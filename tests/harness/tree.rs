//! The files of a container image's layer, and the tar archive of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// Files by their paths in the image, without the leading slash. Sorted, so that the archive is always the same.
#[derive(Debug, Default)]
pub struct Tree {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug)]
enum Entry {
    Folder,
    File { content: Vec<u8>, mode: u32 },
    Link(PathBuf),
}

impl Tree {
    /// Adds a program or a library.
    pub fn program(&mut self, path: impl AsRef<Path>, content: Vec<u8>) {
        self.add(path.as_ref(), Entry::File { content, mode: 0o755 });
    }

    /// Adds a file that is only read.
    pub fn file(&mut self, path: impl AsRef<Path>, content: impl Into<Vec<u8>>) {
        self.add(path.as_ref(), Entry::File { content: content.into(), mode: 0o644 });
    }

    /// Adds all files of a folder and of those in it, as files that are only read, below a path.
    pub fn contents(&mut self, path: impl AsRef<Path>, folder: &Path) -> Result<()> {
        for entry in folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))? {
            let (file, path) = entry.map(|entry| (entry.path(), path.as_ref().join(entry.file_name())))?;
            if file.is_dir() {
                self.contents(path, &file)?;
            } else {
                self.file(path, fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
            }
        }
        Ok(())
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: impl AsRef<Path>, target: impl Into<PathBuf>) {
        self.add(path.as_ref(), Entry::Link(target.into()));
    }

    /// Adds a folder. Those above a file need not be added.
    pub fn folder(&mut self, path: impl AsRef<Path>) {
        self.add(path.as_ref(), Entry::Folder);
    }

    /// Returns whether there is something at the path.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.entries.contains_key(path.as_ref())
    }

    fn add(&mut self, path: &Path, entry: Entry) {
        for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
            self.entries.entry(folder.to_owned()).or_insert(Entry::Folder);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Returns the archive: everything belongs to root and was changed at the epoch, so that it depends on nothing but the
    /// content.
    pub fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            append(&mut archive, path, entry)
                .with_context(|| format!("cannot put {} into the layer", path.display()))?;
        }
        archive.into_inner().context("cannot end the layer")
    }
}

/// Returns the SHA-256 of data in hexadecimal digits, by which images name their parts.
pub fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn append(archive: &mut Builder<Vec<u8>>, path: &Path, entry: &Entry) -> std::io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    match entry {
        Entry::Folder => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            archive.append_data(&mut header, path, std::io::empty())
        }
        Entry::File { content, mode } => {
            header.set_mode(*mode);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, content.as_slice())
        }
        Entry::Link(target) => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            archive.append_link(&mut header, path, target)
        }
    }
}
