//! `cargo xtask image`: makes the container image, without a base image, a daemon or a registry.

mod agent;
mod archive;
mod elf;
mod source;
mod system;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flannel_tests::tools::Part;

use crate::architecture::Architecture;
use crate::workspace::{agent as debug_agent, cargo, root};
use crate::{dist, phase, setup};
pub(crate) use agent::Agent;
use archive::Layer;
pub(crate) use archive::{Compression, gzip};
use archive::{NAME, VERSION};
use system::System;

/// The parts of the work whose tools it needs.
pub(crate) const NEEDS: [Part; 3] = dist::NEEDS;

/// What to make.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build for this architecture, x86_64 or aarch64. Default: this machine's
    #[arg(long, value_name = "NAME", value_parser = Architecture::named)]
    arch: Option<&'static Architecture>,
    /// Take the debug build of the agent, as tests do. It is built faster, and only for this machine's architecture
    #[arg(long, conflicts_with = "arch")]
    debug: bool,
    /// Write the image's files to this new folder, instead of an image to dist/, for deploy/Dockerfile
    #[arg(long, value_name = "FOLDER")]
    root: Option<PathBuf>,
}

/// Builds the agent and puts it into an image.
pub(crate) fn run(args: &Args) -> Result<()> {
    let architecture = args.arch.map_or_else(Architecture::native, Ok)?;
    let binary = build_agent(architecture, args.debug)?;
    let share = dist::share::write(&binary)?;
    let agent = Agent { binary: &binary, share: &share };
    if let Some(folder) = &args.root {
        layers(architecture, agent)?.iter().try_for_each(|layer| layer.unpack(folder))?;
        phase::note(&format!("{} has the files of the image", folder.display()));
        return Ok(());
    }
    let folder = root().join("dist");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let compression = if args.debug { Compression::None } else { Compression::Gzip };
    let path = folder.join(file_name(architecture));
    make(architecture, agent, compression, &path)?;
    let bytes = fs::metadata(&path).with_context(|| format!("cannot look at {}", path.display()))?.len();
    let import = format!("ctr -n k8s.io images import {0}, docker load -i {0}", path.display());
    phase::note(&format!("{NAME}:{VERSION} is in {:.1} MB; to import it: {import}", bytes as f64 / 1e6));
    Ok(())
}

/// Returns the name of the archive of an image.
pub(crate) fn file_name(architecture: &Architecture) -> String {
    format!("flannel-agent-{VERSION}-image-{}.tar", architecture.name)
}

/// Removes the packages that were downloaded for earlier images, so that the next has the newest.
pub(crate) fn forget_packages(architecture: &Architecture) -> Result<()> {
    system::forget(architecture)
}

/// Makes the image of an agent for the architecture and writes it to a file, which both
/// `ctr images import` and `docker load` read. The same files and the same packages make the same file.
pub(crate) fn make(
    architecture: &Architecture,
    agent: Agent,
    compression: Compression,
    path: &Path,
) -> Result<()> {
    phase::measured(&format!("image for {}", architecture.name), || {
        let layers = layers(architecture, agent)?;
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        archive::write(architecture, &layers, compression, file)
            .with_context(|| format!("cannot write {}", path.display()))
    })
}

/// Returns the layers of an image: the system's, which seldom changes, and the agent's on top.
fn layers(architecture: &Architecture, agent: Agent) -> Result<[Layer; 2]> {
    let system = System::get(architecture)?;
    Ok([
        Layer::new("iptables, nft and the libraries that the programs need", system.tree(agent.binary)?)?,
        Layer::new("flannel-agent, its other names, manual pages and completions", agent::tree(agent)?)?,
    ])
}

fn build_agent(architecture: &Architecture, debug: bool) -> Result<PathBuf> {
    if debug {
        setup::ensure(&[Part::Build])?;
        phase::run("build of the agent", &mut cargo(["build", "--package", "flannel-agent"]))?;
        return debug_agent();
    }
    setup::ensure(&NEEDS)?;
    architecture.ensure_target()?;
    dist::build(architecture)
}
