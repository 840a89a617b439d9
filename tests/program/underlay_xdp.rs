//! XDP of the uplink: what TC would unwrap comes out unwrapped, with word of its sender; all else as it was.

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use etherparse::{EtherType, IpNumber, TcpHeader, TcpOptionElement};
use flannel_common::abi::LAYOUT;
use flannel_common::node::{Node, XDP_GENERIC, XDP_NATIVE};
use flannel_common::outcome::{Hook, Outcome};

use super::underlay_ingress::{HOST_MAC, arrives, carried_frames, carrying, hosts_own, inner, odd};
use super::{OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Programs, Untouched, VNI, untouched};
use crate::packets::{Ipv4, PORT, frame, ipv4, tcp, udp, vxlan};

const HOOK: Hook = Hook::UnderlayXdp;
const XDP_PASS: u32 = 2;
/// `struct xdp_md` (linux/bpf.h) in words: data, data_end, data_meta, and three more.
const XDP_MD: usize = 6;
const KEY: [u8; 4] = [0xde, 0xad, 0x5e, 0xa1];
const STRANGER: [u8; 4] = [192, 168, 64, 66];

/// What came out: metadata and frame.
struct Run {
    outcome: Outcome,
    metadata: Vec<u8>,
    frame: Vec<u8>,
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
    let program: &Xdp = programs.0.program(HOOK.program()).unwrap().try_into().unwrap();
    let result = program.test_run(options).unwrap_or_else(|error| panic!("{} bytes: {error}", frame.len()));
    assert_eq!(result.return_value, XDP_PASS);
    out.truncate(result.data_size_out as usize);
    let frame_out = out.split_off(u32::from_ne_bytes(told[..4].try_into().unwrap()) as usize);
    let outcome = programs.counted_since(&before, HOOK, frame.len());
    Run { outcome, metadata: out, frame: frame_out }
}

fn run(programs: &mut Programs, frame: &[u8]) -> Run {
    run_behind(programs, &[], frame)
}

fn native() -> Programs {
    configured(|node| node.xdp = XDP_NATIVE)
}

fn configured(change: impl FnOnce(&mut Node)) -> Programs {
    Programs::configured(|node| {
        (node.uplink_mac, node.handover_key) = (HOST_MAC, KEY);
        change(node);
    })
}

/// The metadata of a packet from there.
fn word(source: [u8; 4], late: u8) -> Vec<u8> {
    [[b'f', b'l', b'x', LAYOUT as u8], KEY, source, [late, 0, 0, 0]].concat()
}

fn handed_over(run: &Run, source: [u8; 4], late: u8, inner: &[u8], description: &str) {
    assert_eq!(run.outcome, Outcome::HandedOver, "{description}");
    assert_eq!(run.metadata, word(source, late), "{description}");
    assert_eq!(run.frame, inner, "{description}");
}

fn left_alone(programs: &mut Programs, table: Vec<Untouched>) {
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
        handed_over(&run(&mut programs, &carrying(&sent)), PEER_IP, 0, &sent, description);
    }
}

#[test]
fn the_sender_is_told_and_not_judged() {
    let wrapped = udp(41000, PORT, &vxlan(8, VNI, &inner()));
    let sent = arrives(&ipv4(STRANGER.into(), OUR_IP.into(), IpNumber::UDP, wrapped));
    handed_over(&run(&mut native(), &sent), STRANGER, 0, &inner(), "a stranger's");
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
}

#[test]
fn does_nothing_before_the_agent_has_written_its_facts() {
    let table = vec![untouched("a good packet", carrying(&inner()), Outcome::NoConfig)];
    left_alone(&mut Programs::unconfigured(), table);
}

/// The kernel has room for so much: 32 bytes before Linux 6.3, then what 256 bytes in front of the frame leave.
#[test]
fn metadata_of_others_stays_in_its_place_and_where_there_is_no_room_the_packet_too() {
    let (mut programs, sent, mut metadata) = (native(), carrying(&inner()), vec![0x77; 4]);
    loop {
        let run = run_behind(&mut programs, &metadata, &sent);
        if run.outcome == Outcome::NoRoom {
            assert_eq!((run.metadata, run.frame), (metadata.clone(), sent));
            break;
        }
        handed_over(
            &Run { metadata: run.metadata[..16].to_vec(), ..run },
            PEER_IP,
            0,
            &inner(),
            "behind others",
        );
        assert_eq!(run.metadata[16..], metadata);
        metadata = run.metadata;
    }
    assert!((20..256).contains(&metadata.len()), "{} bytes", metadata.len());
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
        handed_over(&run(&mut programs, &sent), PEER_IP, 1, &inner, description);
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
