//! Debian's Go, as Kubernetes is built with it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The newest Go that compiles this version of Kubernetes and its libraries without modules.
const ROOT: &str = "/usr/lib/go-1.19";
/// The place of Kubernetes below `GOPATH`.
pub(super) const PACKAGE: &str = "k8s.io/kubernetes";

/// Returns what `go version` prints.
pub(super) fn version() -> Result<String> {
    let output = Command::new(format!("{ROOT}/bin/go")).arg("version").output().context("cannot run Go")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Returns a command of Go for the source in the folder of a build.
pub(super) fn command<const N: usize>(work: &Path, arguments: [&str; N]) -> Command {
    let mut command = prepare(work, format!("{ROOT}/bin/go"));
    command.args(arguments);
    command
}

/// Returns a command in Kubernetes' source with Go's settings. Go's output and cache stay in the folder of the build.
pub(super) fn prepare(work: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(source(work)).env("GOPATH", work.join("gopath")).env("GOCACHE", work.join("cache"));
    command.env("GOROOT", ROOT).env("GOTOOLCHAIN", "local").env("GOTMPDIR", work);
    // Static programs from the libraries in the source. Nothing is downloaded.
    command.env("CGO_ENABLED", "0").env("GO111MODULE", "off");
    for name in ["GOFLAGS", "GOOS", "GOARCH", "GOAMD64", "GOEXPERIMENT"] {
        command.env_remove(name);
    }
    command
}

/// Returns the folder of the source in the folder of a build.
pub(super) fn source(work: &Path) -> PathBuf {
    work.join("gopath/src").join(PACKAGE)
}
