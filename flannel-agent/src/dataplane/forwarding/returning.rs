//! Pods behind a port that was away for a moment: down, or out of the bridge. Pure.
//!
//! What asked for a neighbour meanwhile asks again after a second (`retrans_time_ms`): the host for the pod, the pod for its gateway. A
//! request of the host's to the pod makes both know each other at once, so the addresses behind each port are remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Link, make_room};
use crate::mac::Mac;

/// An address that the host is to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Returned {
    /// Index of the bridge.
    pub bridge: u32,
    /// The pod's address.
    pub address: IpAddr,
    /// The MAC that it had.
    pub mac: Mac,
}

/// What is known of pods. Their bridge may be another one by the time that a port returns.
#[derive(Debug, Default)]
pub(super) struct Pods {
    macs: BTreeMap<IpAddr, Mac>,
    ports: BTreeMap<Mac, u32>,
    returned: BTreeSet<Returned>,
}

impl Pods {
    /// Remembers an address of a pod.
    pub(super) fn has_address(&mut self, address: IpAddr, mac: Mac) {
        make_room(&mut self.macs);
        self.macs.insert(address, mac);
    }

    /// Remembers the port of a pod. A bridge forgets it when the port leaves.
    pub(super) fn has_place(&mut self, mac: Mac, port: Option<u32>) {
        if let Some(port) = port {
            make_room(&mut self.ports);
            self.ports.insert(mac, port);
        }
    }

    /// Follows an interface, of which this was known before.
    pub(super) fn follow(&mut self, index: u32, now: &Link, before: Option<&Link>) {
        let Some(bridge) = now.bridge.filter(|_| now.up) else { return };
        if before.is_some_and(|before| before.up && before.bridge == now.bridge) {
            return;
        }
        let is_behind = |mac: &Mac| self.ports.get(mac) == Some(&index);
        let behind = self.macs.iter().filter(|(_, mac)| is_behind(mac));
        self.returned.extend(behind.map(|(&address, &mac)| Returned { bridge, address, mac }));
    }

    /// Returns one of the addresses behind ports that have returned, and forgets that it has.
    pub(super) fn next_returned(&mut self) -> Option<Returned> {
        self.returned.pop_first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: u32 = 10;
    const PORT: u32 = 11;
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 3]);

    fn port() -> Link {
        Link {
            name: "veth1".to_owned(),
            up: true,
            mtu: 1450,
            bridge: Some(BRIDGE),
            is_bridge: false,
            is_vxlan: false,
        }
    }

    /// Returns a pod with an address in each family, and one at another port.
    fn pods() -> Pods {
        let mut pods = Pods::default();
        for address in ["10.5.7.3", "fd44:0:0:7::3"] {
            pods.has_address(address.parse().unwrap(), MAC);
        }
        pods.has_address("10.5.7.4".parse().unwrap(), Mac([2, 0, 0, 0, 0, 4]));
        pods.has_place(MAC, Some(PORT));
        pods.has_place(Mac([2, 0, 0, 0, 0, 4]), Some(PORT + 1));
        pods
    }

    fn returned(pods: &mut Pods) -> Vec<String> {
        std::iter::from_fn(|| pods.next_returned())
            .map(|Returned { bridge, address, mac }| {
                assert_eq!(mac, MAC);
                format!("{address} on {bridge}")
            })
            .collect()
    }

    #[test]
    fn the_addresses_behind_a_port_are_asked_for_when_it_returns() {
        let down = Link { up: false, ..port() };
        let outside = Link { bridge: None, ..port() };
        let elsewhere = Link { bridge: Some(20), ..port() };
        let both = |bridge| [format!("10.5.7.3 on {bridge}"), format!("fd44:0:0:7::3 on {bridge}")];
        for (before, now, expected) in [
            (Some(port()), port(), None),
            (Some(port()), down.clone(), None),
            (Some(port()), outside.clone(), None),
            (Some(down), port(), Some(BRIDGE)),
            (Some(outside), port(), Some(BRIDGE)),
            (Some(port()), elsewhere, Some(20)),
            (None, port(), Some(BRIDGE)),
        ] {
            let mut pods = pods();
            // The bridge forgets the MAC meanwhile.
            pods.has_place(MAC, None);
            pods.follow(PORT, &now, before.as_ref());
            let expected = expected.map_or_else(Vec::new, |bridge| both(bridge).to_vec());
            assert_eq!(returned(&mut pods), expected, "{before:?} {now:?}");
        }
    }

    #[test]
    fn a_port_without_known_pods_is_nobodys() {
        let mut pods = pods();
        pods.follow(99, &port(), None);
        assert_eq!(returned(&mut pods), [""; 0]);
    }
}
