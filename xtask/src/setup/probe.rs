//! Finds what is missing.

use std::fs;

use flannel_tests::tools::{Part, Source, TOOLS, Tool};

use super::gap::{BPFFS, Gap};
use super::{crates, linker, rust};
use crate::toolchain;

/// Returns everything that these parts need and this machine lacks.
pub(super) fn missing(parts: &[Part]) -> Vec<Gap> {
    let mut gaps: Vec<_> = needed(parts).filter(|tool| !exists(tool)).map(Gap::Tool).collect();
    if needs(parts, &[Part::Lint, Part::Build]) {
        gaps.extend(toolchain_gap(needs(parts, &[Part::Lint])));
    }
    if needs(parts, &[Part::Build]) && !linker::exists() {
        gaps.extend(linker::NEEDED.iter().filter(|tool| !exists(tool)).map(Gap::Tool));
        gaps.push(Gap::Linker);
    }
    if needs(parts, &[Part::Cluster]) && !fs::read_to_string("/proc/self/mounts").is_ok_and(|m| has_bpffs(&m))
    {
        gaps.push(Gap::BpfFs);
    }
    gaps
}

fn needed(parts: &[Part]) -> impl Iterator<Item = &'static Tool> {
    TOOLS.iter().filter(|tool| needs(parts, tool.parts))
}

/// Returns whether any of a chore's parts is among those named.
fn needs(chore: &[Part], named: &[Part]) -> bool {
    chore.iter().any(|part| named.contains(part))
}

fn exists(tool: &Tool) -> bool {
    match (tool.find(), tool.source) {
        (Some(program), Source::Crate { name, version }) => crates::suffices(&program, name, version),
        (found, _) => found.is_some(),
    }
}

/// Looks for a toolchain that builds the programs, and for its clippy if they are linted.
fn toolchain_gap(lint: bool) -> Option<Gap> {
    match toolchain::find() {
        Err(reasons) => Some(Gap::Toolchain(reasons)),
        Ok(found) if !lint || rust::has_clippy(&found) => None,
        Ok(found) if rust::is_debians(&found) => Some(Gap::Tool(&rust::DEBIAN_CLIPPY)),
        Ok(found) => Some(Gap::Clippy(found.name)),
    }
}

fn has_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|mount| {
        let mut fields = mount.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(parts: &[Part]) -> Vec<&'static str> {
        let sources = needed(parts).map(|tool| tool.source);
        sources
            .filter_map(|source| if let Source::Package(name) = source { Some(name) } else { None })
            .collect()
    }

    #[test]
    fn bpffs_counts_only_where_it_is_expected() {
        assert!(has_bpffs("sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw,mode=700 0 0\n"));
        assert!(!has_bpffs("none /tmp/bpf bpf rw 0 0\ntmpfs /sys/fs/bpf tmpfs rw 0 0\n"));
    }

    #[test]
    fn a_chore_asks_for_the_tools_of_its_own_parts() {
        let lint = packages(&[Part::Lint]);
        assert!(
            !lint.contains(&"docker.io") && !lint.contains(&"etcd-server") && !lint.contains(&"iproute2")
        );
        let local_cluster = packages(&[Part::Build, Part::Cluster, Part::Run]);
        assert!(local_cluster.contains(&"iproute2"));
        for other in ["etcd-server", "etcd-client", "docker.io", "tshark"] {
            assert!(!local_cluster.contains(&other), "{other}");
        }
    }
}
