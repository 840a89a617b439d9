//! qemu: the installed one, or Debian's, unpacked in cargo's folder.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use flannel_tests::tools::find_program;

use crate::architecture::Architecture;
use crate::phase;
use crate::setup::apt::unpack::Unpacker;

/// The emulator.
pub(super) struct Qemu {
    program: String,
    /// Where it is unpacked. None if it is installed.
    root: Option<PathBuf>,
}

impl Qemu {
    /// Returns the one that is installed or was unpacked in the folder, or unpacks Debian's.
    pub(super) fn get(architecture: &Architecture, unpacker: &Unpacker, folder: &Path) -> Result<Self> {
        let program = format!("qemu-system-{}", architecture.name);
        if find_program(&program).is_some() {
            return Ok(Self { program, root: None });
        }
        let root = folder.join("qemu");
        if !root.exists() {
            phase::measured(&format!("download of {program}"), || {
                unpacker.unpack(&unpacker.with_dependencies(&[architecture.emulation.qemu])?, &root)
            })?;
        }
        Ok(Self { program, root: Some(root) })
    }

    /// Returns the command that runs it. It finds its firmware and modules from its own path.
    pub(super) fn command(&self) -> Command {
        let Some(root) = &self.root else { return Command::new(&self.program) };
        let mut command = Command::new(root.join("usr/bin").join(&self.program));
        // Debian's folder of libraries on this machine.
        command.env("LD_LIBRARY_PATH", root.join(format!("usr/lib/{}-linux-gnu", env::consts::ARCH)));
        command
    }
}
