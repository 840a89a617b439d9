//! `cargo xtask dist`: makes the files of a release.

mod binary;
mod manifests;
mod package;
pub(crate) mod share;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use flannel_tests::tools::Part;

use crate::architecture::{self, Architecture};
use crate::image::{self, Agent, Compression};
use crate::workspace::root;
use crate::{phase, setup};
pub(crate) use binary::build;

/// The parts of the work whose tools it needs.
pub(crate) const NEEDS: [Part; 3] = [Part::Build, Part::Cross, Part::Release];
/// The version of everything in the workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");
const CHECKSUMS: &str = "SHA256SUMS";

/// What to build.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Build for this architecture only, x86_64 or aarch64
    #[arg(long, value_name = "NAME", value_parser = Architecture::named)]
    arch: Option<&'static Architecture>,
}

/// Builds for each architecture, then puts everything into `dist/`, which it empties before. Images get the newest
/// packages.
pub(crate) fn run(args: &Args) -> Result<()> {
    let architectures = args.arch.map_or_else(|| architecture::ALL.iter().collect(), |arch| vec![arch]);
    setup::ensure(&NEEDS)?;
    for architecture in &architectures {
        architecture.ensure_target()?;
    }
    let mut binaries = Vec::new();
    for architecture in architectures {
        binaries.push((architecture, build(architecture)?));
    }
    let folder = empty_folder()?;
    for (architecture, binary) in &binaries {
        let share = share::write(binary)?;
        package::write(architecture, &folder)?;
        let name = format!("flannel-agent-{VERSION}-{}", architecture.name);
        fs::copy(binary, folder.join(&name)).with_context(|| format!("cannot write {name}"))?;
        image::forget_packages(architecture)?;
        let agent = Agent { binary, share: &share };
        image::make(architecture, agent, Compression::Gzip, &folder.join(image::file_name(architecture)))?;
    }
    manifests::write(&folder)?;
    write_checksums(&folder)?;
    list(&folder)
}

fn empty_folder() -> Result<PathBuf> {
    let folder = root().join("dist");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// Writes them as `sha256sum --check` reads them.
fn write_checksums(folder: &Path) -> Result<()> {
    let names = names(folder)?;
    let checksums = File::create(folder.join(CHECKSUMS)).context("cannot write the checksums")?;
    phase::execute(Command::new("sha256sum").arg("--").args(names).current_dir(folder).stdout(checksums))
}

fn list(folder: &Path) -> Result<()> {
    let mut text = format!("{} has", folder.display());
    for name in names(folder)? {
        let bytes = fs::metadata(folder.join(&name)).with_context(|| format!("cannot look at {name}"))?.len();
        text += &format!("\n  {:8.2} MB  {name}", bytes as f64 / 1e6);
    }
    phase::note(&text);
    Ok(())
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}
