//! The sender check: which node may send from which inner source, also in packets that only the kernel can unwrap.

use etherparse::{EtherType, IpNumber};
use flannel_common::lease;
use flannel_common::node::{SOURCE_CHECK_OFF, SOURCE_CHECK_PODS};
use flannel_common::outcome::{Hook, Outcome};

use super::{
    INNER_PEER_IP, OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Programs, SkbMeta, TC_ACT_SHOT, TC_ACT_UNSPEC, VNI,
    all_untouched, carried, untouched,
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
            assert_eq!((run.outcome, run.packet, run.checked), (outcome, frame, true), "{what}");
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
        untouched("a first fragment before the inner source", arrives(&tiny()), Outcome::OuterFragment),
    ];
    all_untouched(&mut Programs::load(), Hook::UnderlayIngress, table);
}

/// Makes a first fragment with a UDP header and nothing else.
fn tiny() -> Ipv4 {
    let mut packet = outer(PEER_IP, 8, &inner([10, 1, 15, 7])).fragment(0, true);
    packet.payload.truncate(8);
    packet.header.set_payload_len(8).unwrap();
    packet
}

#[test]
fn a_node_may_send_from_addresses_outside_the_pods_network_unless_the_check_is_strict() {
    let mut programs = Programs::configured(|node| node.v4.source_check = SOURCE_CHECK_PODS);
    let node =
        lease::Lease { public_ip: INNER_PEER_IP, vtep_mac: PEER_MAC, flags: lease::NODE, route_mtu: 0 };
    programs.lease(32, INNER_PEER_IP, node);
    // A second address of the peer, and one of a network that is routed through it.
    for source in [[192, 168, 65, 2], [203, 0, 113, 9]] {
        let packet = || outer(PEER_IP, 8, &inner(source));
        let run = programs.run(Hook::UnderlayIngress, &arrives(&packet()), 0);
        carried(&run, Outcome::Decapsulated, "plain");
        let run = programs.run(Hook::UnderlayIngress, &arrives(&packet()), 20);
        assert_eq!((run.outcome, run.checked), (Outcome::GsoAggregate, true));
        let strict = Programs::load().run(Hook::UnderlayIngress, &arrives(&packet()), 0);
        assert_eq!(strict.outcome, Outcome::UnknownSender);
    }
    let others = [
        (PEER_IP, INNER_PEER_IP, Outcome::ForgedSender),
        (UNKNOWN_NODE, [203, 0, 113, 9], Outcome::UnknownSender),
        (OUR_IP, [203, 0, 113, 9], Outcome::UnknownSender),
        (PEER_IP, OUR_IP, Outcome::LoopedSender),
    ];
    for (sender, source, outcome) in FORGERIES.into_iter().chain(others) {
        let run = programs.run(Hook::UnderlayIngress, &arrives(&outer(sender, 8, &inner(source))), 0);
        assert_eq!((run.outcome, run.action), (outcome, TC_ACT_SHOT), "from {sender:?}/{source:?}");
    }
}

#[test]
fn packets_that_are_not_for_the_uplink_s_address_pass_and_only_accepted_ones_are_noted() {
    let mut programs = Programs::load();
    let elsewhere =
        |sender: [u8; 4], protocol, content| ipv4(sender.into(), [172, 31, 9, 1].into(), protocol, content);
    let from =
        |sender| elsewhere(sender, IpNumber::UDP, udp(41000, PORT, &vxlan(8, VNI, &inner([10, 1, 15, 7]))));
    let other_port =
        elsewhere(PEER_IP, IpNumber::UDP, udp(41000, 53, &vxlan(8, VNI, &inner([10, 1, 15, 7]))));
    let other_vni = elsewhere(PEER_IP, IpNumber::UDP, udp(41000, PORT, &vxlan(8, 2, &inner([10, 1, 15, 7]))));
    let ipsec = |protocol| elsewhere(UNKNOWN_NODE, IpNumber(protocol), vec![0; 40]);
    let behind_nat = elsewhere(UNKNOWN_NODE, IpNumber::UDP, udp(41000, 4500, &[0; 40]));
    let mut tiny = tiny();
    tiny.header.destination = [172, 31, 9, 1];
    let table = [
        ("the peer", from(PEER_IP), true),
        ("the peer, with options", from(PEER_IP).options([1, 1, 1, 0]), true),
        ("the peer, a first fragment", from(PEER_IP).fragment(0, true), true),
        ("the peer, a later fragment", from(PEER_IP).fragment(185, false), false),
        ("the peer, a first fragment before the inner source", tiny, false),
        ("a stranger", from(UNKNOWN_NODE), false),
        ("another node", from(INNER_PEER_IP), false),
        ("another port", other_port, false),
        ("another network", other_vni, false),
        ("TCP", elsewhere(PEER_IP, IpNumber::TCP, vec![0; 40]), false),
        ("IPsec, encrypted", ipsec(50), true),
        ("IPsec, authenticated", ipsec(51), true),
        ("IPsec behind NAT", behind_nat, true),
    ];
    for (description, packet, accepted) in table {
        let frame = arrives(&packet);
        let outcome = if accepted { Outcome::OtherAddress } else { Outcome::NotVxlan };
        for hook in [Hook::UnderlayIngress, Hook::SideIngress] {
            let run = programs.run(hook, &frame, 0);
            assert_eq!(
                (run.outcome, run.action, run.checked),
                (outcome, TC_ACT_UNSPEC, accepted),
                "{description} at {}",
                hook.program()
            );
            assert_eq!(run.packet, frame, "{description}");
        }
    }
    let run = programs.run(Hook::SideIngress, &arrives(&outer(PEER_IP, 8, &inner([10, 1, 15, 7]))), 0);
    assert_eq!((run.outcome, run.checked), (Outcome::OtherAddress, true), "the uplink's address, elsewhere");
}

#[test]
fn a_note_that_a_packet_brings_along_is_taken_away() {
    let mut programs = Programs::load();
    let forged = arrives(&outer(UNKNOWN_NODE, 8, &inner([10, 1, 15, 7])));
    let other = arrives(&ipv4(UNKNOWN_NODE.into(), OUR_IP.into(), IpNumber::TCP, vec![0; 40]));
    for (hook, frame) in
        [(Hook::SideIngress, &forged), (Hook::SideIngress, &other), (Hook::UnderlayIngress, &other)]
    {
        let run = programs.run_with(hook, frame, SkbMeta { noted: true, ..SkbMeta::default() });
        assert!(!run.checked, "{} {}", hook.program(), run.outcome.name());
    }
}

#[test]
fn ip_without_the_note_of_a_checked_sender_ends_at_the_vxlan_device() {
    let run = |programs: &mut Programs, frame: &[u8], unchecked| {
        let run = programs.run_with(Hook::OverlayIngress, frame, SkbMeta { unchecked, ..SkbMeta::default() });
        assert!(!run.checked, "the note is taken away");
        run.outcome
    };
    let packet = inner([10, 1, 15, 7]);
    let arp = frame(OUR_MAC, PEER_MAC, EtherType::ARP, &[0; 28]);
    let ipv6 = frame(OUR_MAC, PEER_MAC, EtherType::IPV6, &[0x60; 60]);
    let mut programs = Programs::load();
    for (frame, unchecked, outcome) in [
        (&packet, true, Outcome::UncheckedSender),
        (&packet, false, Outcome::FlowCacheOff),
        (&ipv6, true, Outcome::UncheckedSender),
        (&arp, true, Outcome::FlowCacheOff),
    ] {
        assert_eq!(run(&mut programs, frame, unchecked), outcome);
    }
    let changes: [fn(&mut flannel_common::node::NodeConfig); 2] =
        [|node| node.v4.source_check = SOURCE_CHECK_OFF, |node| node.only_checked = 0];
    for change in changes {
        assert_eq!(run(&mut Programs::configured(change), &packet, true), Outcome::FlowCacheOff);
    }
}

#[test]
fn without_the_check_all_senders_are_accepted() {
    let mut programs = Programs::configured(|node| node.v4.source_check = SOURCE_CHECK_OFF);
    for (sender, source, _) in FORGERIES {
        let run = programs.run(Hook::UnderlayIngress, &arrives(&outer(sender, 8, &inner(source))), 0);
        carried(&run, Outcome::Decapsulated, "forged");
        for (what, frame, gso_size, outcome) in unusual(sender, source) {
            assert_eq!(programs.run(Hook::UnderlayIngress, &frame, gso_size).outcome, outcome, "{what}");
        }
    }
}
