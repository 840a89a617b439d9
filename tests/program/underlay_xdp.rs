//! XDP of the uplink: what TC would unwrap comes out unwrapped, with word of what the outer headers said; all else as it was.

use aya::programs::TestRunOptions;
use etherparse::{EtherType, IpNumber, TcpHeader, TcpOptionElement};
use flannel_common::abi::LAYOUT;
use flannel_common::node::{NodeConfig, XDP_GENERIC, XDP_NATIVE};
use flannel_common::outcome::{Hook, Outcome};

use super::ecn::combinations;
use super::ipv6::framed_back;
use super::underlay_ingress::{HOST_MAC, arrives, carried_frames, carrying, hosts_own, inner, odd, outer};
use super::{OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Programs, Untouched, VNI, untouched};
use crate::packets::{Ipv4, PORT, frame, ipv4, tcp, udp, vxlan};

const HOOK: Hook = Hook::UnderlayXdp;
const XDP_PASS: u32 = 2;
/// `struct xdp_md` (linux/bpf.h) in words: data, data_end, data_meta, and three more.
const XDP_MD: usize = 6;
const KEY: [u8; 4] = [0xde, 0xad, 0x5e, 0xa1];
const STRANGER: [u8; 4] = [192, 168, 64, 66];

/// What came out: metadata and frame.
pub(super) struct Run {
    pub(super) outcome: Outcome,
    metadata: Vec<u8>,
    pub(super) frame: Vec<u8>,
}

/// What the metadata have to say.
pub(super) struct Word<'a> {
    pub(super) sender: &'a [u8],
    pub(super) tos: u8,
    pub(super) group: [u8; 4],
    pub(super) late: u8,
}

/// Of a packet from there of which there is nothing else to say.
pub(super) fn from(sender: &[u8]) -> Word<'_> {
    Word { sender, tos: 0, group: [0; 4], late: 0 }
}

impl Word<'_> {
    fn bytes(&self) -> Vec<u8> {
        let magic = [b'f', b'l', (self.sender.len() * 8) as u8, LAYOUT as u8];
        [&magic, &KEY, self.sender, &self.group, &[self.tos, self.late, 0, 0]].concat()
    }
}

/// Runs one frame, behind the metadata that another program has left.
fn run_behind(programs: &mut Programs, metadata: &[u8], frame: &[u8]) -> Run {
    let before = programs.counters();
    let sent = [metadata, frame].concat();
    let words = [metadata.len(), sent.len(), 0, 0, 0, 0].map(|word| word as u32);
    let context: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    let (mut told, mut out) = ([0; 4 * XDP_MD], vec![0; sent.len() + 100]);
    let mut options = TestRunOptions::new();
    options.data_in = Some(&sent);
    options.data_out = Some(&mut out);
    options.ctx_in = Some(&context);
    options.ctx_out = Some(&mut told);
    let result =
        programs.test_run(HOOK, options).unwrap_or_else(|error| panic!("{} bytes: {error}", frame.len()));
    assert_eq!(result.return_value, XDP_PASS);
    out.truncate(result.data_size_out as usize);
    let frame_out = out.split_off(u32::from_ne_bytes(told[..4].try_into().unwrap()) as usize);
    let outcome = programs.counted_since(&before, HOOK, frame.len());
    Run { outcome, metadata: out, frame: frame_out }
}

pub(super) fn run(programs: &mut Programs, frame: &[u8]) -> Run {
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

pub(super) fn handed_over(run: &Run, word: &Word<'_>, inner: &[u8], description: &str) {
    assert_eq!(run.outcome, Outcome::HandedOver, "{description}");
    assert_eq!(run.metadata, word.bytes(), "{description}");
    assert_eq!(run.frame, inner, "{description}");
}

pub(super) fn left_alone(programs: &mut Programs, table: Vec<Untouched>) {
    for Untouched { description, frame, outcome, .. } in table {
        let run = run(programs, &frame);
        assert_eq!((run.outcome, run.metadata.len()), (outcome, 0), "{description}");
        assert_eq!(run.frame, frame, "{description}");
    }
}

#[test]
fn strips_what_a_peer_sent_and_leaves_word() {
    let mut programs = native();
    for (description, sent) in carried_frames() {
        handed_over(&run(&mut programs, &carrying(&sent)), &from(&PEER_IP), &sent, description);
    }
}

#[test]
fn the_sender_is_told_and_not_judged() {
    let wrapped = udp(41000, PORT, &vxlan(8, VNI, &inner()));
    let sent = arrives(&ipv4(STRANGER.into(), OUR_IP.into(), IpNumber::UDP, wrapped));
    handed_over(&run(&mut native(), &sent), &from(&STRANGER), &inner(), "a stranger's");
}

#[test]
fn what_the_underlay_says_of_congestion_is_left_to_tc() {
    let mut programs = native();
    for (outer_code_point, inner_code_point, _) in combinations() {
        let packet = ipv4([10, 1, 15, 7].into(), [10, 1, 90, 2].into(), IpNumber::UDP, udp(53, 40000, b"x"));
        let inner = frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &packet.tos(46, inner_code_point).bytes());
        let sent = arrives(&outer(&vxlan(8, VNI, &inner)).tos(10, outer_code_point));
        let word = Word { tos: 10 << 2 | outer_code_point, ..from(&PEER_IP) };
        handed_over(&run(&mut programs, &sent), &word, &inner, "congestion");
    }
}

/// The peer's packet with the first four bytes of the VXLAN header.
fn grouped(flags: [u8; 4]) -> Vec<u8> {
    let mut payload = vxlan(flags[0], VNI, &inner());
    payload[..4].copy_from_slice(&flags);
    arrives(&outer(&payload))
}

#[test]
fn the_group_is_told() {
    let mut programs = configured(|node| (node.xdp, node.group_policy) = (XDP_NATIVE, 1));
    for group in [[0x08, 0, 0, 0], [0x88, 0, 0, 0], [0x88, 0, 0xab, 0xcd], [0x88, 0xff, 0, 1]] {
        let word = Word { group, ..from(&PEER_IP) };
        handed_over(&run(&mut programs, &grouped(group)), &word, &inner(), "a group");
    }
    let odd = untouched("a group without a VNI", grouped([0x80, 0, 0, 42]), Outcome::VxlanFlags);
    left_alone(&mut programs, vec![odd]);
}

#[test]
fn lets_the_host_s_own_traffic_pass() {
    left_alone(&mut native(), hosts_own());
    let mut elsewhere = configured(|node| node.uplink_mac = [2; 6]);
    left_alone(&mut elsewhere, vec![untouched("another MAC", carrying(&inner()), Outcome::NotVxlan)]);
}

#[test]
fn leaves_the_odd_ones_as_they_are() {
    left_alone(&mut native(), odd());
    let other = untouched("IPv6 inside", carrying(&framed_back()), Outcome::OtherFamily);
    left_alone(&mut native(), vec![other]);
}

#[test]
fn does_nothing_before_the_agent_has_written_its_facts() {
    let table = vec![untouched("a good packet", carrying(&inner()), Outcome::NoConfig)];
    left_alone(&mut Programs::unconfigured(), table);
}

/// The kernel has room for so much: 32 bytes before Linux 6.3, then what 256 bytes in front of the frame leave.
#[test]
fn metadata_of_others_stays_in_its_place_and_where_there_is_no_room_the_packet_too() {
    let word = from(&PEER_IP).bytes().len();
    let (mut programs, sent, mut metadata) = (native(), carrying(&inner()), vec![0x77; 4]);
    loop {
        let run = run_behind(&mut programs, &metadata, &sent);
        if run.outcome == Outcome::NoRoom {
            assert_eq!((run.metadata, run.frame), (metadata.clone(), sent));
            break;
        }
        assert_eq!(run.metadata[word..], metadata);
        metadata = run.metadata.clone();
        let ours = Run { metadata: run.metadata[..word].to_vec(), ..run };
        handed_over(&ours, &from(&PEER_IP), &inner(), "behind others");
    }
    assert!((4 + word..256).contains(&metadata.len()), "{} bytes", metadata.len());
}

/// The peer's packet with this one inside, and the frame that comes out.
fn wrapped(packet: &Ipv4) -> (Vec<u8>, Vec<u8>) {
    let inner = frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &packet.bytes());
    (carrying(&inner), inner)
}

fn of(protocol: IpNumber, payload: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    wrapped(&ipv4([10, 1, 15, 7].into(), [10, 1, 90, 2].into(), protocol, payload))
}

#[test]
fn in_generic_mode_nothing_that_may_be_an_aggregate_is_stripped() {
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
        let word = Word { late: 1, ..from(&PEER_IP) };
        handed_over(&run(&mut programs, &sent), &word, &inner, description);
    }
    let doubtful = |description, (sent, _)| untouched(description, sent, Outcome::MaybeAggregate);
    let table = vec![
        doubtful("TCP", segment(1)),
        doubtful("TCP, longer than a packet", segment(1411)),
        doubtful("UDP", datagram(b"payload")),
        doubtful("SCTP", of(IpNumber::SCTP, vec![0; 32])),
        doubtful("a tunnel", of(IpNumber::GRE, vec![0; 60])),
    ];
    left_alone(&mut programs, table);
}
