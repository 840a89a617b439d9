//! The sender check: who may send from which inner source, however odd the packet is.

use etherparse::{EtherType, IpNumber};
use flannel_common::outcome::{Hook, Outcome};

use super::{
    INNER_PEER_IP, OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Programs, TC_ACT_SHOT, VNI, all_untouched, carried,
    untouched,
};
use crate::packets::{Ipv4, PORT, frame, ipv4, udp, vxlan};

const HOST_MAC: [u8; 6] = [0; 6];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const STRANGER: [u8; 4] = [192, 168, 64, 66];

fn inner(source: [u8; 4]) -> Vec<u8> {
    let packet = ipv4(source.into(), [10, 1, 90, 2].into(), IpNumber::UDP, udp(53, 40000, b"payload"));
    frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &packet.bytes())
}

fn outer(sender: [u8; 4], flags: u8, inner: &[u8]) -> Ipv4 {
    ipv4(sender.into(), OUR_IP.into(), IpNumber::UDP, udp(41000, PORT, &vxlan(flags, VNI, inner)))
}

fn arrives(packet: &Ipv4) -> Vec<u8> {
    frame(HOST_MAC, ROUTER_MAC, EtherType::IPV4, &packet.bytes())
}

/// Packets that are the kernel device's to unwrap, and why.
fn odd(sender: [u8; 4], source: [u8; 4]) -> Vec<(&'static str, Vec<u8>, u32, Outcome)> {
    let plain = || outer(sender, 8, &inner(source));
    let mut checksum = arrives(&plain());
    checksum[41] = 1;
    let mut padded = arrives(&plain());
    padded.extend([0; 4]);
    vec![
        ("group policy", arrives(&outer(sender, 0x88, &inner(source))), 0, Outcome::VxlanFlags),
        ("outer options", arrives(&plain().options([1, 1, 1, 0])), 0, Outcome::OuterOptions),
        ("first fragment", arrives(&plain().fragment(0, true)), 0, Outcome::OuterFragment),
        ("outer checksum", checksum, 0, Outcome::OuterChecksum),
        ("trailing bytes", padded, 0, Outcome::OuterLength),
        ("aggregate", arrives(&plain()), 20, Outcome::GsoAggregate),
    ]
}

/// Outer source, inner source, and what becomes of the packet.
const FORGERIES: [([u8; 4], [u8; 4], Outcome); 8] = [
    (STRANGER, [10, 1, 15, 7], Outcome::ForgedSender),
    (INNER_PEER_IP, [10, 1, 15, 7], Outcome::ForgedSender),
    (PEER_IP, [10, 1, 15, 130], Outcome::ForgedSender),
    (STRANGER, PEER_IP, Outcome::ForgedSender),
    (INNER_PEER_IP, [10, 1, 16, 7], Outcome::ForgedSender),
    (STRANGER, STRANGER, Outcome::UnknownSender),
    (PEER_IP, [10, 1, 77, 7], Outcome::UnknownSender),
    (PEER_IP, [10, 1, 90, 7], Outcome::LoopedSender),
];

#[test]
fn a_forged_packet_is_dropped_and_its_reason_counted() {
    let mut programs = Programs::load();
    for (sender, source, outcome) in FORGERIES {
        let plain = arrives(&outer(sender, 8, &inner(source)));
        let odd = odd(sender, source).into_iter().map(|(what, frame, gso_size, _)| (what, frame, gso_size));
        for (what, frame, gso_size) in odd.chain([("plain", plain, 0)]) {
            let run = programs.run(Hook::UnderlayIngress, &frame, gso_size);
            assert_eq!(
                (run.outcome, run.action),
                (outcome, TC_ACT_SHOT),
                "{what} from {sender:?}/{source:?}"
            );
        }
    }
}

#[test]
fn who_holds_the_source_may_send_whatever_is_odd_about_it() {
    let mut programs = Programs::load();
    let (own_address, lately) = ((PEER_IP, PEER_IP), (PEER_IP, [10, 1, 16, 7]));
    for (sender, source) in
        [(PEER_IP, [10, 1, 15, 7]), (INNER_PEER_IP, [10, 1, 15, 130]), own_address, lately]
    {
        let run = programs.run(Hook::UnderlayIngress, &arrives(&outer(sender, 8, &inner(source))), 0);
        carried(&run, Outcome::Decapsulated, "plain");
        for (what, frame, gso_size, outcome) in odd(sender, source) {
            let run = programs.run(Hook::UnderlayIngress, &frame, gso_size);
            assert_eq!((run.outcome, run.packet), (outcome, frame), "{what}");
        }
    }
}

#[test]
fn what_cannot_be_judged_is_the_kernel_devices() {
    let plain = || outer(STRANGER, 8, &inner([10, 1, 15, 7]));
    let of_type = |ether_type, payload: &[u8]| {
        arrives(&outer(STRANGER, 8, &frame(OUR_MAC, PEER_MAC, ether_type, payload)))
    };
    let other_network = ipv4(
        STRANGER.into(),
        OUR_IP.into(),
        IpNumber::UDP,
        udp(41000, PORT, &vxlan(8, 2, &inner([10, 1, 15, 7]))),
    );
    let table = vec![
        untouched("later fragment", arrives(&plain().fragment(185, false)), Outcome::OuterFragment),
        untouched(
            "another network, odd too",
            arrives(&other_network.options([1, 1, 1, 0])),
            Outcome::OuterOptions,
        ),
        untouched("ARP inside", of_type(EtherType::ARP, &[0; 28]), Outcome::NotIp),
    ];
    all_untouched(&mut Programs::load(), Hook::UnderlayIngress, table);
}

#[test]
fn without_the_check_everything_is_taken_as_flannel_takes_it() {
    let mut programs = Programs::configured(|node| node.v4.source_check = 0);
    for (sender, source, _) in FORGERIES {
        let run = programs.run(Hook::UnderlayIngress, &arrives(&outer(sender, 8, &inner(source))), 0);
        carried(&run, Outcome::Decapsulated, "forged");
        for (what, frame, gso_size, outcome) in odd(sender, source) {
            assert_eq!(programs.run(Hook::UnderlayIngress, &frame, gso_size).outcome, outcome, "{what}");
        }
    }
}
