//! XDP of the uplink: packets that TC would unwrap come out unwrapped, with metadata. All others come out unchanged.

use aya::programs::TestRunOptions;
use etherparse::{EtherType, IpNumber, TcpHeader, TcpOptionElement};
use flannel_common::abi::LAYOUT;
use flannel_common::node::{NodeConfig, XDP_GENERIC, XDP_NATIVE};
use flannel_common::outcome::{Hook, Outcome};

use super::ecn::combinations;
use super::ipv6::framed_back;
use super::underlay_ingress::{
    HOST_MAC, arrives, carried_frames, carrying, inner, other_traffic, outer, unusual,
};
use super::{OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Programs, Untouched, VNI, untouched};
use crate::packets::{Ipv4, PORT, frame, ipv4, tcp, udp, vxlan};

const HOOK: Hook = Hook::UnderlayXdp;
const XDP_PASS: u32 = 2;
/// `struct xdp_md` (linux/bpf.h) in words: data, data_end, data_meta, and three more.
const XDP_MD: usize = 6;
const KEY: [u8; 4] = [0xde, 0xad, 0x5e, 0xa1];
const UNKNOWN_NODE: [u8; 4] = [192, 168, 64, 66];

/// Result of a run: metadata and frame.
pub(super) struct XdpResult {
    pub(super) outcome: Outcome,
    metadata: Vec<u8>,
    pub(super) frame: Vec<u8>,
}

/// Expected content of the metadata.
pub(super) struct ExpectedMetadata<'a> {
    pub(super) sender: &'a [u8],
    pub(super) tos: u8,
    pub(super) group: [u8; 4],
    pub(super) late: u8,
}

/// Makes the metadata of a plain packet from this address.
pub(super) fn from(sender: &[u8]) -> ExpectedMetadata<'_> {
    ExpectedMetadata { sender, tos: 0, group: [0; 4], late: 0 }
}

impl ExpectedMetadata<'_> {
    fn bytes(&self) -> Vec<u8> {
        let magic = [b'f', b'l', (self.sender.len() * 8) as u8, LAYOUT as u8];
        [&magic, &KEY, self.sender, &self.group, &[self.tos, self.late, 0, 0]].concat()
    }
}

/// Runs one frame with metadata of another program in front of it.
fn run_behind(programs: &mut Programs, metadata: &[u8], frame: &[u8]) -> XdpResult {
    let before = programs.counters();
    let sent = [metadata, frame].concat();
    let words = [metadata.len(), sent.len(), 0, 0, 0, 0].map(|word| word as u32);
    let context: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    let (mut context_out, mut out) = ([0; 4 * XDP_MD], vec![0; sent.len() + 100]);
    let mut options = TestRunOptions::new();
    options.data_in = Some(&sent);
    options.data_out = Some(&mut out);
    options.ctx_in = Some(&context);
    options.ctx_out = Some(&mut context_out);
    let result =
        programs.test_run(HOOK, options).unwrap_or_else(|error| panic!("{} bytes: {error}", frame.len()));
    assert_eq!(result.return_value, XDP_PASS);
    out.truncate(result.data_size_out as usize);
    let frame_out = out.split_off(u32::from_ne_bytes(context_out[..4].try_into().unwrap()) as usize);
    let outcome = programs.counted_since(&before, HOOK, frame.len());
    XdpResult { outcome, metadata: out, frame: frame_out }
}

pub(super) fn run(programs: &mut Programs, frame: &[u8]) -> XdpResult {
    run_behind(programs, &[], frame)
}

pub(super) fn native() -> Programs {
    configured(|node| node.xdp = XDP_NATIVE)
}

pub(super) fn configured(change: impl FnOnce(&mut NodeConfig)) -> Programs {
    Programs::configured(|node| {
        (node.uplink_mac, node.handover_key) = (HOST_MAC, KEY);
        change(node);
    })
}

pub(super) fn handed_over(run: &XdpResult, expected: &ExpectedMetadata<'_>, inner: &[u8], description: &str) {
    assert_eq!(run.outcome, Outcome::HandedOver, "{description}");
    assert_eq!(run.metadata, expected.bytes(), "{description}");
    assert_eq!(run.frame, inner, "{description}");
}

pub(super) fn all_passed_on(programs: &mut Programs, table: Vec<Untouched>) {
    for Untouched { description, frame, outcome, .. } in table {
        let run = run(programs, &frame);
        // TC looks at what is not for the uplink's address.
        let outcome = if outcome == Outcome::OtherAddress { Outcome::NotVxlan } else { outcome };
        assert_eq!((run.outcome, run.metadata.len()), (outcome, 0), "{description}");
        assert_eq!(run.frame, frame, "{description}");
    }
}

#[test]
fn a_packet_from_a_peer_is_unwrapped_and_gets_metadata() {
    let mut programs = native();
    for (description, sent) in carried_frames() {
        handed_over(&run(&mut programs, &carrying(&sent)), &from(&PEER_IP), &sent, description);
    }
}

#[test]
fn the_sender_is_in_the_metadata_and_not_checked() {
    let wrapped = udp(41000, PORT, &vxlan(8, VNI, &inner()));
    let sent = arrives(&ipv4(UNKNOWN_NODE.into(), OUR_IP.into(), IpNumber::UDP, wrapped));
    handed_over(&run(&mut native(), &sent), &from(&UNKNOWN_NODE), &inner(), "an unknown sender");
}

#[test]
fn outer_congestion_is_left_to_tc() {
    let mut programs = native();
    for (outer_code_point, inner_code_point, _) in combinations() {
        let packet = ipv4([10, 1, 15, 7].into(), [10, 1, 90, 2].into(), IpNumber::UDP, udp(53, 40000, b"x"));
        let inner = frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &packet.tos(46, inner_code_point).bytes());
        let sent = arrives(&outer(&vxlan(8, VNI, &inner)).tos(10, outer_code_point));
        let expected = ExpectedMetadata { tos: 10 << 2 | outer_code_point, ..from(&PEER_IP) };
        handed_over(&run(&mut programs, &sent), &expected, &inner, "congestion");
    }
}

/// Makes the peer's packet with these first bytes of the VXLAN header.
fn grouped(flags: [u8; 4]) -> Vec<u8> {
    let mut payload = vxlan(flags[0], VNI, &inner());
    payload[..4].copy_from_slice(&flags);
    arrives(&outer(&payload))
}

#[test]
fn the_group_is_in_the_metadata() {
    let mut programs = configured(|node| (node.xdp, node.group_policy) = (XDP_NATIVE, 1));
    for group in [[0x08, 0, 0, 0], [0x88, 0, 0, 0], [0x88, 0, 0xab, 0xcd], [0x88, 0xff, 0, 1]] {
        let expected = ExpectedMetadata { group, ..from(&PEER_IP) };
        handed_over(&run(&mut programs, &grouped(group)), &expected, &inner(), "a group");
    }
    let unusual = untouched("a group without a VNI", grouped([0x80, 0, 0, 42]), Outcome::VxlanFlags);
    all_passed_on(&mut programs, vec![unusual]);
}

#[test]
fn other_traffic_is_passed_on() {
    all_passed_on(&mut native(), other_traffic());
    let mut elsewhere = configured(|node| node.uplink_mac = [2; 6]);
    all_passed_on(&mut elsewhere, vec![untouched("another MAC", carrying(&inner()), Outcome::NotVxlan)]);
}

#[test]
fn unusual_packets_are_passed_on() {
    all_passed_on(&mut native(), unusual());
    let other = untouched("IPv6 inside", carrying(&framed_back()), Outcome::OtherFamily);
    all_passed_on(&mut native(), vec![other]);
}

#[test]
fn packets_are_passed_on_before_the_agent_has_written_its_configuration() {
    let table = vec![untouched("a good packet", carrying(&inner()), Outcome::NoConfig)];
    all_passed_on(&mut Programs::unconfigured(), table);
}

/// The kernel's limit for metadata is 32 bytes before Linux 6.3, and then what fits the 256 bytes in front of the frame.
#[test]
fn metadata_of_other_programs_stays_and_a_packet_without_room_for_more_is_passed_on() {
    let own_len = from(&PEER_IP).bytes().len();
    let (mut programs, sent, mut metadata) = (native(), carrying(&inner()), vec![0x77; 4]);
    loop {
        let run = run_behind(&mut programs, &metadata, &sent);
        if run.outcome == Outcome::NoRoom {
            assert_eq!((run.metadata, run.frame), (metadata.clone(), sent));
            break;
        }
        assert_eq!(run.metadata[own_len..], metadata);
        metadata = run.metadata.clone();
        let own = XdpResult { metadata: run.metadata[..own_len].to_vec(), ..run };
        handed_over(&own, &from(&PEER_IP), &inner(), "after metadata of another program");
    }
    assert!((4 + own_len..256).contains(&metadata.len()), "{} bytes", metadata.len());
}

/// Makes the peer's packet with this one inside, and the inner frame.
fn wrapped(packet: &Ipv4) -> (Vec<u8>, Vec<u8>) {
    let inner = frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &packet.bytes());
    (carrying(&inner), inner)
}

fn of(protocol: IpNumber, payload: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    wrapped(&ipv4([10, 1, 15, 7].into(), [10, 1, 90, 2].into(), protocol, payload))
}

#[test]
fn in_generic_mode_a_packet_that_may_be_an_aggregate_is_passed_on() {
    let mut programs = configured(|node| node.xdp = XDP_GENERIC);
    let segment = |length| of(IpNumber::TCP, tcp(80, 40000, |_| {}, &vec![7; length]));
    let datagram = |payload: &[u8]| of(IpNumber::UDP, udp(53, 40000, payload));
    let options = |tcp: &mut TcpHeader| tcp.set_options(&[TcpOptionElement::Timestamp(1, 2)]).unwrap();
    for (description, (sent, inner)) in [
        ("an acknowledgement", segment(0)),
        ("one with options", of(IpNumber::TCP, tcp(80, 40000, options, &[]))),
        ("an empty datagram", datagram(&[])),
        ("a ping", of(IpNumber::ICMP, vec![8, 0, 0, 0, 0, 1, 0, 1])),
    ] {
        let expected = ExpectedMetadata { late: 1, ..from(&PEER_IP) };
        handed_over(&run(&mut programs, &sent), &expected, &inner, description);
    }
    let doubtful = |description, (sent, _)| untouched(description, sent, Outcome::MaybeAggregate);
    let table = vec![
        doubtful("TCP", segment(1)),
        doubtful("TCP, longer than a packet", segment(1411)),
        doubtful("UDP", datagram(b"payload")),
        doubtful("SCTP", of(IpNumber::SCTP, vec![0; 32])),
        doubtful("a tunnel", of(IpNumber::GRE, vec![0; 60])),
    ];
    all_passed_on(&mut programs, table);
}
