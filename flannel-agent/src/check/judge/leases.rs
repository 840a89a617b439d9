//! What two nodes must not have in common. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::check::model::{Check, Finding};
use crate::mac::Mac;
use crate::status::model::{PeerStatus, Way};

/// This node, as others know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::check) struct OwnNode {
    /// Its public addresses.
    pub(in crate::check) addresses: Vec<IpAddr>,
    /// The MACs of its vxlan devices.
    pub(in crate::check) macs: Vec<Mac>,
}

/// How this node is called beside the subnets of others.
const HERE: &str = "this node";
/// So many groups of nodes are named.
const NAMED: usize = 5;

/// Judges whether each node has a public address of its own.
pub(in crate::check) fn addresses(own: &OwnNode, peers: &[PeerStatus]) -> Vec<Finding> {
    let mut holders = BTreeMap::<IpAddr, Vec<(String, Option<Mac>)>>::new();
    for address in &own.addresses {
        holders.entry(*address).or_default().push((HERE.to_owned(), None));
    }
    for peer in peers {
        holders.entry(peer.public_ip).or_default().push((peer.subnet.clone(), peer.mac));
    }
    let shared = holders.into_iter().filter(|(_, holders)| holders.len() > 1);
    let mut findings: Vec<_> = shared.map(|(address, holders)| shared_address(address, &holders)).collect();
    shorten(&mut findings);
    if findings.is_empty() {
        findings.push(Check::SharedAddress.ok("each node has its own"));
    }
    findings
}

fn shared_address(address: IpAddr, holders: &[(String, Option<Mac>)]) -> Finding {
    let names = listed(holders.iter().map(|(name, _)| name.as_str()));
    let is_one_device = holders.windows(2).all(|pair| pair[0].1 == pair[1].1 && pair[0].1.is_some());
    if is_one_device {
        return Check::SharedAddress.warning(
            format!("one node, {address}, has several leases: {names}"),
            "the node had another subnet before. A lease that nobody renews ends within 24 h, or delete the old one in the datastore",
        );
    }
    Check::SharedAddress.error(
        format!("several nodes have the public address {address}: {names}"),
        "packets for all of them go to one. If the uplink is the wrong interface there (10.0.2.15 with Vagrant), name another one by \
         --iface; behind NAT set --public-ip; a lease of a node that is gone ends within 24 h, or delete it in the datastore",
    )
}

/// Judges whether each node has a MAC of its own in the tunnel.
pub(in crate::check) fn macs(own: &OwnNode, peers: &[PeerStatus]) -> Vec<Finding> {
    let mut holders = BTreeMap::<(Mac, bool), Vec<(String, Option<IpAddr>)>>::new();
    for mac in &own.macs {
        for v6 in [false, true] {
            holders.entry((*mac, v6)).or_default().push((HERE.to_owned(), None));
        }
    }
    for peer in peers {
        if let Some(mac) = peer.mac {
            let holder = (peer.subnet.clone(), Some(peer.public_ip));
            holders.entry((mac, peer.public_ip.is_ipv6())).or_default().push(holder);
        }
    }
    // A node that has several leases is told by its address.
    let several =
        |holders: &[(String, Option<IpAddr>)]| holders.windows(2).any(|pair| pair[0].1 != pair[1].1);
    let is_bpf = peers.iter().all(|peer| matches!(peer.way, Way::Vxlan | Way::OnLink));
    let shared = holders.into_iter().filter(|(_, holders)| several(holders));
    let mut findings: Vec<_> = shared
        .map(|((mac, _), holders)| {
            let names = listed(holders.iter().map(|(name, _)| name.as_str()));
            let found = format!("several nodes have the VTEP MAC {mac}, as cloned machines have: {names}");
            let remedy = "on all but one of them: flannel-agent cleanup (with flanneld: ip link delete flannel.1), and start flannel \
                          again. Until then packets are lost that the kernel wraps or unwraps";
            if is_bpf { Check::SharedMac.warning(found, remedy) } else { Check::SharedMac.error(found, remedy) }
        })
        .collect();
    shorten(&mut findings);
    if findings.is_empty() {
        findings.push(Check::SharedMac.ok("each node has its own"));
    }
    findings
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    let more = names.len().saturating_sub(NAMED);
    let named = names.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

fn shorten(findings: &mut Vec<Finding>) {
    let more = findings.len().saturating_sub(NAMED);
    findings.truncate(NAMED);
    if let Some(last) = findings.last_mut().filter(|_| more > 0) {
        last.found = format!("{} (and {more} more like this)", last.found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::model::Level;

    fn peer(subnet: u8, address: u8, mac: u8) -> PeerStatus {
        PeerStatus {
            subnet: format!("10.5.{subnet}.0/24"),
            public_ip: [192, 168, 64, address].into(),
            mac: Some(Mac([2, 0, 0, 0, 0, mac])),
            way: Way::Vxlan,
        }
    }

    fn own() -> OwnNode {
        OwnNode { addresses: vec![[192, 168, 64, 1].into()], macs: vec![Mac([2, 0, 0, 0, 0, 1])] }
    }

    #[test]
    fn an_address_that_two_nodes_have_is_an_error_and_two_leases_of_one_node_a_warning() {
        for (peers, expected) in [
            (vec![peer(2, 2, 2), peer(3, 3, 3)], Level::Ok),
            (vec![peer(2, 2, 2), peer(3, 2, 3)], Level::Error),
            (vec![peer(2, 2, 2), peer(3, 2, 2)], Level::Warning),
            (vec![peer(2, 1, 2)], Level::Error),
        ] {
            let found = addresses(&own(), &peers);
            assert_eq!((found.len(), found[0].level), (1, expected), "{found:?}");
        }
        let named = &addresses(&own(), &[peer(2, 1, 2)])[0].found;
        assert!(named.ends_with("192.168.64.1: this node, 10.5.2.0/24"), "{named}");
        let many: Vec<_> =
            (2..22).flat_map(|number| [peer(number, number, 1), peer(100 + number, number, 2)]).collect();
        let found = addresses(&own(), &many);
        assert!(
            found.len() == NAMED && found[NAMED - 1].found.ends_with("(and 15 more like this)"),
            "{found:?}"
        );
    }

    #[test]
    fn a_mac_that_two_nodes_have_matters_most_without_bpf() {
        let floor = |peer: PeerStatus| PeerStatus { way: Way::Floor, ..peer };
        for (peers, expected) in [
            (vec![peer(2, 2, 2), peer(3, 3, 3)], Level::Ok),
            (vec![peer(2, 2, 2), peer(3, 3, 2)], Level::Warning),
            (vec![floor(peer(2, 2, 2)), floor(peer(3, 3, 2))], Level::Error),
            (vec![floor(peer(2, 2, 1))], Level::Error),
            // One node with two leases.
            (vec![peer(2, 2, 2), peer(3, 2, 2)], Level::Ok),
        ] {
            assert_eq!(macs(&own(), &peers)[0].level, expected, "{peers:?}");
        }
        let without = PeerStatus { mac: None, ..peer(2, 2, 2) };
        assert_eq!(macs(&own(), &[without.clone(), without])[0].level, Level::Ok);
    }
}
