//! What the agents use.

use std::path::Path;
use std::{fmt, fs, io};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::Agent;

use crate::overlay::Overlay;

/// Pages that an allocator may keep, in kB for each agent: what stays when 200 ports have come and gone is scattered over some 9 MB, and
/// is not more when they come and go again.
const SLACK: u64 = 16 << 10;
/// Files that may be open for a moment.
const OPEN: usize = 4;

/// What all agents use, and what they have left in their nodes. A BPF object stays in the kernel as long as somebody has it open or pins it, or
/// another object holds it (a link its program, a program its maps), so open files and pins are counted: a count of all objects would take in
/// those of other networks of the machine.
pub(super) struct Resources {
    /// Resident memory of each agent in kB.
    memory: Vec<u64>,
    /// Open files of each agent.
    files: Vec<usize>,
    /// BPF objects that are pinned on the nodes.
    pins: usize,
    /// Interfaces of all nodes.
    interfaces: usize,
    /// Routes, neighbours and FDB entries of all nodes.
    entries: usize,
    /// Lines of all nodes' firewall rules.
    rules: usize,
}

impl Resources {
    pub(super) fn of(overlay: &Overlay) -> Result<Self> {
        let pids: Vec<_> = overlay.agents.iter().map(Agent::pid).collect();
        let counted = |commands: &[&str]| -> Result<usize> {
            let outputs = overlay.nodes().iter().flat_map(|node| commands.iter().map(|line| node.exec(line)));
            outputs.map(|output| Ok(output?.lines().count())).sum()
        };
        Ok(Self {
            memory: pids.iter().map(|pid| memory(*pid)).collect::<Result<_>>()?,
            files: pids.iter().map(|pid| files(*pid)).collect::<Result<_>>()?,
            pins: overlay.nodes().iter().map(|node| Ok(entries(node.bpffs()?)?)).sum::<Result<_>>()?,
            interfaces: counted(&["ip -o link show"])?,
            entries: counted(&["ip route show table all", "ip neigh show nud permanent", "bridge fdb show"])?,
            rules: counted(&["iptables-save"])?,
        })
    }

    /// Fails if these are more than the others.
    pub(super) fn ensure_not_above(&self, before: &Self) -> Result<()> {
        let grown = self.memory.iter().zip(&before.memory).any(|(now, before)| *now > before + SLACK);
        let opened = self.files.iter().zip(&before.files).any(|(now, before)| *now > before + OPEN);
        let counts = |all: &Self| [all.pins, all.interfaces, all.entries, all.rules];
        let more = counts(self).iter().zip(counts(before)).any(|(now, before)| *now > before);
        ensure!(!grown && !opened && !more, "before: {before}\nafter: {self}");
        Ok(())
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory, files, pins, interfaces, entries, rules } = self;
        write!(
            f,
            "agents with {memory:?} kB of memory and {files:?} open files; {pins} pinned BPF objects; \
             {interfaces} interfaces, {entries} routes, neighbours and FDB entries, {rules} lines of firewall rules"
        )
    }
}

fn memory(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS")
}

fn files(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Returns how many files and folders are below this folder.
fn entries(folder: &Path) -> io::Result<usize> {
    fs::read_dir(folder)?
        .map(|entry| {
            let entry = entry?;
            Ok(1 + if entry.file_type()?.is_dir() { entries(&entry.path())? } else { 0 })
        })
        .sum()
}
