//! What the agents use.

use std::fmt;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::Agent;

use crate::overlay::Overlay;

/// Pages that an allocator may keep, in kB for each agent: what stays when 200 ports have come and gone is scattered over some 14 MB, and
/// is not more when they come and go again.
const SLACK: u64 = 24 << 10;
/// Files that may be open for a moment.
const OPEN: usize = 4;

/// What all agents use, and what all namespaces of the machine hold.
pub(super) struct Resources {
    /// Resident memory of each agent in kB.
    memory: Vec<u64>,
    /// Open files of each agent.
    files: Vec<usize>,
    programs: usize,
    maps: usize,
    links: usize,
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
        let objects = |kind: &str| -> Result<usize> {
            let shown = overlay.nodes()[0].netns().exec_json(&format!("bpftool -j {kind} show"))?;
            Ok(shown.as_array().context("not a list")?.len())
        };
        Ok(Self {
            memory: pids.iter().map(|pid| memory(*pid)).collect::<Result<_>>()?,
            files: pids.iter().map(|pid| files(*pid)).collect::<Result<_>>()?,
            programs: objects("prog")?,
            maps: objects("map")?,
            links: objects("link")?,
            interfaces: counted(&["ip -o link show"])?,
            entries: counted(&["ip route show table all", "ip neigh show nud permanent", "bridge fdb show"])?,
            rules: counted(&["iptables-save"])?,
        })
    }

    /// Fails if these are more than the others.
    pub(super) fn ensure_not_above(&self, before: &Self) -> Result<()> {
        let grown = self.memory.iter().zip(&before.memory).any(|(now, before)| *now > before + SLACK);
        let opened = self.files.iter().zip(&before.files).any(|(now, before)| *now > before + OPEN);
        let counts = |all: &Self| [all.programs, all.maps, all.links, all.interfaces, all.entries, all.rules];
        let more = counts(self).iter().zip(counts(before)).any(|(now, before)| *now > before);
        ensure!(!grown && !opened && !more, "before: {before}\nafter: {self}");
        Ok(())
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory, files, programs, maps, links, interfaces, entries, rules } = self;
        write!(
            f,
            "agents with {memory:?} kB of memory and {files:?} open files; {programs} BPF programs, {maps} maps, {links} links; \
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
