//! `cargo xtask vm`: runs tests on Debian's kernel, in a virtual machine.

mod initramfs;
mod kernel;
mod machine;
mod qemu;
mod root;
mod script;
mod suite;

use std::path::PathBuf;

use anyhow::{Context, Result};
use flannel_tests::interrupt;
use flannel_tests::tools::Part;

use crate::architecture::Architecture;
use crate::setup::apt::unpack::Unpacker;
use crate::workspace::{agent, cargo, target};
use crate::{dist, phase, setup};
use kernel::Kernel;
use machine::{Machine, Setup};
use qemu::Qemu;
use root::Root;
use script::{Task, Work};

/// The parts of the work whose tools it needs.
pub(crate) const NEEDS: [Part; 5] = [Part::Build, Part::Cluster, Part::Etcd, Part::Suite, Part::Vm];

/// What to run in the virtual machine.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Prove the released binary for this architecture, x86_64 or aarch64, in a cluster, if it is not this machine's
    #[arg(long, value_name = "NAME", value_parser = Architecture::named, conflicts_with = "filters")]
    arch: Option<&'static Architecture>,
    /// Run the tests with these in their names, instead of those that depend on the kernel
    filters: Vec<String>,
}

/// Installs what a virtual machine of this kind needs, builds, and runs the tests.
pub(crate) fn execute(args: &Args) -> Result<()> {
    let architecture = args.arch.map_or_else(Architecture::native, Ok)?;
    setup::ensure(&NEEDS)?;
    if !architecture.is_native() {
        setup::ensure(&dist::NEEDS)?;
        architecture.ensure_target()?;
    }
    run(&args.filters, &Parts::get(architecture)?)
}

/// What a virtual machine is made of.
pub(crate) struct Parts {
    architecture: &'static Architecture,
    qemu: Qemu,
    kernel: Kernel,
    root: Root,
    folder: PathBuf,
}

impl Parts {
    /// Finds or downloads them.
    pub(crate) fn get(architecture: &'static Architecture) -> Result<Self> {
        Self::find(architecture).with_context(|| {
            format!(
                "cannot get the virtual machine for tests on Debian's kernel for {}: add a mirror of Debian to apt's \
                 sources, or leave these tests out (cargo xtask test --no-vm)",
                architecture.debian
            )
        })
    }

    fn find(architecture: &'static Architecture) -> Result<Self> {
        let folder = target()?.join("vm").join(architecture.name);
        let native = Unpacker::native();
        let unpacker = match architecture.is_native() {
            true => Unpacker::native(),
            false => Unpacker::foreign(architecture.debian, &folder.join("apt"))?,
        };
        Ok(Self {
            architecture,
            qemu: Qemu::get(architecture, &native, &folder)?,
            kernel: Kernel::get(architecture, &unpacker, &folder)?,
            root: Root::get(architecture, &unpacker, &folder)?,
            folder,
        })
    }
}

/// Builds on this machine and runs in the virtual one: tests, or for another architecture a cluster of the released
/// binary. The virtual machine reads this machine's files and keeps its changes in memory.
pub(crate) fn run(filters: &[String], parts: &Parts) -> Result<()> {
    let Parts { architecture, qemu, kernel, root, folder } = parts;
    let (agent, work) = if architecture.is_native() {
        phase::run("build of the agent", &mut cargo(["build", "--package", "flannel-agent"]))?;
        let program = suite::build()?;
        let filters = suite::select(&program, filters)?;
        (agent()?, Work::Suite { program, filters })
    } else {
        (dist::build(architecture)?, Work::Proof { program: build_chores(architecture)? })
    };
    let task = Task { agent: &agent, work: &work, architecture: architecture.debian, kernel, root };
    let script = script::write(&task)?;
    let initramfs = initramfs::write(folder, kernel, &root.busybox()?, &script)?;
    let (shares, log) = (root.shares(), folder.join("kernel.log"));
    let emulation = &architecture.emulation;
    let setup = Setup { emulation, kernel, initramfs: &initramfs, shares: &shares, log: &log };
    interrupt::catch()?;
    phase::measured(&format!("tests on Linux {} for {}", kernel.release, architecture.debian), || {
        Machine::boot(qemu.command(), &setup)?.watch()
    })
}

/// Builds the chores for another architecture. They are static, and need no libraries there.
fn build_chores(architecture: &Architecture) -> Result<PathBuf> {
    let mut command = cargo(["build", "--package", "xtask"]);
    phase::run(&format!("build of the chores for {}", architecture.name), architecture.select(&mut command))?;
    Ok(target()?.join(architecture.target).join("debug/xtask"))
}
