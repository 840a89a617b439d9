//! qemu: the machine's own, else Debian's, unpacked in cargo's folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use flannel_tests::tools::find_program;

use crate::phase;
use crate::setup::apt;

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
/// Where Debian has libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The emulator.
pub(super) struct Qemu {
    /// Where it is unpacked; none if it is installed.
    root: Option<PathBuf>,
}

impl Qemu {
    /// The one that is installed or was unpacked in the folder; if there is none, Debian's.
    pub(super) fn get(folder: &Path) -> Result<Self> {
        if find_program(PROGRAM).is_some() {
            return Ok(Self { root: None });
        }
        let root = folder.join("qemu");
        if !root.exists() {
            phase::measured("download of qemu", || apt::unpack(&apt::not_installed(PACKAGE)?, &root))?;
        }
        Ok(Self { root: Some(root) })
    }

    /// It finds its firmware and modules from where it is itself.
    pub(super) fn command(&self) -> Command {
        let Some(root) = &self.root else { return Command::new(PROGRAM) };
        let mut command = Command::new(root.join("usr/bin").join(PROGRAM));
        command.env("LD_LIBRARY_PATH", root.join(LIBRARIES));
        command
    }
}
