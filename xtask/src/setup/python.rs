//! Packages of PyPI, in a folder of their own.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use flannel_tests::tools::python::{INSTALLED, folder};

use crate::phase;

/// Installs these packages, and nothing else.
pub(super) fn install(requirements: &str) -> Result<()> {
    let folder = folder();
    let list = folder.join("wanted.txt");
    phase::measured("installation of Python packages", || {
        phase::execute(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        fs::write(&list, requirements).with_context(|| format!("writing {}", list.display()))?;
        let mut pip = Command::new(folder.join("bin/pip"));
        pip.args(["install", "--quiet", "--no-compile", "--requirement"]);
        phase::execute(pip.arg(&list))?;
        // The last step: what is not complete does not count as installed.
        fs::rename(&list, folder.join(INSTALLED)).context("marking the Python packages as installed")
    })
}

/// Returns the same as a shell command, without the mark.
pub(super) fn shell(requirements: &str) -> String {
    let folder = folder();
    let names: Vec<_> = requirements.split_whitespace().collect();
    format!("python3 -m venv --clear {0} && {0}/bin/pip install {1}", folder.display(), names.join(" "))
}
