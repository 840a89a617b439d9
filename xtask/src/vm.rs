//! `cargo xtask vm`: the tests on Debian's kernel, in a virtual machine.

mod initramfs;
mod kernel;
mod machine;
mod qemu;
mod script;
mod suite;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use flannel_tests::interrupt;
use flannel_tests::tools::Part;

use crate::phase;
use crate::workspace::{cargo, target};
use kernel::Kernel;
use machine::Machine;
use qemu::Qemu;

/// The parts of the work whose tools it needs.
pub(crate) const NEEDS: [Part; 5] = [Part::Build, Part::Cluster, Part::Etcd, Part::Suite, Part::Vm];

/// What to run in the virtual machine.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Run the tests with these in their names, instead of those that depend on the kernel
    filters: Vec<String>,
}

/// What a virtual machine is made of.
pub(crate) struct Parts {
    qemu: Qemu,
    kernel: Kernel,
    folder: PathBuf,
}

impl Parts {
    /// Finds or downloads them.
    pub(crate) fn get() -> Result<Self> {
        ensure!(
            cfg!(target_arch = "x86_64"),
            "Debian's kernel is tested on x86-64 only: leave it out (cargo xtask test --no-vm)"
        );
        let folder = target()?.join("vm");
        let kernel = Kernel::get(&folder);
        let parts = kernel.and_then(|kernel| Ok(Self { qemu: Qemu::get(&folder)?, kernel, folder }));
        parts.context(
            "the virtual machine for tests on Debian's kernel cannot be had: add a mirror of Debian to apt's sources, or \
             leave them out (cargo xtask test --no-vm)",
        )
    }
}

/// Builds here and runs there: the virtual machine sees this machine's files, and nothing of what it does to them stays.
pub(crate) fn run(args: &Args, parts: &Parts) -> Result<()> {
    let Parts { qemu, kernel, folder } = parts;
    phase::run("build of the agent", &mut cargo(["build", "--package", "flannel-agent"]))?;
    let suite = suite::build()?;
    let filters = suite::select(&suite, &args.filters)?;
    let script = script::write(&suite, kernel, &filters)?;
    let initramfs = initramfs::write(folder, kernel, &script)?;
    interrupt::catch()?;
    phase::measured(&format!("tests on Linux {}", kernel.release), || {
        Machine::boot(qemu.command(), kernel, &initramfs, &folder.join("kernel.log"))?.watch()
    })
}
