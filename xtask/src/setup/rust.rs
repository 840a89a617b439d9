//! Toolchains: the host's components, and one that can build `core` for BPF.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::apt;
use super::gap::Gap;
use super::tools::DEBIAN_RUST;
use crate::phase;
use crate::toolchain::{self, LINK, Toolchain, program};

/// Where Debian's compiler has its sysroot.
const DEBIAN_ROOT: &str = "/usr";
/// rustup retries for minutes where packets to its servers are dropped; `core`'s sources are 3 MB.
const PATIENCE: Duration = Duration::from_secs(60);

/// Components that a minimal rustup profile leaves out: name, and the program that shows it is there.
const COMPONENTS: [(&str, &str); 2] = [("rustfmt", "rustfmt"), ("clippy", "clippy-driver")];

/// The components of the toolchain that runs this chore that are not there.
pub(crate) fn missing_components() -> impl Iterator<Item = &'static str> {
    let folder = env::var_os("CARGO").map(PathBuf::from).and_then(|cargo| Some(cargo.parent()?.to_owned()));
    let present = move |file: &str| match &folder {
        Some(folder) => folder.join(file).is_file(),
        None => program(file).is_some(),
    };
    COMPONENTS.into_iter().filter(move |(_, file)| !present(file)).map(|(name, _)| name)
}

/// Whether `cargo xtask lint` can look at the BPF programs with it.
pub(crate) fn has_clippy(toolchain: &Toolchain) -> bool {
    toolchain.root.join("bin/clippy-driver").is_file()
}

/// Whether it is the compiler that Debian's packages put there.
pub(crate) fn is_debians(toolchain: &Toolchain) -> bool {
    toolchain.root.canonicalize().is_ok_and(|root| root == Path::new(DEBIAN_ROOT))
}

/// Asks rustup for the components that are missing.
pub(crate) fn add_components(gaps: &[Gap]) -> Result<()> {
    for gap in gaps {
        if let Gap::Component { name, toolchain } = gap {
            rustup(&component_add(&[name], toolchain.as_deref()))?;
        }
    }
    Ok(())
}

/// rustup's arguments that add components to a toolchain: to the active one, or to the one named.
pub(crate) fn component_add<'a>(components: &[&'a str], toolchain: Option<&'a str>) -> Vec<&'a str> {
    let toolchain = toolchain.map(|name| ["--toolchain", name]);
    let toolchain = toolchain.iter().flatten().copied();
    ["component", "add"].into_iter().chain(toolchain).chain(components.iter().copied()).collect()
}

/// Gets the sources of `core` for the toolchain that runs this chore, and tells whether apt must give a
/// whole toolchain instead.
///
/// This order because it is the smaller change: 3 MB beside a compiler that is already here and that
/// the rest of the project is built with, on any distribution; no second Rust. Debian's packages
/// (200 MB) are for machines that reach a mirror of Debian but not rustup's servers. A nightly is used
/// where there is one, never downloaded.
pub(crate) fn add_sources(gaps: &[Gap]) -> bool {
    if !gaps.iter().any(|gap| matches!(gap, Gap::Toolchain(_))) {
        return false;
    }
    match rustup(&component_add(&["rust-src", "clippy"], None)) {
        Ok(()) => toolchain::find().is_err(),
        Err(error) => {
            phase::note(&format!(
                "rustup cannot get it ({error:#}); asking apt for {}",
                DEBIAN_RUST.join(" ")
            ));
            true
        }
    }
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

/// Makes Debian's compiler a toolchain of rustup, which is where aya-build looks for one.
pub(crate) fn link_debians() -> Result<()> {
    phase::execute(Command::new("rustup").args(["toolchain", "link", LINK, DEBIAN_ROOT]))
}

/// What the two above do, for a shell.
pub(crate) fn shell() -> String {
    let packages = DEBIAN_RUST.iter().copied().collect();
    format!("{} && rustup toolchain link {LINK} {DEBIAN_ROOT}", apt::shell(&packages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_do_not_end_are_ended() {
        let sleeper = Command::new("sleep").arg("60").spawn().unwrap();
        let error = wait(sleeper, Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("no success within"));
        let liar = Command::new("false").spawn().unwrap();
        assert!(wait(liar, Duration::from_secs(10)).is_err());
    }
}
