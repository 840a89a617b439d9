//! Programs for a backend without tunnels, such as host-gw: VXLAN is other people's traffic there.

use etherparse::IpNumber;
use flannel_common::node::{FEATURE_TUNNEL, FEATURE_XDP};
use flannel_common::outcome::{Hook, Outcome};

use super::node::node;
use super::underlay_ingress::{arrives, carrying, inner, outer};
use super::{OUR_IP, PEER_IP, Programs, SkbMeta, TC_ACT_UNSPEC, Untouched, VNI, all_untouched, untouched};
use crate::packets::{PORT, ipv4, udp, vxlan};

/// Loads the programs as for host-gw. The vxlan devices that the configuration names are not there.
fn programs() -> Programs {
    let node = node(|node| {
        (node.flow_cache, node.direct_routing) = (1, 1);
        (node.v4.overlay_ifindex, node.v6.overlay_ifindex) = (0, 0);
    });
    Programs::featured(!(FEATURE_TUNNEL | FEATURE_XDP), node)
}

#[test]
fn vxlan_passes_whoever_sends_it() {
    let stranger = [192, 168, 64, 66];
    let from = |source: [u8; 4]| {
        arrives(&ipv4(
            source.into(),
            OUR_IP.into(),
            IpNumber::UDP,
            udp(41000, PORT, &vxlan(8, VNI, &inner())),
        ))
    };
    let part = |offset, more| arrives(&outer(&vxlan(8, VNI, &inner())).fragment(offset, more));
    let table = vec![
        untouched("of a peer", from(PEER_IP), Outcome::NotVxlan),
        untouched("of a stranger, who forges a peer's pod", from(stranger), Outcome::NotVxlan),
        untouched("of this node itself", from(OUR_IP), Outcome::NotVxlan),
        untouched("of another network", arrives(&outer(&vxlan(8, 2, &inner()))), Outcome::NotVxlan),
        untouched("without an inner frame", arrives(&outer(&vxlan(8, VNI, &[]))), Outcome::NotVxlan),
        untouched("the first fragment", part(0, true), Outcome::NotVxlan),
        untouched("the last fragment", part(3, false), Outcome::NotVxlan),
        Untouched {
            description: "an aggregate",
            frame: carrying(&inner()),
            gso_size: 7,
            outcome: Outcome::NotVxlan,
        },
    ];
    all_untouched(&mut programs(), Hook::UnderlayIngress, table);
}

#[test]
fn vxlan_gets_no_note_of_a_checked_sender() {
    let run = programs().run_with(
        Hook::UnderlayIngress,
        &carrying(&inner()),
        SkbMeta { noted: true, ..SkbMeta::default() },
    );
    assert_eq!((run.action, run.outcome, run.checked), (TC_ACT_UNSPEC, Outcome::NotVxlan, false));
}
