//! bpf-linker: rustc's linker for BPF, built against Debian's LLVM.

use std::process::Command;

use anyhow::Result;

use crate::phase;
use crate::toolchain::{LLVM, program};
use crate::workspace::cargo;

/// The oldest version that will do, and the one that is installed.
pub(crate) const VERSION: &str = "0.13.0";

/// Whether one that runs and is new enough is here: it needs LLVM's shared library at run time.
pub(crate) fn present() -> bool {
    let output = program("bpf-linker").and_then(|file| Command::new(file).arg("--version").output().ok());
    output.is_some_and(|output| suffices(&String::from_utf8_lossy(&output.stdout)))
}

fn suffices(version: &str) -> bool {
    let numbers =
        |text: &str| text.trim().split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>();
    let found = version.strip_prefix("bpf-linker ").and_then(numbers);
    found.is_some_and(|found| Some(found) >= numbers(VERSION))
}

/// Builds it. Its defaults are another LLVM than the one the toolchains have.
pub(crate) fn install() -> Result<()> {
    let mut command = cargo(["install", "--locked", "--force", "bpf-linker", "--version", VERSION]);
    command.args(["--no-default-features", "--features", &feature()]).env("LLVM_PREFIX", prefix());
    phase::run("build of bpf-linker", &mut command)
}

/// The same for a shell.
pub(crate) fn shell() -> String {
    let (prefix, feature) = (prefix(), feature());
    format!(
        "LLVM_PREFIX={prefix} cargo install --locked --force bpf-linker --version {VERSION} \
         --no-default-features --features {feature}"
    )
}

fn prefix() -> String {
    format!("/usr/lib/llvm-{LLVM}")
}

fn feature() -> String {
    format!("llvm-{LLVM}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(suffices("bpf-linker 0.13.0\n"));
        assert!(suffices("bpf-linker 0.14.2\n") && suffices("bpf-linker 1.0.0\n"));
        assert!(!suffices("bpf-linker 0.9.15\n"));
        assert!(!suffices("") && !suffices("bpf-linker unknown"));
    }
}
