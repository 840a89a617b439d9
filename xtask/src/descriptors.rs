//! `cargo xtask descriptors`: what `xtask/protoc/protoc` answers etcd-client's build script with.
//!
//! To be run when etcd-client's version changes. Builds need no protoc because the descriptors are checked in. They
//! hold the names and numbers of etcd's interface; comments are left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use flannel_tests::tools::Part;
use serde_json::Value;

use crate::workspace::{cargo, root};
use crate::{phase, setup};

/// The one package whose build script runs protoc.
const CLIENT: &str = "etcd-client";

/// Compiles the interface of the pinned version, and removes the descriptors of earlier ones.
pub(crate) fn run() -> Result<()> {
    setup::ensure(&[Part::Descriptors])?;
    let Client { version, folder } = Client::find()?;
    let stale = answers()?;
    let answer = path(&version);
    let sources = folder.join("proto");
    let mut protoc = Command::new("protoc");
    protoc.arg("-o").arg(&answer).arg("-I").arg(&sources).args(interfaces(&sources.join("etcd"))?);
    phase::run(&format!("descriptors of {CLIENT} {version}"), &mut protoc)?;
    for file in stale.into_iter().filter(|file| *file != answer) {
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    Ok(())
}

/// The pinned version, and where cargo has its sources.
struct Client {
    version: String,
    folder: PathBuf,
}

impl Client {
    fn find() -> Result<Self> {
        let output = cargo(["metadata", "--format-version", "1"]).output().context("cannot run cargo")?;
        let metadata: Value = serde_json::from_slice(&output.stdout).context("cannot read cargo metadata")?;
        let mut packages = metadata["packages"].as_array().into_iter().flatten();
        let client = packages.find(|package| package["name"] == CLIENT);
        let field = |name: &str| client.and_then(|client| client[name].as_str()).map(str::to_owned);
        let manifest = PathBuf::from(field("manifest_path").context("no package etcd-client")?);
        Ok(Self { version: field("version").unwrap_or_default(), folder: manifest.with_file_name("") })
    }
}

fn folder() -> PathBuf {
    root().join("xtask/protoc")
}

fn path(version: &str) -> PathBuf {
    folder().join(format!("{CLIENT}-{version}.pb"))
}

/// Returns the descriptor sets that are there.
fn answers() -> Result<Vec<PathBuf>> {
    files(&folder(), "pb")
}

/// Returns the interface files in the folder and below it.
fn interfaces(folder: &Path) -> Result<Vec<PathBuf>> {
    files(folder, "proto")
}

fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, extension)?);
        } else if path.extension().is_some_and(|name| name == extension) {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_descriptors_for_the_pinned_client_and_no_others() {
        let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
        let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{CLIENT}\""));
        let version = lines.nth(1).and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
        assert_eq!(answers().unwrap(), [path(version.unwrap())], "run `cargo xtask descriptors`");
    }

    #[test]
    fn other_requests_are_refused_with_a_way_out() {
        let run = |name: &str, version: &str, arguments: &[&str]| {
            let mut protoc = Command::new(folder().join("protoc"));
            protoc.args(arguments).env("CARGO_PKG_NAME", name).env("CARGO_PKG_VERSION", version);
            let output = protoc.output().unwrap();
            (output.status.success(), String::from_utf8(output.stderr).unwrap())
        };
        let pinned = answers().unwrap().remove(0);
        let version = pinned.file_stem().unwrap().to_str().unwrap().strip_prefix("etcd-client-").unwrap();
        let written = tempfile::NamedTempFile::new().unwrap();
        let output = written.path().to_str().unwrap();
        assert!(run(CLIENT, version, &["--include_imports", "-o", output, "-I", "proto", "rpc.proto"]).0);
        assert_eq!(fs::read(written.path()).unwrap(), fs::read(&pinned).unwrap());
        for (name, version, arguments) in [
            (CLIENT, "0.0.0", ["-o", output]),
            ("another", version, ["-o", output]),
            (CLIENT, version, ["--version", ""]),
        ] {
            let (done, error) = run(name, version, &arguments);
            assert!(!done && error.contains("PROTOC"), "{error}");
        }
    }
}
