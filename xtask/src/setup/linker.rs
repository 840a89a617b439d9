//! bpf-linker: rustc's linker for BPF, built against Debian's LLVM.

use anyhow::Result;
use flannel_tests::tools::{Part, Source, Tool, find_program};

use super::crates;
use crate::phase;
use crate::toolchain::LLVM;
use crate::workspace::cargo;

const NAME: &str = "bpf-linker";
/// The oldest version that will do, and the one that is installed.
pub(super) const VERSION: &str = "0.13.0";

/// What building it takes besides Rust.
pub(super) const NEEDED: &[Tool] = &[
    needed(
        "/usr/lib/llvm-22/include/llvm-c/Core.h",
        "llvm-22-dev",
        "is the LLVM that bpf-linker is built on",
    ),
    needed("/usr/lib/llvm-22/lib/libPolly.a", "libpolly-22-dev", "is one of LLVM's libraries"),
    needed("/usr/include/zlib.h", "zlib1g-dev", "is linked by LLVM"),
    needed("/usr/include/zstd.h", "libzstd-dev", "is linked by LLVM"),
];

const fn needed(probe: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool { probe, source: Source::Package(package), purpose, parts: &[Part::Build] }
}

/// Returns whether a recent one runs here. It does not if LLVM's shared library is missing.
pub(super) fn exists() -> bool {
    find_program(NAME).is_some_and(|program| crates::suffices(&program, NAME, VERSION))
}

/// Builds and installs it. Its default features name another LLVM than the toolchains have.
pub(super) fn install() -> Result<()> {
    let mut command = cargo(crates::arguments(NAME, VERSION));
    command.args(["--no-default-features", "--features", &feature()]).env("LLVM_PREFIX", prefix());
    phase::run("build of bpf-linker", &mut command)
}

/// Returns the same as a shell command.
pub(super) fn shell() -> String {
    format!(
        "LLVM_PREFIX={} cargo {} --no-default-features --features {}",
        prefix(),
        crates::arguments(NAME, VERSION).join(" "),
        feature()
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
    fn linker_is_built_with_the_llvm_that_toolchains_are_chosen_for() {
        let package = format!("llvm-{LLVM}-dev");
        assert!(NEEDED.iter().any(|tool| matches!(tool.source, Source::Package(name) if name == package)));
    }
}
