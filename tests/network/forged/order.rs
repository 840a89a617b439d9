//! Programs of others that accept packets before the agent's see them. What they accept reaches the pods all the same.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::traffic::ping;
use flannel_tests::{AgentBuilder, Node, TestResult, Topology, eventually};

use crate::inspect::{self, UPLINK};
use crate::overlay::{Overlay, lines_of};

/// The agent looks once a second.
const SOON: Duration = Duration::from_secs(15);
const COMES_FIRST: &str = "comes before the agent's";
const COMES_NO_MORE: &str = "no program of others comes before the agent's any more";

/// Lets a program come and go before the agent's at the first node's uplink. Fails unless pods stay reachable, and packets
/// that no program has checked are dropped without it alone.
fn ensure_reachable<T>(
    overlay: &Overlay,
    come: impl FnOnce(&Node) -> Result<T>,
    go: impl FnOnce(&Node, T) -> Result<()>,
) -> TestResult {
    let node = &overlay.nodes()[0];
    let (one, other) = overlay.two_pods();
    let settled = |only_checked, line: &str| -> Result<()> {
        let log = overlay.agents[0].log();
        let said = log.lines().filter(|said| said.contains(line)).count();
        let node = inspect::node_config(node)?;
        ensure!((said, node.only_checked) == (1, only_checked), "{}, {log}", node.only_checked);
        Ok(())
    };
    eventually("only checked packets pass", SOON, || {
        ensure!(inspect::node_config(node)?.only_checked == 1);
        Ok(())
    })?;
    let program = come(node)?;
    eventually("unchecked packets pass", SOON, || settled(0, COMES_FIRST))?;
    ping(one, other.ip())?;
    go(node, program)?;
    eventually("only checked packets pass again", SOON, || settled(1, COMES_NO_MORE))?;
    ping(one, other.ip())?;
    assert_eq!(lines_of(&overlay.agents[0].log(), "ERROR"), [""; 0]);
    Ok(())
}

#[test]
fn pods_are_reachable_behind_a_filter_that_comes_first() -> TestResult {
    let flags = ["--dataplane=bpf"; 2];
    let overlay = Overlay::start_with(Topology::segment(2), &flags, 1, AgentBuilder::without_tcx)?;
    let tc = |node: &Node, command: &str, what: &str| {
        let line = format!("filter {command} dev {UPLINK} ingress prio 1 {what}\n");
        node.netns().exec_with("tc -batch -", &line).map(drop)
    };
    // A program that returns -1 matches all packets, and nothing more is done with them.
    let all = "protocol all bpf bytecode '1,6 0 0 4294967295' classid 1:1";
    ensure_reachable(&overlay, |node| tc(node, "add", all), |node, ()| tc(node, "del", "protocol all"))
}

#[test]
fn pods_are_reachable_behind_a_program_that_comes_first() -> TestResult {
    ensure_reachable(&Overlay::bpf(2)?, accept_all_first, |_, link| {
        drop(link);
        Ok(())
    })
}

/// `union bpf_attr` as `BPF_PROG_LOAD` reads it.
#[repr(C)]
struct LoadAttributes {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// Attaches a program by tcx that accepts all packets to a node's uplink, before all others. It is detached when the link is
/// dropped.
fn accept_all_first(node: &Node) -> Result<OwnedFd> {
    /// include/uapi/linux/bpf.h.
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_LINK_CREATE: libc::c_int = 28;
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    const BPF_TCX_INGRESS: u32 = 46;
    const BPF_F_BEFORE: u32 = 1 << 3;
    /// `r0 = TCX_PASS; exit`.
    const ACCEPT: [u64; 2] = [0xb7, 0x95];
    let mut load = LoadAttributes {
        kind: BPF_PROG_TYPE_SCHED_CLS,
        count: 2,
        instructions: ACCEPT.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    let program = bpf(BPF_PROG_LOAD, &mut load)?;
    let index = inspect::link(node, UPLINK)?.index.try_into()?;
    let number = program.as_raw_fd().cast_unsigned();
    let mut link = [number, index, BPF_TCX_INGRESS, BPF_F_BEFORE, 0, 0, 0, 0];
    node.netns().run(|| bpf(BPF_LINK_CREATE, &mut link))
}

/// Performs a command of bpf(2) that opens a file.
fn bpf<T>(command: libc::c_int, attributes: &mut T) -> Result<OwnedFd> {
    // SAFETY: the caller has laid out `attributes` for the command, whose pointers are to constants.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    ensure!(fd >= 0, "bpf({command}): {}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just opened it, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}
