//! Where the files of a release are.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

const VARIABLE: &str = "FLANNEL_PACKAGE";

/// Returns the archive of the image for an architecture, as rustc names it, in `dist/`.
pub fn image(architecture: &str) -> Result<PathBuf> {
    let name = format!("flannel-agent-{}-image-{architecture}.tar", env!("CARGO_PKG_VERSION"));
    released(&name)
}

/// Returns a file of the release, in `dist/`.
pub fn released(name: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("dist").join(name);
    let found = path.is_file().then_some(&path);
    found.cloned().with_context(|| format!("{} is not there: cargo xtask dist makes it", path.display()))
}

/// `$FLANNEL_PACKAGE`, or the one in `dist/`.
pub fn package() -> Result<PathBuf> {
    if let Some(path) = env::var_os(VARIABLE).map(PathBuf::from) {
        ensure!(path.is_file(), "{VARIABLE} is {}, where no file is", path.display());
        return Ok(path);
    }
    package_for(env::consts::ARCH)
}

/// Returns the package for an architecture, as rustc names it, in `dist/`.
pub fn package_for(architecture: &str) -> Result<PathBuf> {
    let debian = if architecture == "aarch64" { "arm64" } else { "amd64" };
    released(&format!("flannel-agent_{}_{debian}.deb", env!("CARGO_PKG_VERSION")))
}
