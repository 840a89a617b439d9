//! `cargo xtask vm`: the tests on Debian's kernel, in a virtual machine.

mod initramfs;
mod kernel;
mod machine;
mod qemu;
mod script;
mod suite;

use std::path::Path;

use anyhow::{Context, Result, bail};
use flannel_tests::interrupt;

use crate::phase;
use crate::workspace::{cargo, target};
use kernel::Kernel;
use machine::Machine;
use qemu::Qemu;

/// What to run in the virtual machine.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Run the tests with these in their names, instead of those that depend on the kernel
    filters: Vec<String>,
}

/// Builds here and runs there: the virtual machine sees this machine's files, and nothing of what it does to them stays.
pub(crate) fn run(args: &Args) -> Result<()> {
    let folder = target()?.join("vm");
    let (qemu, kernel) = get(&folder)?;
    phase::run("build of the agent", &mut cargo(["build", "--package", "flannel-agent"]))?;
    let suite = suite::build()?;
    let filters = suite::select(&suite, &args.filters)?;
    let script = script::write(&suite, &kernel, &filters)?;
    let initramfs = initramfs::write(&folder, &kernel, &script)?;
    interrupt::catch()?;
    phase::measured(&format!("tests on Linux {}", kernel.release), || {
        Machine::boot(qemu.command(), &kernel, &initramfs, &folder.join("kernel.log"))?.watch()
    })
}

/// Finds or downloads what it takes.
fn get(folder: &Path) -> Result<(Qemu, Kernel)> {
    if !cfg!(target_arch = "x86_64") {
        bail!(
            "`cargo xtask vm` knows Debian's kernel for x86-64 only: leave it out (cargo xtask test --no-vm)"
        );
    }
    let parts = Qemu::get(folder).and_then(|qemu| Ok((qemu, Kernel::get(folder)?)));
    parts.context(
        "the virtual machine cannot be had: add a mirror of Debian to apt's sources, or leave it out \
         (cargo xtask test --no-vm)",
    )
}
