//! The sender check: which node may send from which inner source, also in packets that only the kernel can unwrap.

use etherparse::{EtherType, IpNumber};
use flannel_common::outcome::{Hook, Outcome};

use super::{
    INNER_PEER_IP, OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Programs, TC_ACT_SHOT, VNI, all_untouched, carried,
    untouched,
};
use crate::packets::{Ipv4, PORT, frame, ipv4, udp, vxlan};

const HOST_MAC: [u8; 6] = [0; 6];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const UNKNOWN_NODE: [u8; 4] = [192, 168, 64, 66];

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

/// Makes packets that only the kernel's vxlan device can unwrap, and their outcomes.
fn unusual(sender: [u8; 4], source: [u8; 4]) -> Vec<(&'static str, Vec<u8>, u32, Outcome)> {
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

/// Outer source, inner source, and the outcome.
const FORGERIES: [([u8; 4], [u8; 4], Outcome); 8] = [
    (UNKNOWN_NODE, [10, 1, 15, 7], Outcome::ForgedSender),
    (INNER_PEER_IP, [10, 1, 15, 7], Outcome::ForgedSender),
    (PEER_IP, [10, 1, 15, 130], Outcome::ForgedSender),
    (UNKNOWN_NODE, PEER_IP, Outcome::ForgedSender),
    (INNER_PEER_IP, [10, 1, 16, 7], Outcome::ForgedSender),
    (UNKNOWN_NODE, UNKNOWN_NODE, Outcome::UnknownSender),
    (PEER_IP, [10, 1, 77, 7], Outcome::UnknownSender),
    (PEER_IP, [10, 1, 90, 7], Outcome::LoopedSender),
];

#[test]
fn a_forged_packet_is_dropped_and_counted() {
    let mut programs = Programs::load();
    for (sender, source, outcome) in FORGERIES {
        let plain = arrives(&outer(sender, 8, &inner(source)));
        let unusual =
            unusual(sender, source).into_iter().map(|(what, frame, gso_size, _)| (what, frame, gso_size));
        for (what, frame, gso_size) in unusual.chain([("plain", plain, 0)]) {
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
fn the_holder_of_the_source_may_send_unusual_packets() {
    let mut programs = Programs::load();
    let (own_address, just_ended) = ((PEER_IP, PEER_IP), (PEER_IP, [10, 1, 16, 7]));
    for (sender, source) in
        [(PEER_IP, [10, 1, 15, 7]), (INNER_PEER_IP, [10, 1, 15, 130]), own_address, just_ended]
    {
        let run = programs.run(Hook::UnderlayIngress, &arrives(&outer(sender, 8, &inner(source))), 0);
        carried(&run, Outcome::Decapsulated, "plain");
        for (what, frame, gso_size, outcome) in unusual(sender, source) {
            let run = programs.run(Hook::UnderlayIngress, &frame, gso_size);
            assert_eq!((run.outcome, run.packet), (outcome, frame), "{what}");
        }
    }
}

#[test]
fn a_packet_whose_sender_cannot_be_checked_goes_to_the_kernel_device() {
    let plain = || outer(UNKNOWN_NODE, 8, &inner([10, 1, 15, 7]));
    let of_type = |ether_type, payload: &[u8]| {
        arrives(&outer(UNKNOWN_NODE, 8, &frame(OUR_MAC, PEER_MAC, ether_type, payload)))
    };
    let other_network = ipv4(
        UNKNOWN_NODE.into(),
        OUR_IP.into(),
        IpNumber::UDP,
        udp(41000, PORT, &vxlan(8, 2, &inner([10, 1, 15, 7]))),
    );
    let table = vec![
        untouched("later fragment", arrives(&plain().fragment(185, false)), Outcome::OuterFragment),
        untouched(
            "another network, and outer options",
            arrives(&other_network.options([1, 1, 1, 0])),
            Outcome::OuterOptions,
        ),
        untouched("ARP inside", of_type(EtherType::ARP, &[0; 28]), Outcome::NotIp),
    ];
    all_untouched(&mut Programs::load(), Hook::UnderlayIngress, table);
}

#[test]
fn without_the_check_all_senders_are_accepted() {
    let mut programs = Programs::configured(|node| node.v4.source_check = 0);
    for (sender, source, _) in FORGERIES {
        let run = programs.run(Hook::UnderlayIngress, &arrives(&outer(sender, 8, &inner(source))), 0);
        carried(&run, Outcome::Decapsulated, "forged");
        for (what, frame, gso_size, outcome) in unusual(sender, source) {
            assert_eq!(programs.run(Hook::UnderlayIngress, &frame, gso_size).outcome, outcome, "{what}");
        }
    }
}
