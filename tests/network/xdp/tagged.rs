//! Frames whose VLAN tag the NIC has removed, so that XDP does not see it. A switch that sets a priority tags frames with
//! VLAN 0, which means no VLAN (IEEE 802.1Q); the kernel ignores it.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::traffic::{UdpSession, ping};
use flannel_tests::{NetNs, TestResult};
use nix::net::if_::if_nametoindex;

use super::{NATIVE, handed_over, overlay_with};
use crate::inspect;

/// Values of `enum bpf_cmd`, `enum bpf_prog_type` and `enum bpf_attach_type` in include/uapi/linux/bpf.h.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_EGRESS: u32 = 47;

/// `bpf_skb_vlan_push(skb, htons(ETH_P_8021Q), 1 << 13)`, which is VLAN 0 with priority 1; then `TCX_PASS`.
const PUSH: [u64; 5] = [
    0x0000_0081_0000_02b7,
    0x0000_2000_0000_03b7,
    0x0000_0012_0000_0085,
    0x0000_0000_0000_00b7,
    0x0000_0000_0000_0095,
];

/// `union bpf_attr` as `BPF_PROG_LOAD` reads it.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

fn call<T>(command: libc::c_int, mut attributes: T) -> Result<OwnedFd> {
    // SAFETY: `attributes` is laid out as the kernel reads it for this command, and it and what it points to live through
    // the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attributes, size_of::<T>()) };
    ensure!(fd >= 0, "BPF command {command}: {}", io::Error::last_os_error());
    // SAFETY: the kernel has just opened this descriptor, which has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

/// Tags the packets that leave an interface with a priority, until the result is dropped.
fn tag(netns: &NetNs, interface: &str) -> Result<OwnedFd> {
    let program = call(
        BPF_PROG_LOAD,
        Load {
            kind: BPF_PROG_TYPE_SCHED_CLS,
            count: PUSH.len() as u32,
            instructions: PUSH.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
        },
    )?;
    netns.run(|| {
        let interface = if_nametoindex(interface)?;
        call(BPF_LINK_CREATE, [program.as_raw_fd().cast_unsigned(), interface, BPF_TCX_EGRESS, 0])
    })
}

/// Sends ten packets with a priority. Returns how many XDP stripped, and how many the programs decapsulated.
fn received(flag: &str) -> Result<(u64, u64)> {
    let overlay = overlay_with(&[flag])?;
    let node = &overlay.nodes()[0];
    let (one, other) = overlay.two_pods();
    let _tagger = tag(overlay.cluster.fabric().context("a segment has a switch")?, "n0")?;
    let before = (handed_over(node)?, inspect::carried(node)?.1);
    ping(one, other.ip())?;
    let mut session = UdpSession::open(one, other)?;
    (0..9).try_for_each(|_| session.echo(100))?;
    Ok((handed_over(node)? - before.0, inspect::carried(node)?.1 - before.1))
}

#[test]
fn packets_whose_vlan_tag_the_nic_removed_are_stripped() -> TestResult {
    assert_eq!(received("--xdp=off")?, (0, 0), "the kernel device's");
    assert_eq!(received(NATIVE)?, (10, 10));
    Ok(())
}
