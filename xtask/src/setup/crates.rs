//! Programs that `cargo install` builds, without optimisation: that takes a third of the time, and they run for seconds.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::phase;
use crate::workspace::cargo;

const NO_DEBUG_INFO: (&str, &str) = ("CARGO_PROFILE_DEV_DEBUG", "false");

/// Returns whether the program runs and has this version or a newer one. Not every program prints its version, so the
/// list of what cargo has installed counts, too.
pub(super) fn suffices(program: &Path, name: &str, version: &str) -> bool {
    let print = |command: &mut Command| {
        let output = command.output();
        output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    is_recent(&print(Command::new(program).arg("--version")), version)
        || is_recent(installed(&print(&mut cargo(["install", "--list"])), name), version)
}

/// Returns the version of a crate in the list that `cargo install --list` prints: `cargo-deb v3.8.0:`.
fn installed<'a>(list: &'a str, name: &str) -> &'a str {
    let versions = list.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(" v"));
    versions.map(|version| version.trim_end_matches(':')).next().unwrap_or_default()
}

/// Compares what `--version` prints ("cargo-deny 0.20.2", or the number alone) with the oldest version accepted.
fn is_recent(printed: &str, oldest: &str) -> bool {
    let numbers = |text: &str| text.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>();
    let found = printed.split_whitespace().last().and_then(numbers);
    found.is_some_and(|found| Some(found) >= numbers(oldest))
}

/// Builds and installs the crate.
pub(super) fn install(name: &str, version: &str) -> Result<()> {
    let mut command = cargo(arguments(name, version));
    phase::run(&format!("build of {name}"), command.arg("--debug").env(NO_DEBUG_INFO.0, NO_DEBUG_INFO.1))
}

/// Returns the same as a shell command.
pub(super) fn shell(name: &str, version: &str) -> String {
    let (variable, value) = NO_DEBUG_INFO;
    format!("{variable}={value} cargo {} --debug", arguments(name, version).join(" "))
}

/// Returns the arguments of a `cargo install`.
pub(super) fn arguments<'a>(name: &'a str, version: &'a str) -> [&'a str; 6] {
    ["install", "--locked", "--force", name, "--version", version]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_crates_are_listed_with_their_versions() {
        let list = "cargo-deb v3.8.0:\n    cargo-deb\ncargo-auditable v0.7.7:\n    cargo-auditable\n";
        assert_eq!(installed(list, "cargo-auditable"), "0.7.7");
        assert_eq!(installed(list, "cargo"), "");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_recent("bpf-linker 0.13.0\n", "0.13.0"));
        assert!(is_recent("bpf-linker 0.14.2\n", "0.13.0") && is_recent("1.0.0\n", "0.13.0"));
        assert!(!is_recent("bpf-linker 0.9.15\n", "0.13.0"));
        assert!(!is_recent("", "0.13.0") && !is_recent("bpf-linker unknown", "0.13.0"));
    }
}
