//! Finds the tools that a chore needs. Installs what is missing, or says what is missing and how to get it.

pub(crate) mod apt;
mod crates;
mod gap;
mod linker;
mod lock;
mod probe;
mod python;
pub(crate) mod rust;
mod services;

use anyhow::{Result, anyhow, bail};
use flannel_tests::tools::{Part, Source, Tool};
use nix::unistd::geteuid;

use crate::phase;
use crate::toolchain::{self, Toolchain};
use gap::Gap;

/// Finds or installs what these parts of a chore need. Finding takes a tenth of a second and prints nothing.
pub(crate) fn ensure(parts: &[Part]) -> Result<()> {
    let gaps = probe::missing(parts);
    if gaps.is_empty() {
        return Ok(());
    }
    refuse_unless_able(&gaps)?;
    phase::note(&announcement(&gaps));
    fill(&gaps).map_err(|cause| {
        anyhow!("the set-up stopped: {cause:#}. {}", gap::message(&probe::missing(parts)))
    })?;
    let left = probe::missing(parts);
    if left.is_empty() { Ok(()) } else { bail!("still missing after the set-up. {}", gap::message(&left)) }
}

/// Says what is missing, the commands that would install it, and what they cost. Changes nothing.
pub(crate) fn describe(parts: &[Part]) {
    let gaps = probe::missing(parts);
    phase::note(&if gaps.is_empty() { "nothing is missing".to_owned() } else { announcement(&gaps) });
}

/// Returns the toolchain that builds the BPF programs.
pub(crate) fn bpf_toolchain() -> Result<Toolchain> {
    toolchain::find().map_err(|reasons| anyhow!("no toolchain can build the BPF programs: {reasons}"))
}

/// Fails before anything is installed if something would stay missing.
fn refuse_unless_able(gaps: &[Gap]) -> Result<()> {
    if gaps.iter().any(Gap::needs_root) && !geteuid().is_root() {
        bail!("tools are missing, and installing them needs root. {}", gap::message(gaps));
    }
    if gaps.iter().any(|gap| gap.package().is_some()) && !apt::exists() {
        bail!("tools are missing, and this system has no apt-get. {}", gap::message(gaps));
    }
    Ok(())
}

/// Returns what will be installed, why, by which commands, and what that changes on the machine.
fn announcement(gaps: &[Gap]) -> String {
    let packages = gap::packages(gaps);
    let mut text = format!("missing here:\n{}\nthe set-up runs:", gap::list(gaps));
    for command in gap::commands(gaps) {
        text += &format!("\n  {command}");
    }
    if let Some(cost) = apt::cost(&packages) {
        text += &format!("\napt: {cost}");
    }
    let units = services::masked_by(&packages);
    if !units.is_empty() {
        text += &format!("\nservices that these packages bring are kept off: {}", units.join(", "));
    }
    text
}

/// Fills the gaps. rustup's servers are tried first, apt gets what they cannot give, and builds come last.
fn fill(gaps: &[Gap]) -> Result<()> {
    let mut packages = gap::packages(gaps);
    let debians = !ask_rustup(gaps)?;
    if debians && !(apt::exists() && geteuid().is_root()) {
        bail!("only root can install packages, and only where there is apt");
    }
    if debians {
        packages.extend(rust::DEBIAN);
    }
    apt::install(&packages)?;
    if debians {
        rust::link_debians()?;
    }
    gaps.iter().try_for_each(build)
}

/// Gets components of Rust toolchains. Returns false if the one for BPF has to come from apt.
fn ask_rustup(gaps: &[Gap]) -> Result<bool> {
    for gap in gaps {
        match gap {
            Gap::Tool(Tool { source: Source::Component(name), .. }) => rust::add_component(name, None)?,
            Gap::Clippy(toolchain) => rust::add_component("clippy", Some(toolchain))?,
            _ => {}
        }
    }
    Ok(!gaps.iter().any(|gap| matches!(gap, Gap::Toolchain(_))) || rust::add_sources())
}

/// Fills a gap that neither rustup nor apt fills.
fn build(gap: &Gap) -> Result<()> {
    match gap {
        Gap::Tool(Tool { source: Source::Crate { name, version }, .. }) => crates::install(name, version),
        Gap::Tool(Tool { source: Source::Python { requirements }, .. }) => python::install(requirements),
        Gap::Linker => linker::install(),
        Gap::BpfFs => phase::execute(&mut gap::mount_bpffs()),
        Gap::Tool(_) | Gap::Clippy(_) | Gap::Toolchain(_) => Ok(()),
    }
}
