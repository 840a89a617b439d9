//! Rust toolchains: components from rustup, or Debian's compiler where rustup cannot download.

use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use flannel_tests::tools::{Part, Source, Tool};

use super::apt;
use crate::phase;
use crate::toolchain::{self, LINK, Toolchain};

/// What building and linting BPF programs takes: the sources of `core` (3 MB) and clippy.
pub(super) const FOR_BPF: [&str; 2] = ["rust-src", "clippy"];
/// Debian's packages of a Rust that comes with the sources of `core` (200 MB).
pub(super) const DEBIAN: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"];
/// The clippy of that Rust.
pub(super) const DEBIAN_CLIPPY: Tool = Tool {
    probe: "/usr/bin/clippy-driver",
    source: Source::Package("rust-web-clippy"),
    purpose: "lints the BPF programs",
    parts: &[Part::Lint],
};
/// The sysroot of Debian's compiler.
const DEBIAN_ROOT: &str = "/usr";
/// rustup retries for minutes where packets to its servers are dropped.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns whether the toolchain can lint the BPF programs.
pub(super) fn has_clippy(toolchain: &Toolchain) -> bool {
    toolchain.root.join("bin/clippy-driver").is_file()
}

/// Returns whether it is the compiler of Debian's packages.
pub(super) fn is_debians(toolchain: &Toolchain) -> bool {
    toolchain.root.canonicalize().is_ok_and(|root| root == Path::new(DEBIAN_ROOT))
}

/// Adds a component to the named toolchain, or to the active one.
pub(super) fn add_component(name: &str, toolchain: Option<&str>) -> Result<()> {
    rustup(&component_add(&[name], toolchain))
}

/// Adds the standard library for a target to the active toolchain.
pub(crate) fn add_target(name: &str) -> Result<()> {
    rustup(&["target", "add", name])
}

/// Adds the sources of `core` to the active toolchain. Returns false if apt has to give a whole toolchain instead.
///
/// rustup comes first because it changes less: 3 MB beside a compiler that is already here, on any distribution.
/// Debian's packages are for machines that reach a mirror of Debian but not rustup's servers. A nightly toolchain is
/// used where there is one, never downloaded.
pub(super) fn add_sources() -> bool {
    match rustup(&component_add(&FOR_BPF, None)) {
        Ok(()) => toolchain::find().is_ok(),
        Err(error) => {
            let packages = DEBIAN.join(" ");
            phase::note(&format!("rustup cannot get it ({error:#}); asking apt for {packages}"));
            false
        }
    }
}

/// Makes Debian's compiler a toolchain of rustup, where aya-build looks for one.
pub(super) fn link_debians() -> Result<()> {
    phase::execute(Command::new("rustup").args(["toolchain", "link", LINK, DEBIAN_ROOT]))
}

/// Returns the shell command that adds components.
pub(super) fn shell(components: &[&str], toolchain: Option<&str>) -> String {
    format!("rustup {}", component_add(components, toolchain).join(" "))
}

/// Returns the shell command that installs and links Debian's compiler.
pub(super) fn debians_shell() -> String {
    let packages = DEBIAN.iter().copied().collect();
    format!("{} && rustup toolchain link {LINK} {DEBIAN_ROOT}", apt::shell(&packages))
}

fn component_add<'a>(components: &[&'a str], toolchain: Option<&'a str>) -> Vec<&'a str> {
    let toolchain = toolchain.map(|name| ["--toolchain", name]);
    let toolchain = toolchain.iter().flatten().copied();
    ["component", "add"].into_iter().chain(toolchain).chain(components.iter().copied()).collect()
}

fn rustup(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("rustup");
    command.args(arguments);
    phase::measured(&format!("rustup {}", arguments.join(" ")), || {
        let child = command.spawn().context("cannot run rustup (https://rustup.rs installs it)")?;
        wait(child, PATIENCE)
    })
}

fn wait(mut child: Child, patience: Duration) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < patience {
        if let Some(status) = child.try_wait()? {
            return if status.success() { Ok(()) } else { bail!("{status}") };
        }
        sleep(Duration::from_millis(50));
    }
    child.kill()?;
    child.wait()?;
    bail!("no success within {} s", patience.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_does_not_end_is_killed() {
        let sleeper = Command::new("sleep").arg("60").spawn().unwrap();
        let error = wait(sleeper, Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("no success within"));
        let failing = Command::new("false").spawn().unwrap();
        assert!(wait(failing, Duration::from_secs(10)).is_err());
    }
}
