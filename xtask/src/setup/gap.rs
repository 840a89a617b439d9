//! What is missing, in words and in commands.

use std::collections::BTreeSet;
use std::process::Command;

use flannel_tests::tools::{Source, Tool};

use super::{apt, crates, linker, python, rust};

/// Where the BPF file system is expected.
pub(super) const BPFFS: &str = "/sys/fs/bpf";

/// One thing that is missing.
#[derive(Debug, PartialEq)]
pub(super) enum Gap {
    /// A tool of the list.
    Tool(&'static Tool),
    /// A toolchain for the BPF target, and why those at hand will not do.
    Toolchain(String),
    /// clippy of the toolchain for the BPF target, by the toolchain's name.
    Clippy(String),
    /// bpf-linker.
    Linker,
    /// The file system in which programs and maps are pinned.
    BpfFs,
}

impl Gap {
    /// Returns whether only root can fill it.
    pub(super) fn needs_root(&self) -> bool {
        self.package().is_some() || matches!(self, Self::BpfFs)
    }

    /// Returns the package that fills it.
    pub(super) fn package(&self) -> Option<&'static str> {
        match self {
            Self::Tool(Tool { source: Source::Package(name), .. }) => Some(name),
            _ => None,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Tool(Tool { probe, source, purpose, .. }) => match source {
                Source::Package(package) => format!("{probe} (package {package}): {purpose}"),
                Source::Component(_) => format!("{probe} (component of this Rust toolchain): {purpose}"),
                Source::Crate { name, version } => format!("{probe} (crate {name} {version}): {purpose}"),
                Source::Python { .. } => format!("{probe} (packages of Python's PyPI): {purpose}"),
            },
            Self::Toolchain(reasons) => format!("a Rust toolchain with rust-src, for BPF: {reasons}"),
            Self::Clippy(toolchain) => format!("clippy (component of {toolchain}): lints the BPF programs"),
            Self::Linker => format!("bpf-linker {} or newer: links the BPF programs", linker::VERSION),
            Self::BpfFs => format!("a BPF file system at {BPFFS}: holds pinned programs and maps"),
        }
    }

    /// Returns the command that fills it. Packages have one command for all.
    fn command(&self) -> Option<String> {
        Some(match self {
            Self::Tool(tool) => match tool.source {
                Source::Package(_) => return None,
                Source::Component(name) => rust::shell(&[name], None),
                Source::Crate { name, version } => crates::shell(name, version),
                Source::Python { requirements } => python::shell(requirements),
            },
            Self::Toolchain(_) => rust::shell(&rust::FOR_BPF, None),
            Self::Clippy(toolchain) => rust::shell(&["clippy"], Some(toolchain)),
            Self::Linker => linker::shell(),
            Self::BpfFs => format!("mount -t bpf bpf {BPFFS}"),
        })
    }
}

/// Returns the command that mounts the BPF file system.
pub(super) fn mount_bpffs() -> Command {
    let mut command = Command::new("mount");
    command.args(["-t", "bpf", "bpf", BPFFS]);
    command
}

/// Returns the packages that fill gaps.
pub(super) fn packages(gaps: &[Gap]) -> BTreeSet<&'static str> {
    gaps.iter().filter_map(Gap::package).collect()
}

/// Returns the commands that fill the gaps.
pub(super) fn commands(gaps: &[Gap]) -> Vec<String> {
    let packages = packages(gaps);
    let apt = (!packages.is_empty()).then(|| apt::shell(&packages));
    apt.into_iter().chain(gaps.iter().filter_map(Gap::command)).collect()
}

/// Returns the gaps, a line each.
pub(super) fn list(gaps: &[Gap]) -> String {
    gaps.iter().map(|gap| format!("  - {}\n", gap.describe())).collect::<String>().trim_end().to_owned()
}

/// Returns the gaps, and the commands that fill them.
pub(super) fn message(gaps: &[Gap]) -> String {
    if gaps.is_empty() {
        return "Run it again".into();
    }
    let mut text =
        format!("Missing:\n{}\nCommands that install it:\n  {}", list(gaps), commands(gaps).join("\n  "));
    if gaps.iter().any(|gap| matches!(gap, Gap::Toolchain(_))) {
        text += &format!("\nWhere rustup cannot download, instead of rust-src:\n  {}", rust::debians_shell());
    }
    text + "\nAs root on Debian or Ubuntu, `cargo xtask setup` runs them."
}

#[cfg(test)]
mod tests {
    use flannel_tests::tools::TOOLS;

    use super::*;

    #[test]
    fn each_package_is_asked_for_once() {
        let gaps: Vec<_> = TOOLS.iter().map(Gap::Tool).filter(|g| g.package() == Some("iproute2")).collect();
        assert!(gaps.len() > 1);
        assert_eq!(packages(&gaps).into_iter().collect::<Vec<_>>(), ["iproute2"]);
    }

    #[test]
    fn message_names_every_gap_and_its_command() {
        let tool = |probe| Gap::Tool(TOOLS.iter().find(|tool| tool.probe == probe).unwrap());
        let gaps = [tool("etcd"), tool("rustfmt"), Gap::Clippy("nightly".into()), Gap::Linker, Gap::BpfFs];
        let text = message(&gaps);
        for part in [
            "etcd-server",
            "rustup component add rustfmt",
            "rustup component add --toolchain nightly clippy",
            "bpf-linker --version 0.13.0",
            "mount -t bpf",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("rustc-web"), "{text}");
    }
}
