//! Finds the tools that the chores need and installs what is missing, or says all of it at once.

pub(crate) mod apt;
mod gap;
mod linker;
mod lock;
mod rust;
mod services;
mod tools;

use anyhow::{Result, anyhow, bail};
use nix::unistd::geteuid;

use crate::phase;
use crate::toolchain::{self, Toolchain};
use gap::Gap;

/// Everything is there when this returns. Looking takes a tenth of a second; only gaps are mentioned.
pub(crate) fn ensure() -> Result<Toolchain> {
    close(&gap::look)
}

/// The same, and what a virtual machine takes.
pub(crate) fn ensure_with_vm() -> Result<Toolchain> {
    close(&|| gap::look().into_iter().chain(gap::look_for_vm()).collect())
}

/// The same for a cluster that keeps its leases elsewhere.
pub(crate) fn ensure_without_etcd() -> Result<Toolchain> {
    close(&|| gap::look().into_iter().filter(|gap| !gap.is_etcd()).collect())
}

fn close(look: &dyn Fn() -> Vec<Gap>) -> Result<Toolchain> {
    let gaps = look();
    if !gaps.is_empty() {
        refuse_unless_able(&gaps)?;
        phase::note(&format!("missing here:\n{}", gap::list(&gaps)));
        fill(&gaps).map_err(|cause| anyhow!("the set-up stopped: {cause:#}. {}", gap::message(&look())))?;
        let left = look();
        if !left.is_empty() {
            bail!("still missing after the set-up. {}", gap::message(&left));
        }
    }
    toolchain::find().map_err(|reasons| anyhow!("no toolchain can build the BPF programs: {reasons}"))
}

/// Installs nothing where something would stay missing.
fn refuse_unless_able(gaps: &[Gap]) -> Result<()> {
    if gaps.iter().any(Gap::needs_root) && !geteuid().is_root() {
        bail!("tools are missing, and installing them needs root. {}", gap::message(gaps));
    }
    if gaps.iter().any(Gap::is_package) && !apt::exists() {
        bail!("tools are missing, and this system has no apt-get. {}", gap::message(gaps));
    }
    Ok(())
}

/// Rust's own servers are asked first: what they cannot give is added to what apt is asked for.
fn fill(gaps: &[Gap]) -> Result<()> {
    rust::add_components(gaps)?;
    let from_apt = rust::add_sources(gaps);
    if from_apt && !(apt::exists() && geteuid().is_root()) {
        bail!("only root can install packages, and only where there is apt");
    }
    apt::install(&gap::packages(gaps, from_apt))?;
    if from_apt {
        rust::link_debians()?;
    }
    if gaps.contains(&Gap::Linker) {
        linker::install()?;
    }
    if gaps.contains(&Gap::BpfFs) {
        phase::execute(&mut gap::mount_bpffs())?;
    }
    Ok(())
}
