//! The containers' image. It has busybox from this machine only, so that no registry is needed.

use std::path::Path;
use std::process::Command;
use std::{fs, str};

use anyhow::{Context as _, Result};

use crate::process::{LIMIT, finish};
use crate::tools::find_program;

/// Name of the image.
pub(super) const IMAGE: &str = "busybox";

#[derive(Debug)]
pub(super) struct Image {
    busybox: String,
    archive: Vec<u8>,
}

impl Image {
    /// Packs busybox, and its libraries if it is not static, under the paths that they have here.
    pub(super) fn make(dir: &Path) -> Result<Self> {
        let busybox = find_program("busybox").context("busybox is not installed")?;
        let busybox = busybox.to_str().context("the path of busybox is not UTF-8")?.to_owned();
        // ldd fails for a static program, which needs no libraries.
        let needed = finish(Command::new("ldd").arg(&busybox), "", LIMIT).unwrap_or_default();
        let libraries = needed.split_whitespace().filter(|word| word.starts_with('/'));
        let file = dir.join("image.tar");
        let mut tar = Command::new("tar");
        tar.args(["--create", "--dereference", "--file"]).arg(&file).arg(&busybox).args(libraries);
        finish(&mut tar, "", LIMIT)?;
        let archive = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(Self { busybox, archive })
    }

    /// Returns the path of busybox in the image.
    pub(super) fn busybox(&self) -> &str {
        &self.busybox
    }

    pub(super) fn archive(&self) -> &[u8] {
        &self.archive
    }
}
