//! Builds the BPF programs into `OUT_DIR/flannel-ebpf` and `OUT_DIR/capture`, which the agent embeds.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, anyhow, bail};
use aya_build::{Package, Toolchain};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

#[allow(unreachable_pub, reason = "it is public in the test bed's library")]
#[path = "../tests/harness/tools/program.rs"]
mod program;
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

/// The package of the programs.
const NAME: &str = "flannel-ebpf";
/// The files that the agent embeds: the dataplane, and the filter of `monitor --pcap`.
const OBJECTS: [&str; 2] = [NAME, "capture"];
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../flannel-ebpf");
/// What the programs are made of besides their own folder, which aya-build watches.
const INPUTS: [&str; 3] = ["../flannel-common", "../Cargo.toml", "../Cargo.lock"];
/// Set to 1, it leaves the programs out: to check, lint or document the sources without tools for BPF.
const SKIP: &str = "AYA_BUILD_SKIP";

fn main() {
    println!("cargo::rerun-if-env-changed={SKIP}");
    let skip = env::var(SKIP).is_ok_and(|value| value == "1" || value.eq_ignore_ascii_case("true"));
    // `cargo::error` is one line on the user's screen; a failed `main` prints the script's whole output.
    if let Err(error) = if skip { stand_in() } else { build() } {
        println!("cargo::error={}", format!("{error:#}").replace('\n', " "));
    }
}

fn build() -> Result<()> {
    for input in INPUTS {
        println!("cargo::rerun-if-changed={input}");
    }
    println!("cargo::rerun-if-env-changed={}", toolchain::OVERRIDE);
    let chosen = choose()?;
    // An updated compiler builds the programs anew.
    println!("cargo::rerun-if-changed={}", chosen.root.join("bin/rustc").display());
    // aya-build makes a warning of every line that cargo prints; the compiler's own warnings stay.
    set("CARGO_TERM_QUIET", "true");
    if !chosen.nightly {
        set("RUSTC_BOOTSTRAP", "1");
    }
    // The programs read no registers of a processor, and are the same for each.
    set("CARGO_CFG_TARGET_ARCH", env::consts::ARCH);
    share_output()?;
    let package = Package { name: NAME, root_dir: PROGRAMS, ..Package::default() };
    aya_build::build_ebpf([package], Toolchain::Custom(&chosen.name))?;
    objects()?.iter().try_for_each(|object| strip(object))
}

/// Makes all builds of the agent keep the output for the BPF target in one folder, which `xtask` uses as well: the core library
/// takes most of a minute to compile. aya-build has a folder for each profile and architecture.
fn share_output() -> Result<()> {
    let out = out_folder()?;
    // Cargo marks the folder of its output, and those for other architectures in it, for tools that make backups.
    let target = out.ancestors().filter(|folder| folder.join("CACHEDIR.TAG").is_file()).last();
    let shared = target.context("OUT_DIR is not in cargo's folder")?.join("bpf");
    let own = out.join("aya-build/target");
    fs::create_dir_all(&shared).with_context(|| format!("cannot create {}", shared.display()))?;
    fs::create_dir_all(&own).with_context(|| format!("cannot create {}", own.display()))?;
    let link = own.join(NAME);
    if fs::read_link(&link).is_ok_and(|target| target == shared) {
        return Ok(());
    }
    // What an older version of this script left.
    if link.is_dir() && !link.is_symlink() {
        fs::remove_dir_all(&link).with_context(|| format!("cannot remove {}", link.display()))?;
    }
    symlink(&shared, &link).with_context(|| format!("cannot make {}", link.display()))
}

/// Removes DWARF, four fifths of the object. The kernel and `bpftool` read BTF, which bpf-linker has made of it.
fn strip(object: &Path) -> Result<()> {
    let linked = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    let mut builder = Builder::read(&*linked).context("bpf-linker's output is no ELF file")?;
    for section in &mut builder.sections {
        section.delete =
            [".debug_", ".rel.debug_"].iter().any(|name| section.name.starts_with(name.as_bytes()));
    }
    // LLVM keeps the sections' names among those of the symbols, `object` in a section of their own.
    let names = builder.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("cannot write the object without DWARF")?;
    fs::write(object, stripped).with_context(|| format!("cannot write {}", object.display()))
}

/// Writes empty objects, since the sources name the files.
fn stand_in() -> Result<()> {
    let write = |object: &PathBuf| {
        fs::write(object, []).with_context(|| format!("cannot write {}", object.display()))
    };
    objects()?.iter().try_for_each(write)
}

/// Returns the files that the agent embeds.
fn objects() -> Result<[PathBuf; 2]> {
    let folder = out_folder()?;
    Ok(OBJECTS.map(|name| folder.join(name)))
}

/// Returns the folder for what this script makes.
fn out_folder() -> Result<PathBuf> {
    env::var_os("OUT_DIR").map(PathBuf::from).context("cargo sets OUT_DIR")
}

/// Sets a variable of the cargo that aya-build runs.
fn set(name: &str, value: &str) {
    // SAFETY: this script has one thread; aya-build starts its own when the variables are set.
    unsafe { env::set_var(name, value) };
}

fn choose() -> Result<toolchain::Toolchain> {
    let chosen = toolchain::find().map_err(|reasons| {
        anyhow!("no toolchain can build the BPF programs ({reasons}): run `cargo xtask setup build`")
    })?;
    if program::find("bpf-linker").is_none() {
        bail!("bpf-linker, which links the BPF programs, is not installed: run `cargo xtask setup build`");
    }
    Ok(chosen)
}
