//! What is missing, in words and in commands.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use super::tools::{DEBIAN_CLIPPY, DEBIAN_RUST, LINKER_TOOLS, TOOLS, Tool, VM_TOOLS, missing};
use super::{apt, linker, rust};
use crate::toolchain;

const BPFFS: &str = "/sys/fs/bpf";

/// One thing that is missing.
#[derive(Debug, PartialEq)]
pub(crate) enum Gap {
    /// A program or file that apt can install.
    Tool(&'static Tool),
    /// A component of a toolchain of rustup's: of the one that runs this chore, or of the one named.
    Component { name: &'static str, toolchain: Option<String> },
    /// A toolchain for the BPF target; why those at hand will not do.
    Toolchain(String),
    /// bpf-linker.
    Linker,
    /// The file system in which programs and maps are pinned.
    BpfFs,
}

/// Everything that is missing here.
pub(crate) fn look() -> Vec<Gap> {
    let mut gaps: Vec<_> = missing(TOOLS, Tool::present).into_iter().map(Gap::Tool).collect();
    gaps.extend(rust::missing_components().map(|name| Gap::Component { name, toolchain: None }));
    gaps.extend(toolchain_gap());
    if !linker::present() {
        gaps.extend(missing(LINKER_TOOLS, Tool::present).into_iter().map(Gap::Tool));
        gaps.push(Gap::Linker);
    }
    if !fs::read_to_string("/proc/self/mounts").is_ok_and(|mounts| has_bpffs(&mounts)) {
        gaps.push(Gap::BpfFs);
    }
    gaps
}

/// What is missing here for `cargo xtask vm`.
pub(crate) fn look_for_vm() -> Vec<Gap> {
    missing(VM_TOOLS, Tool::present).into_iter().map(Gap::Tool).collect()
}

fn toolchain_gap() -> Option<Gap> {
    match toolchain::find() {
        Err(reasons) => Some(Gap::Toolchain(reasons)),
        Ok(found) if rust::has_clippy(&found) => None,
        Ok(found) if rust::is_debians(&found) => Some(Gap::Tool(&DEBIAN_CLIPPY)),
        Ok(found) => Some(Gap::Component { name: "clippy", toolchain: Some(found.name) }),
    }
}

fn has_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|mount| {
        let mut fields = mount.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    })
}

/// Mounts the BPF file system where everybody expects it.
pub(crate) fn mount_bpffs() -> Command {
    let mut command = Command::new("mount");
    command.args(["-t", "bpf", "bpf", BPFFS]);
    command
}

/// The packages to ask apt for: those of the gaps, and Debian's Rust if that is where `core` shall come from.
pub(crate) fn packages(gaps: &[Gap], debian_rust: bool) -> BTreeSet<&'static str> {
    let tools =
        gaps.iter().filter_map(|gap| if let Gap::Tool(tool) = gap { Some(tool.package) } else { None });
    let rust = if debian_rust { DEBIAN_RUST } else { &[] };
    tools.chain(rust.iter().copied()).collect()
}

impl Gap {
    /// Whether only root can fill it.
    pub(crate) fn needs_root(&self) -> bool {
        matches!(self, Self::Tool(_) | Self::BpfFs)
    }

    /// Whether apt fills it.
    pub(crate) fn is_package(&self) -> bool {
        matches!(self, Self::Tool(_))
    }

    /// Whether it is etcd or a client for it.
    pub(crate) fn is_etcd(&self) -> bool {
        matches!(self, Self::Tool(tool) if tool.package.starts_with("etcd-"))
    }

    fn describe(&self) -> String {
        match self {
            Self::Tool(tool) => format!("{} (package {}): {}", tool.probe, tool.package, tool.purpose),
            Self::Component { name, toolchain } => {
                let toolchain = toolchain.as_deref().unwrap_or("this Rust toolchain");
                format!("{name}, a component of {toolchain}: for `cargo xtask lint`")
            }
            Self::Toolchain(reasons) => format!("a Rust toolchain with rust-src, for BPF: {reasons}"),
            Self::Linker => format!("bpf-linker {} or newer: links the BPF programs", linker::VERSION),
            Self::BpfFs => format!("a BPF file system at {BPFFS}: programs and maps are pinned there"),
        }
    }

    /// The command that fills it; packages have one command for all.
    fn command(&self) -> Option<String> {
        match self {
            Self::Tool(_) => None,
            Self::Component { name, toolchain } => {
                Some(format!("rustup {}", rust::component_add(&[name], toolchain.as_deref()).join(" ")))
            }
            Self::Toolchain(_) => Some("rustup component add rust-src clippy".into()),
            Self::Linker => Some(linker::shell()),
            Self::BpfFs => Some(format!("mount -t bpf bpf {BPFFS}")),
        }
    }
}

/// The gaps, a line each.
pub(crate) fn list(gaps: &[Gap]) -> String {
    gaps.iter().map(|gap| format!("  - {}\n", gap.describe())).collect::<String>().trim_end().to_owned()
}

/// The gaps, and the commands that fill them.
pub(crate) fn message(gaps: &[Gap]) -> String {
    if gaps.is_empty() {
        return "Run it again".into();
    }
    let packages = packages(gaps, false);
    let apt = (!packages.is_empty()).then(|| apt::shell(&packages));
    let commands: Vec<_> = apt.into_iter().chain(gaps.iter().filter_map(Gap::command)).collect();
    let mut text =
        format!("Missing:\n{}\nThe commands that get it:\n  {}", list(gaps), commands.join("\n  "));
    if gaps.iter().any(|gap| matches!(gap, Gap::Toolchain(_))) {
        text += &format!("\nWhere rustup cannot download, instead of rust-src:\n  {}", rust::shell());
    }
    text + "\nAs root on Debian or Ubuntu, `cargo xtask setup` runs them."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpffs_counts_only_where_it_is_expected() {
        assert!(has_bpffs("sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw,mode=700 0 0\n"));
        assert!(!has_bpffs("none /tmp/bpf bpf rw 0 0\ntmpfs /sys/fs/bpf tmpfs rw 0 0\n"));
    }

    #[test]
    fn each_package_is_asked_for_once() {
        let gaps: Vec<_> = TOOLS.iter().filter(|tool| tool.package == "iproute2").map(Gap::Tool).collect();
        assert_eq!(gaps.len(), 3);
        assert_eq!(packages(&gaps, false).into_iter().collect::<Vec<_>>(), ["iproute2"]);
        assert!(packages(&gaps, true).contains("rust-web-src"));
    }

    #[test]
    fn etcd_is_told_from_what_every_cluster_needs() {
        let etcds = TOOLS.iter().map(Gap::Tool).filter(Gap::is_etcd).map(|gap| gap.describe());
        let programs: Vec<_> = etcds.map(|text| text.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(programs, ["etcd", "etcdctl"]);
        assert!(!Gap::Linker.is_etcd());
    }

    #[test]
    fn message_names_every_gap_and_its_command() {
        let etcd = TOOLS.iter().find(|tool| tool.probe == "etcd").map(Gap::Tool);
        let clippy = Gap::Component { name: "clippy", toolchain: Some("nightly".into()) };
        let gaps: Vec<_> = etcd.into_iter().chain([clippy, Gap::Linker, Gap::BpfFs]).collect();
        let text = message(&gaps);
        for part in [
            "etcd-server",
            "rustup component add --toolchain nightly clippy",
            "bpf-linker --version 0.13.0",
            "mount -t bpf",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("rustc-web"), "{text}");
    }
}
