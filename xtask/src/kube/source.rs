//! Kubernetes' source package, made ready for Debian's Go.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::go;
use crate::phase;
use crate::setup::apt::source::download;

/// The version that this recipe builds.
pub(crate) const VERSION: &str = "1.20.2";
const PACKAGE: &str = "kubernetes";
/// A library of which the source has a version that corrupts memory with Go 1.18 and later: the API server ends after some
/// minutes with "unexpected fault address". Debian's package of it has the next version.
const REFLECT2: &str = "vendor/github.com/modern-go/reflect2";
const GOCODE: &str = "/usr/share/gocode/src/github.com/modern-go/reflect2";

/// Downloads and unpacks the source into the folder of a build.
pub(super) fn fetch(work: &Path) -> Result<()> {
    phase::measured(&format!("download of the source of Kubernetes {VERSION}"), || {
        let description = download(PACKAGE, is_wanted, work)?;
        unpack(&description, &go::source(work))
    })
    .with_context(|| {
        format!(
            "cannot get the source of Kubernetes {VERSION}: add Debian bookworm's main to apt's sources, name a folder with \
             its programs in FLANNEL_KUBERNETES, or leave these tests out (cargo xtask test --no-kube)"
        )
    })?;
    replace_reflect2(&go::source(work).join(REFLECT2))
}

/// Debian's version is `1.20.5+really1.20.2-1.1`.
fn is_wanted(version: &str) -> bool {
    let upstream = version.rsplit_once('-').map_or(version, |(upstream, _)| upstream);
    upstream.rsplit("+really").next() == Some(VERSION)
}

fn unpack(description: &Path, folder: &Path) -> Result<()> {
    let parent = folder.parent().unwrap_or(folder);
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let mut command = Command::new("dpkg-source");
    phase::execute(command.args(["--no-check", "--extract"]).args([description, folder]).env("LC_ALL", "C"))
}

fn replace_reflect2(folder: &Path) -> Result<()> {
    let replace = || {
        fs::remove_dir_all(folder)?;
        fs::create_dir(folder)?;
        for entry in fs::read_dir(GOCODE)? {
            let file = entry?.path();
            if let (true, Some(name)) = (file.is_file(), file.file_name()) {
                fs::copy(&file, folder.join(name))?;
            }
        }
        Ok::<_, std::io::Error>(())
    };
    replace().with_context(|| format!("cannot replace {} by {GOCODE}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upstream_version_is_what_counts() {
        assert!(is_wanted("1.20.5+really1.20.2-1.1+deb12u1"));
        assert!(is_wanted("1.20.2-1"));
        for other in ["1.20.5-1", "1.32.3+ds-2", "1.20.2.1-1", ""] {
            assert!(!is_wanted(other), "{other}");
        }
    }
}
