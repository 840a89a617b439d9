//! The files of an image, unpacked by tar and shown by readelf.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use flannel_tests::process::{LIMIT, finish};
use serde_json::Value;
use tempfile::TempDir;

/// The layers of an image in one folder, which goes when this is dropped.
pub(super) struct Files {
    folder: TempDir,
    /// The image's configuration.
    pub(super) config: Value,
}

/// A program or a library.
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) machine: String,
    pub(super) loader: Option<String>,
    pub(super) libraries: Vec<String>,
}

impl Files {
    pub(super) fn unpack(archive: &Path) -> Result<Self> {
        let (image, folder) = (TempDir::new()?, TempDir::new()?);
        unpack(archive, image.path())?;
        let manifest = json(&image.path().join("manifest.json"))?;
        let path =
            |value: &Value| Ok::<_, anyhow::Error>(image.path().join(value.as_str().context("a path")?));
        for layer in manifest[0]["Layers"].as_array().context("the image has layers")? {
            unpack(&path(layer)?, folder.path())?;
        }
        let config = json(&path(&manifest[0]["Config"])?)?;
        Ok(Self { folder, config })
    }

    /// Returns where a file of the image is now.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns all programs and libraries.
    pub(super) fn programs(&self) -> Result<Vec<Program>> {
        let mut programs = Vec::new();
        for path in files_below(self.folder.path())? {
            if fs::read(&path)?.starts_with(b"\x7fELF") {
                programs.push(Program::read(path)?);
            }
        }
        Ok(programs)
    }
}

impl Program {
    fn read(path: PathBuf) -> Result<Self> {
        let mut readelf = Command::new("readelf");
        readelf.args(["--file-header", "--program-headers", "--dynamic", "--wide"]);
        let shown = finish(readelf.env("LC_ALL", "C").arg(&path), "", LIMIT)?;
        let between = |line: &str, start: &str, end: char| {
            line.split_once(start)?.1.split_once(end).map(|(value, _)| value.to_owned())
        };
        let machine = shown.lines().find_map(|line| line.trim().strip_prefix("Machine:"));
        Ok(Self {
            machine: machine.context("readelf names the machine")?.trim().to_owned(),
            loader: shown.lines().find_map(|line| between(line, "interpreter: ", ']')),
            libraries: shown.lines().filter_map(|line| between(line, "Shared library: [", ']')).collect(),
            path,
        })
    }
}

/// Returns what is in the files of a folder and of those in it, by their paths in it.
pub(super) fn contents(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let files = files_below(folder)?.into_iter();
    files.map(|file| Ok((file.strip_prefix(folder)?.to_owned(), fs::read(&file)?))).collect()
}

/// Returns the files of a folder and of those in it. No links.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            let kind = fs::symlink_metadata(&path)?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                files.push(path);
            }
        }
    }
    Ok(files)
}

fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    finish(tar.arg("--extract").arg("--file").arg(archive).arg("--directory").arg(folder), "", LIMIT)
        .map(drop)
}

fn json(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))
}
