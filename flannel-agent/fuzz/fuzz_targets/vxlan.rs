//! Outer headers of packets that an uplink receives: what the programs accept is decided again here, byte by byte.
//!
//! The first byte chooses group policy, and whether the frame is for this host. The second byte is by how much the frame is longer than
//! what can be read. The rest is the frame.
#![no_main]

#[path = "../src/memory.rs"]
mod memory;

use std::ptr::null_mut;
use std::sync::LazyLock;

use aya_ebpf::programs::TcContext;
use flannel_common::node::{NodeConfig, OverlayEnd};
use flannel_common::outcome::Outcome;
use flannel_ebpf::group;
use flannel_ebpf::maps::{EndRef, IpFamily, NodeRef};
use flannel_ebpf::packet::{Header as _, PacketAccess};
use flannel_ebpf::stage::parse::{self, InnerFrame, OuterFields, Underlay};
use libfuzzer_sys::fuzz_target;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

const VNI: u32 = 0x01_0203;
const PORT: u16 = 8472;
const LOCAL4: [u8; 4] = [192, 168, 64, 1];
const LOCAL6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ETHERNET: usize = 14;

/// The node's configuration without and with group policy.
static NODES: LazyLock<[NodeConfig; 2]> = LazyLock::new(|| {
    [0, 1].map(|group_policy| NodeConfig {
        layout: 1,
        vni: VNI,
        group_policy,
        port: PORT.to_be_bytes(),
        v4: OverlayEnd { uplink_ifindex: 2, overlay_ifindex: 7, local_ip: LOCAL4, ..OverlayEnd::default() },
        v6: OverlayEnd { uplink_ifindex: 2, overlay_ifindex: 8, local_ip: LOCAL6, ..OverlayEnd::default() },
        ..NodeConfig::default()
    })
});

/// A frame in this process's memory.
struct Frame<'a> {
    ctx: TcContext,
    bytes: &'a [u8],
    len: u32,
    for_host: bool,
}

impl PacketAccess for Frame<'_> {
    type Context = TcContext;
    const PASS: i32 = 0;
    const DROP: i32 = 2;

    fn ctx(&self) -> &TcContext {
        &self.ctx
    }

    fn data(&self) -> usize {
        self.bytes.as_ptr().addr()
    }

    fn data_end(&self) -> usize {
        self.bytes.as_ptr_range().end.addr()
    }

    fn frame_len(&self) -> u32 {
        self.len
    }

    fn gso_size(&self) -> u32 {
        0
    }

    fn is_for_host(&self, _: NodeRef) -> bool {
        self.for_host
    }

    fn is_untagged(&self) -> bool {
        true
    }

    fn pull(&self, _: u32) {}
}

fuzz_target!(|input: &[u8]| {
    let [flags, more, bytes @ ..] = input else { return };
    let (policy, for_host) = (flags & 1 != 0, flags & 2 == 0);
    let node = NodeRef::from(&NODES[usize::from(policy)]);
    let len = bytes.len() as u32 + u32::from(*more);
    // In memory of its own, so that a read behind its end is one behind what was allocated.
    let memory: Box<[u8]> = bytes.into();
    let frame = Frame { ctx: TcContext::new(null_mut()), bytes: &memory, len, for_host };
    match parse::underlay(&frame) {
        Ok(Underlay::V4) => {
            let found = parse::outer::<Ipv4Hdr>(&frame, node, node.v4());
            check(found, &frame, policy, 20, &accepted_ip4);
            check_inner::<Ipv4Hdr>(&frame, ETHERNET + 36, node.v4());
        }
        Ok(Underlay::V6) => {
            let found = parse::outer::<Ipv6Hdr>(&frame, node, node.v6());
            check(found, &frame, policy, 40, &accepted_ip6);
            check_inner::<Ipv6Hdr>(&frame, ETHERNET + 56, node.v6());
        }
        Err(outcome) => {
            assert_eq!(outcome, Outcome::NotVxlan);
            let ip = bytes.get(12..14).is_some_and(|kind| kind == [8, 0] || kind == [0x86, 0xdd]);
            assert!(!ip || bytes.len() < ETHERNET, "an IP packet is taken for another one");
        }
    }
});

/// Returns the number of two bytes there.
fn number(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])
}

/// Whether it is a plain IPv4 header to this node with UDP behind it, and the right length and checksum. `ip` begins with it.
fn accepted_ip4(ip: &[u8], frame_len: usize) -> bool {
    let mut sum = (0..20).step_by(2).map(|at| number(ip, at)).sum::<usize>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    ip[0] == 0x45
        && number(ip, 2) + ETHERNET == frame_len
        && number(ip, 6) & 0x3fff == 0
        && ip[9] == 17
        && sum == 0xffff
        && ip[16..20] == LOCAL4
        && number(ip, 20 + 6) == 0
        && number(ip, 20 + 4) + 20 == number(ip, 2)
}

/// The same for IPv6, where UDP must have a checksum.
fn accepted_ip6(ip: &[u8], frame_len: usize) -> bool {
    ip[0] >> 4 == 6
        && number(ip, 4) + 40 + ETHERNET == frame_len
        && ip[6] == 17
        && ip[24..40] == LOCAL6
        && number(ip, 40 + 6) != 0
        && number(ip, 40 + 4) == number(ip, 4)
}

/// Checks that outer headers are accepted if and only if they are those of a plain VXLAN packet to this node.
fn check<A: PartialEq + std::fmt::Debug + AsRef<[u8]>>(
    found: Result<OuterFields<A>, Outcome>,
    frame: &Frame<'_>,
    policy: bool,
    ip_len: usize,
    accepted_ip: &dyn Fn(&[u8], usize) -> bool,
) {
    let ip = &frame.bytes[ETHERNET..];
    let whole = ip.len() >= ip_len + 16;
    let vxlan = whole.then(|| &ip[ip_len + 8..]);
    let expected = vxlan.is_some_and(|vxlan| {
        let group = if policy { vxlan[0] & 0x80 } else { 0 };
        frame.for_host
            && accepted_ip(ip, frame.len as usize)
            && number(ip, ip_len + 2) == usize::from(PORT)
            && vxlan[0] == 8 | group
            && vxlan[4..7] == VNI.to_be_bytes()[1..]
    });
    assert_eq!(found.is_ok(), expected, "{:?}", found.as_ref().err());
    let (Ok(fields), Some(vxlan)) = (found, vxlan) else { return };
    let source = if ip_len == 20 { &ip[12..16] } else { &ip[8..24] };
    assert_eq!(fields.sender.as_ref(), source);
    let tos = if ip_len == 20 { ip[1] } else { ip[0] << 4 | ip[1] >> 4 };
    assert_eq!(fields.tos, tos);
    // The group's bits are where draft-smith-vxlan-group-policy has them. What has none gives no mark.
    let (flags, id) = (u32::from(vxlan[1]), number(vxlan, 2) as u32);
    let mark = (policy && vxlan[0] & 0x80 != 0).then_some((flags & 0x48) << 16 | id);
    assert_eq!(group::mark(fields.group), mark);
    if let Some(mark) = mark.filter(|mark| *mark != 0) {
        let sent = group::header(VNI, mark);
        assert_eq!(group::mark(group::bytes(&sent)), Some(mark), "the group is sent as it came");
        assert_eq!(sent.bytes()[4..], [1, 2, 3, 0]);
    }
}

/// Checks that an inner frame is read as it stands there, and that nothing behind the frame's end is read.
fn check_inner<H: IpFamily>(frame: &Frame<'_>, offset: usize, _end: EndRef<H::Address>) {
    let Some(bytes) = frame.bytes.get(offset..) else {
        assert!(parse::frame_at(frame, offset).is_err());
        return;
    };
    match parse::frame_at(frame, offset) {
        Ok(InnerFrame::V4(inner)) => {
            assert_eq!((bytes[12..14].to_vec(), bytes[14] >> 4), (vec![8, 0], 4));
            assert_eq!(inner.ip.bytes(), &bytes[14..34]);
            let read =
                parse::transport(frame, &inner).map(|read| (read.source, read.destination, read.control));
            let plain = bytes[14] == 0x45 && number(bytes, 20) & 0x3fff == 0;
            check_transport(read, bytes, 34, plain, bytes[23]);
        }
        Ok(InnerFrame::V6(inner)) => {
            assert_eq!((bytes[12..14].to_vec(), bytes[14] >> 4), (vec![0x86, 0xdd], 6));
            assert_eq!(inner.ip.bytes(), &bytes[14..54]);
            let read =
                parse::transport(frame, &inner).map(|read| (read.source, read.destination, read.control));
            check_transport(read, bytes, 54, true, bytes[20]);
        }
        Err(outcome) => {
            let family = bytes.get(12..14).map(|kind| (kind == [8, 0], kind == [0x86, 0xdd]));
            let len = match family {
                Some((true, _)) => 34,
                Some((_, true)) => 54,
                _ => 14,
            };
            let version = bytes.get(14).map(|byte| byte >> 4);
            let wrong = (len == 34 && version != Some(4)) || (len == 54 && version != Some(6)) || len == 14;
            assert!(bytes.len() < len || wrong, "a whole inner frame is refused: {outcome:?}");
        }
    }
}

/// Checks ports and TCP flags of an inner packet whose transport header begins at `at`.
fn check_transport(
    read: Result<([u8; 2], [u8; 2], bool), Outcome>,
    bytes: &[u8],
    at: usize,
    plain: bool,
    protocol: u8,
) {
    let needed = if protocol == 6 { 20 } else { 8 };
    let expected = plain && matches!(protocol, 6 | 17) && bytes.len() >= at + needed;
    assert_eq!(read.is_ok(), expected, "{read:?}");
    let Ok((source, destination, control)) = read else { return };
    assert_eq!((&source[..], &destination[..]), (&bytes[at..at + 2], &bytes[at + 2..at + 4]));
    assert_eq!(control, protocol == 6 && bytes[at + 13] & 7 != 0);
}
