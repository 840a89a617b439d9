//! What the kernel has for the programs, and what the agent may do. Pure.

use std::path::{Path, PathBuf};

use crate::check::model::{Check, Finding};
use crate::dataplane::capabilities::{self, NET_ADMIN, NET_RAW};

/// What the kernel says to small programs that are loaded and thrown away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::check) struct KernelFacts {
    /// Whether it takes programs for TC, or why that is not known.
    pub(in crate::check) classifier: Result<bool, String>,
    /// The same for XDP.
    pub(in crate::check) xdp: Result<bool, String>,
    /// Whether it has tcx.
    pub(in crate::check) tcx: Result<bool, String>,
    /// `net.core.bpf_jit_enable`.
    pub(in crate::check) jit: Option<String>,
}

/// Judges what the kernel has. `wanted`: whether packets are to be carried by BPF.
pub(in crate::check) fn bpf(facts: &KernelFacts, wanted: bool) -> Vec<Finding> {
    const KERNEL: &str = "docs/kernels.md says which kernels have what. Without it the kernel's vxlan device carries all packets, more slowly";
    let lacking = |what: &str| {
        let found = format!("the kernel takes no programs for TC: {what}");
        if wanted { Check::Bpf.warning(found, KERNEL) } else { Check::Bpf.note(found, KERNEL) }
    };
    match &facts.classifier {
        Ok(true) => {}
        Ok(false) => {
            return vec![lacking("it is built without them (CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF)")];
        }
        Err(why) => return vec![lacking(&format!("{why}; this needs root, or CAP_BPF and CAP_NET_ADMIN"))],
    }
    let mut findings = Vec::new();
    if facts.jit.as_deref() == Some("0") {
        findings.push(Check::Bpf.warning(
            "the kernel interprets programs: net.core.bpf_jit_enable is 0, and each packet costs much more",
            "sysctl -w net.core.bpf_jit_enable=1 (at each boot: a line in /etc/sysctl.d), and start the agent again",
        ));
    }
    if facts.tcx == Ok(false) {
        findings.push(Check::Bpf.note(
            "the kernel has no tcx (Linux 6.6): the programs are filters of TC",
            "nothing, unless another program removes filters of TC: the agent attaches them again",
        ));
    }
    if facts.xdp == Ok(false) {
        findings.push(Check::Bpf.note("the kernel has no XDP: received packets are unwrapped by TC", KERNEL));
    }
    if findings.is_empty() {
        findings.push(Check::Bpf.ok("the kernel takes programs for TC, tcx and XDP, and compiles them"));
    }
    findings
}

/// Judges the capabilities of the agent's process: one bit for each. `None` if the process is not known.
pub(in crate::check) fn capabilities(agent: Option<(i32, u64)>, wants_bpf: bool) -> Vec<Finding> {
    const REMEDY: &str = "give it NET_ADMIN, NET_RAW, BPF and PERFMON: CapabilityBoundingSet in the unit, securityContext in the \
                          DaemonSet, and start it again";
    let Some((pid, set)) = agent else {
        return vec![Check::Capabilities.note(
            "not known: no agent runs, or not in this PID namespace",
            "run this command on the node itself, not in a container",
        )];
    };
    let mut findings = Vec::new();
    if !capabilities::has(set, NET_ADMIN) {
        let found = format!("the agent (pid {pid}) lacks CAP_NET_ADMIN, and can set up nothing");
        findings.push(Check::Capabilities.error(found, REMEDY));
    }
    if let Some(missing) = capabilities::missing(set).filter(|_| wants_bpf) {
        let found = format!("the agent (pid {pid}) lacks {missing}: it loads no programs");
        findings.push(Check::Capabilities.warning(found, REMEDY));
    }
    if !capabilities::has(set, NET_RAW) {
        let found =
            format!("the agent (pid {pid}) lacks CAP_NET_RAW, which iptables of the legacy kind needs");
        findings.push(Check::Capabilities.note(found, REMEDY));
    }
    if findings.is_empty() {
        findings.push(Check::Capabilities.ok(format!("the agent (pid {pid}) has what it needs")));
    }
    findings
}

/// What is mounted where the pins are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::check) struct BpffsFacts {
    pub(in crate::check) path: PathBuf,
    /// Whether the path leads into a BPF filesystem.
    pub(in crate::check) is_bpffs: bool,
    /// The kinds of the filesystems that are mounted at this very path, the oldest first.
    pub(in crate::check) mounted: Vec<String>,
}

/// Returns the kinds of the filesystems that are mounted at a path, the oldest first, by the text of /proc/self/mountinfo.
pub(in crate::check) fn mounted_at(path: &Path, mountinfo: &str) -> Vec<String> {
    let kind = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        (Path::new(&unescaped(point)) == path).then(|| filesystem.split(' ').next().map(str::to_owned))?
    };
    mountinfo.lines().filter_map(kind).collect()
}

/// Returns a path with the bytes that mountinfo escapes (proc_pid_mountinfo(5)).
fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(path.to_owned(), |path, (from, to)| path.replace(from, to))
}

/// Judges the filesystem of the pins. `wanted`: whether packets are to be carried by BPF.
pub(in crate::check) fn bpffs(facts: &BpffsFacts, wanted: bool) -> Finding {
    let BpffsFacts { path, is_bpffs, mounted } = facts;
    let shown = path.display();
    let bpf = mounted.iter().filter(|kind| *kind == "bpf").count();
    match (is_bpffs, bpf) {
        (true, _) if mounted.len() > 1 => Check::Bpffs.warning(
            format!("{} filesystems are mounted at {shown}, and the last one hides the others", mounted.len()),
            format!(
                "what the agent has pinned may be hidden, and then a new start of it interrupts flows. When it does not matter: \
                 stop the agent, umount {shown} until one is left, and start the agent"
            ),
        ),
        (true, _) => Check::Bpffs.ok(format!("mounted at {shown}")),
        (false, 1..) => Check::Bpffs.error(
            format!("another mount hides the BPF filesystem at {shown}"),
            format!("grep {shown} /proc/self/mountinfo shows it; umount it, and start the agent again"),
        ),
        (false, 0) if wanted => Check::Bpffs.warning(
            format!("no BPF filesystem is mounted at {shown}"),
            format!(
                "mount -t bpf bpf {shown}, or let the agent mount it at its start. If its pins are elsewhere, set --bpffs here"
            ),
        ),
        (false, 0) => Check::Bpffs.note(
            format!("no BPF filesystem is mounted at {shown}"),
            "nothing: packets are carried without BPF",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::model::Level;

    fn levels(findings: &[Finding]) -> Vec<Level> {
        findings.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn a_kernel_without_programs_is_bad_only_if_they_are_wanted() {
        use Level::{Note, Ok as Well, Warning};
        let all =
            KernelFacts { classifier: Ok(true), xdp: Ok(true), tcx: Ok(true), jit: Some("1".to_owned()) };
        for (facts, wanted, expected) in [
            (all.clone(), true, &[Well][..]),
            (KernelFacts { classifier: Ok(false), ..all.clone() }, true, &[Warning]),
            (KernelFacts { classifier: Err("EPERM".to_owned()), ..all.clone() }, false, &[Note]),
            (KernelFacts { jit: Some("0".to_owned()), ..all.clone() }, true, &[Warning]),
            (KernelFacts { jit: None, ..all.clone() }, true, &[Well]),
            (KernelFacts { tcx: Ok(false), xdp: Ok(false), ..all }, true, &[Note, Note]),
        ] {
            assert_eq!(levels(&bpf(&facts, wanted)), expected, "{facts:?}");
        }
    }

    #[test]
    fn capabilities_that_are_missing_are_named() {
        use Level::{Error, Note, Ok as Well, Warning};
        const ALL: u64 = 1 << NET_ADMIN | 1 << NET_RAW | 1 << 38 | 1 << 39;
        for (set, wants_bpf, expected) in [
            (ALL, true, &[Well][..]),
            (ALL & !(1 << 39), true, &[Warning]),
            (ALL & !(1 << 39), false, &[Well]),
            (ALL & !(1 << NET_RAW), true, &[Note]),
            (0, true, &[Error, Warning, Note]),
        ] {
            assert_eq!(levels(&capabilities(Some((7, set)), wants_bpf)), expected, "{set:x}");
        }
        assert_eq!(levels(&capabilities(None, true)), [Note]);
    }

    #[test]
    fn a_filesystem_that_another_one_hides_is_found() {
        const INFO: &str = "30 24 0:26 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw,mode=700\n\
                            31 24 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
                            44 30 0:40 / /sys/fs/bpf rw - tmpfs tmpfs rw\n\
                            45 30 0:41 / /my\\040pins rw - bpf bpf rw\n";
        let mounted = |path: &str| mounted_at(Path::new(path), INFO);
        assert_eq!(mounted("/sys/fs/bpf"), ["bpf", "tmpfs"]);
        assert_eq!(mounted("/my pins"), ["bpf"]);
        assert_eq!(mounted("/sys/fs"), [""; 0]);
        for (is_bpffs, kinds, wanted, expected) in [
            (true, &["bpf"][..], true, Level::Ok),
            (true, &[], true, Level::Ok),
            (true, &["bpf", "bpf"], true, Level::Warning),
            (false, &["bpf", "tmpfs"], true, Level::Error),
            (false, &[], true, Level::Warning),
            (false, &[], false, Level::Note),
        ] {
            let mounted = kinds.iter().map(ToString::to_string).collect();
            let facts = BpffsFacts { path: "/sys/fs/bpf".into(), is_bpffs, mounted };
            assert_eq!(bpffs(&facts, wanted).level, expected, "{facts:?}");
        }
    }
}
