//! Images of containers, made without Docker: files in a layer, and the archive that `docker save` would write.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fmt, fs};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::binaries::Binaries;
use crate::process::{LIMIT, finish};
use crate::tools::find_program;

/// The image of the process that holds a pod's namespaces.
const PAUSE: &str = "test-bed/pause:1";
/// The image of the tests' pods: a shell, a web server that says who and where it is, and `wget`.
pub const BUSYBOX: &str = "test-bed/busybox:1";
/// Answers with the pod's name and the client's address.
const WHO: &[u8] =
    b"#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n%s %s\\n' \"$(hostname)\" \"$REMOTE_ADDR\"\n";

/// The files of an image.
pub struct Layer {
    tar: Builder<Vec<u8>>,
    folders: BTreeSet<PathBuf>,
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer").field("folders", &self.folders).finish_non_exhaustive()
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self { tar: Builder::new(Vec::new()), folders: BTreeSet::new() }
    }
}

impl Layer {
    /// Adds a file. Paths are absolute.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.parents(path)?;
        let mut header = header(EntryType::Regular, mode);
        header.set_size(content.len() as u64);
        Ok(self.tar.append_data(&mut header, relative(path), content)?)
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, to: &str) -> Result<()> {
        self.parents(path)?;
        Ok(self.tar.append_link(&mut header(EntryType::Symlink, 0o777), relative(path), to)?)
    }

    /// Adds a folder.
    pub fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        self.parents(path)?;
        if self.folders.insert(relative(path).to_owned()) {
            self.tar.append_data(&mut header(EntryType::Directory, mode), relative(path), &[][..])?;
        }
        Ok(())
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        match Path::new(path).parent().and_then(Path::to_str) {
            Some(parent) if !relative(parent).as_os_str().is_empty() => self.folder(parent, 0o755),
            _ => Ok(()),
        }
    }

    /// Packs it as an image of this name and configuration (the field `config` of an image's configuration).
    pub fn into_archive(self, name: &str, config: &Value) -> Result<Vec<u8>> {
        let layer = self.tar.into_inner()?;
        let digest = hex(&layer);
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        });
        let config = serde_json::to_vec(&config)?;
        let (config_file, layer_file) = (format!("{}.json", hex(&config)), format!("{digest}/layer.tar"));
        let manifest = json!([{"Config": config_file, "RepoTags": [name], "Layers": [layer_file]}]);
        let mut archive = Self::default();
        archive.file(&config_file, 0o644, &config)?;
        archive.file(&layer_file, 0o644, &layer)?;
        archive.file("manifest.json", 0o644, &serde_json::to_vec(&manifest)?)?;
        Ok(archive.tar.into_inner()?)
    }
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header
}

fn relative(path: &str) -> &Path {
    Path::new(path.trim_start_matches('/'))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns this machine's architecture, as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Writes the images that every cluster of the test bed needs into a folder.
pub(super) fn test_bed(folder: &Path, binaries: &Binaries) -> Result<Vec<PathBuf>> {
    let images = [("pause.tar", pause(binaries)?), ("busybox.tar", busybox()?)];
    let written = images.into_iter().map(|(name, archive)| {
        let path = folder.join(name);
        fs::write(&path, archive).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    });
    written.collect()
}

fn pause(binaries: &Binaries) -> Result<Vec<u8>> {
    let mut layer = Layer::default();
    layer.file("/pause", 0o755, &read(&binaries.path("pause"))?)?;
    layer.into_archive(PAUSE, &json!({"Entrypoint": ["/pause"], "User": "65535:65535"}))
}

fn busybox() -> Result<Vec<u8>> {
    let busybox = find_program("busybox").context("busybox is not installed")?;
    let applets = finish(Command::new(&busybox).arg("--list"), "", LIMIT)?;
    let mut layer = Layer::default();
    layer.file("/bin/busybox", 0o755, &read(&busybox)?)?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        layer.link(&format!("/bin/{applet}"), "busybox")?;
    }
    layer.file("/www/cgi-bin/who", 0o755, WHO)?;
    layer.file("/etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n")?;
    layer.folder("/tmp", 0o1777)?;
    for folder in ["/proc", "/sys", "/dev"] {
        layer.folder(folder, 0o755)?;
    }
    layer.into_archive(BUSYBOX, &json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("read {}", file.display()))
}
