//! Images of containers, made without Docker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::binaries::Binaries;
use crate::process::{LIMIT, finish};
use crate::tools::find_program;
use crate::tree::{Tree, sha256};

/// The image of the process that holds a pod's namespaces.
const PAUSE: &str = "test-bed/pause:1";
/// The image of the tests' pods: a shell, a web server that says who and where it is, and `wget`.
pub const BUSYBOX: &str = "test-bed/busybox:1";
/// Answers with the pod's name and the client's address.
const WHO: &[u8] =
    b"#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n%s %s\\n' \"$(hostname)\" \"$REMOTE_ADDR\"\n";

/// Packs files as an image of this name and configuration (the field `config` of an image's configuration), in the form that
/// `docker save` writes.
fn pack(files: &Tree, name: &str, config: &Value) -> Result<Vec<u8>> {
    let layer = files.archive()?;
    let digest = sha256(&layer);
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let config = serde_json::to_vec(&config)?;
    let (config_file, layer_file) = (format!("{}.json", sha256(&config)), format!("{digest}/layer.tar"));
    let manifest = json!([{"Config": config_file, "RepoTags": [name], "Layers": [layer_file]}]);
    let mut archive = Tree::default();
    archive.file(&config_file, config);
    archive.file(&layer_file, layer);
    archive.file("manifest.json", serde_json::to_vec(&manifest)?);
    archive.archive()
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
    let mut files = Tree::default();
    files.program("pause", read(&binaries.path("pause"))?);
    pack(&files, PAUSE, &json!({"Entrypoint": ["/pause"], "User": "65535:65535"}))
}

fn busybox() -> Result<Vec<u8>> {
    let busybox = find_program("busybox").context("busybox is not installed")?;
    let applets = finish(Command::new(&busybox).arg("--list"), "", LIMIT)?;
    let mut files = Tree::default();
    files.program("bin/busybox", read(&busybox)?);
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        files.link(format!("bin/{applet}"), "busybox");
    }
    files.program("www/cgi-bin/who", WHO.to_vec());
    files.file("etc/passwd", "root:x:0:0:root:/:/bin/sh\n");
    for folder in ["tmp", "proc", "sys", "dev"] {
        files.folder(folder);
    }
    pack(&files, BUSYBOX, &json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("read {}", file.display()))
}
