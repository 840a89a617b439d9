//! The plugin's file, a copy of this program.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::atomic_file;
use crate::cni::ABOUT;

/// This program, also when its file has been replaced meanwhile.
const SELF: &str = "/proc/self/exe";
const MODE: u32 = 0o755;

/// Whose a plugin's file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Nobody,
    Agent,
    Other,
}

/// Returns whose the file is. A plugin without a command says what it is.
pub(super) fn owner(path: &Path) -> Owner {
    if !path.exists() {
        return Owner::Nobody;
    }
    let mut command = Command::new(path);
    let output = command.env_remove("CNI_COMMAND").stdin(Stdio::null()).output();
    let is_agent = |about: &[u8]| String::from_utf8_lossy(about).starts_with(ABOUT);
    if output.is_ok_and(|output| is_agent(&output.stderr)) { Owner::Agent } else { Owner::Other }
}

/// Copies this program there unless it is there already. Returns whether it was copied.
pub(super) fn install(path: &Path) -> Result<bool> {
    let doing = || format!("installing the plugin as {}", path.display());
    if is_copy(path).with_context(doing)? {
        return Ok(false);
    }
    fs::create_dir_all(atomic_file::folder(path)).with_context(doing)?;
    atomic_file::copy(Path::new(SELF), path, MODE).with_context(doing)?;
    Ok(true)
}

/// Whether the file has this program's bytes and can be executed.
fn is_copy(path: &Path) -> io::Result<bool> {
    let Ok(found) = fs::metadata(path) else { return Ok(false) };
    let own = fs::metadata(SELF)?;
    if found.len() != own.len() || found.permissions().mode() & 0o7777 != MODE {
        return Ok(false);
    }
    have_equal_bytes(File::open(SELF)?, File::open(path)?)
}

fn have_equal_bytes(one: File, other: File) -> io::Result<bool> {
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    loop {
        let (a, b) = (one.fill_buf()?, other.fill_buf()?);
        let len = a.len().min(b.len());
        if a[..len] != b[..len] || (len == 0 && a.len() != b.len()) {
            return Ok(false);
        }
        if len == 0 {
            return Ok(true);
        }
        one.consume(len);
        other.consume(len);
    }
}
