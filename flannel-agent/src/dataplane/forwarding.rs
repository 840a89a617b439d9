//! What the host's forwarding of pods' packets depends on: tells a change that may give a proven flow another way from the noise of
//! a busy node. Pure.

mod returning;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::mac::Mac;
use returning::Pods;
pub use returning::Returned;

/// So many addresses and MACs are remembered. Those of pods that have gone stay until then: the kernel forgets an idle pod as well, and
/// only the next entry shows whether it has moved.
const MOST: usize = 16_384;

/// A change that the kernel reports, or a part of what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An interface is new, or may have changed.
    Link(u32, Link),
    /// The interface with this index is gone.
    LinkGone(u32),
    /// An address behind the interface with this index has this MAC.
    Neighbour(u32, IpAddr, Mac),
    /// The bridge with this index has received packets of this MAC at a port.
    Place {
        /// Index of the bridge.
        bridge: u32,
        /// The MAC.
        mac: Mac,
        /// Its VLAN; 0 if there are none.
        vlan: u16,
        /// Index of the port; `None` if the bridge has forgotten it, and sends copies to all ports.
        port: Option<u32>,
    },
    /// A route to this destination is new, changed or gone.
    Route(IpNet),
    /// A routing rule is new or gone.
    Rule,
    /// Changes were lost.
    Lost,
}

/// What decides about packets at an interface. The MAC of a bridge may follow its ports, and pods learn it by ARP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its name, which rules of packet filters know.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The index of the bridge, or other controller, that it is a port of.
    pub bridge: Option<u32>,
    /// Whether it is a bridge.
    pub is_bridge: bool,
    /// Whether it is a vxlan device, whose neighbours are the agent's.
    pub is_vxlan: bool,
}

/// The forwarding of pods' packets, as far as it is known.
#[derive(Debug)]
pub struct Forwarding {
    /// The networks of all pods.
    networks: Vec<IpNet>,
    /// The public addresses of the other nodes.
    peers: BTreeSet<IpAddr>,
    /// Indexes of the pods' bridges, vxlan devices and uplinks.
    on_way: BTreeSet<u32>,
    links: BTreeMap<u32, Link>,
    neighbours: BTreeMap<(u32, IpAddr), Mac>,
    /// The port where a MAC is, by bridge, MAC and VLAN; `None` if the bridge has forgotten it.
    places: BTreeMap<(u32, Mac, u16), Option<u32>>,
    pods: Pods,
}

impl Forwarding {
    /// Knows nothing of the packets of pods in these networks yet.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self {
            networks,
            peers: BTreeSet::new(),
            on_way: BTreeSet::new(),
            links: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            places: BTreeMap::new(),
            pods: Pods::default(),
        }
    }

    /// Sets the indexes of the pods' bridges, the vxlan devices and the uplinks. Returns whether they are others than before:
    /// [`Self::set`] is to be called then.
    pub fn set_on_way(&mut self, interfaces: impl IntoIterator<Item = u32>) -> bool {
        let now = interfaces.into_iter().collect();
        let before = std::mem::replace(&mut self.on_way, now);
        self.on_way != before
    }

    /// Returns the indexes of the pods' bridges, the vxlan devices and the uplinks.
    #[must_use]
    pub const fn on_way(&self) -> &BTreeSet<u32> {
        &self.on_way
    }

    /// Sets the public addresses of the other nodes.
    pub fn set_peers(&mut self, peers: &BTreeSet<IpAddr>) {
        self.peers.clone_from(peers);
    }

    /// Replaces what is known by what the kernel has now.
    pub fn set(&mut self, all: impl IntoIterator<Item = Change>) {
        let before = std::mem::take(&mut self.links);
        self.neighbours.clear();
        self.places.clear();
        for part in all {
            if let Change::Link(index, now) = &part {
                self.pods.follow(*index, now, before.get(index));
            }
            self.learn(&part);
        }
    }

    /// Follows a change. Returns whether proven flows may have another way now.
    ///
    /// What is new changes no flow that was proven before. Ports do not count: the flows of those that leave are removed.
    pub fn observe(&mut self, change: &Change) -> bool {
        if let Change::Link(index, now) = change {
            self.pods.follow(*index, now, self.links.get(index));
        }
        self.learn(change)
    }

    fn learn(&mut self, change: &Change) -> bool {
        match *change {
            Change::Link(index, ref now) => {
                let before = self.links.insert(index, now.clone());
                before.is_some_and(|before| before != *now) && self.on_way.contains(&index)
            }
            Change::LinkGone(index) => {
                self.links.remove(&index);
                self.on_way.contains(&index)
            }
            Change::Neighbour(interface, address, mac) if self.has_neighbours(interface) => {
                if self.is_bridge(interface) && self.networks.iter().any(|network| network.contains(&address))
                {
                    self.pods.has_address(address, mac);
                }
                let overflows = make_room(&mut self.neighbours);
                let before = self.neighbours.insert((interface, address), mac);
                overflows || before.is_some_and(|before| before != mac) && self.on_way.contains(&interface)
            }
            Change::Place { bridge, mac, vlan, port } if self.is_bridge(bridge) => {
                self.pods.has_place(mac, port);
                let overflows = make_room(&mut self.places);
                let before = self.places.insert((bridge, mac, vlan), port);
                let may_be_elsewhere = |before| match (before, port) {
                    (Some(before), Some(port)) => before != port && self.links.contains_key(&before),
                    // Copies to other ports may have proven flows meanwhile.
                    (None, Some(_)) => true,
                    (_, None) => false,
                };
                overflows || before.is_some_and(may_be_elsewhere) && self.on_way.contains(&bridge)
            }
            Change::Neighbour(..) | Change::Place { .. } => false,
            Change::Route(to) => {
                let leads_to = |network: &IpNet| network.contains(&to) || to.contains(network);
                self.networks.iter().any(leads_to) || self.has_peer(to)
            }
            Change::Rule | Change::Lost => true,
        }
    }

    /// Returns one of the addresses of pods behind ports that were away for a moment. The host is to ask for it.
    pub fn next_returned(&mut self) -> Option<Returned> {
        self.pods.next_returned()
    }

    fn has_peer(&self, net: IpNet) -> bool {
        self.peers.range(net.network()..=net.broadcast()).next().is_some()
    }

    /// Returns whether packets of pods may go to the neighbours of this interface.
    fn has_neighbours(&self, index: u32) -> bool {
        let is_uplink = |link: &Link| self.on_way.contains(&index) && !link.is_vxlan;
        self.links.get(&index).is_some_and(|link| link.is_bridge || is_uplink(link))
    }

    fn is_bridge(&self, index: u32) -> bool {
        self.links.get(&index).is_some_and(|link| link.is_bridge)
    }
}

/// Forgets everything if there is too much. Returns whether there was.
fn make_room<K: Ord, V>(known: &mut BTreeMap<K, V>) -> bool {
    let overflows = known.len() >= MOST;
    if overflows {
        known.clear();
    }
    overflows
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: u32 = 10;
    const OTHER_BRIDGE: u32 = 20;
    const DEVICE: u32 = 5;
    const UPLINK: u32 = 6;
    const PORT: u32 = 11;
    const SECOND: u32 = 12;
    const ELSEWHERE: u32 = 21;

    fn link() -> Link {
        Link { name: "if".to_owned(), up: true, mtu: 1450, bridge: None, is_bridge: false, is_vxlan: false }
    }

    fn bridge() -> Link {
        Link { is_bridge: true, ..link() }
    }

    fn mac(number: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, number])
    }

    fn neighbour(interface: u32, number: u8) -> Change {
        Change::Neighbour(interface, "10.5.7.3".parse().unwrap(), mac(number))
    }

    fn place(bridge: u32, port: u32) -> Change {
        Change::Place { bridge, mac: mac(3), vlan: 0, port: Some(port) }
    }

    fn route(to: &str) -> Change {
        Change::Route(to.parse().unwrap())
    }

    /// Returns a node with two pods, whose first has an address, and a bridge of others.
    fn node() -> Forwarding {
        let networks = ["10.5.0.0/16", "fd44::/48"].map(|network| network.parse().unwrap());
        let mut node = Forwarding::new(networks.into());
        node.set_on_way([BRIDGE, DEVICE, UPLINK]);
        node.set_peers(&["192.168.64.2".parse().unwrap()].into());
        node.set([
            Change::Link(BRIDGE, bridge()),
            Change::Link(OTHER_BRIDGE, bridge()),
            Change::Link(DEVICE, Link { is_vxlan: true, ..link() }),
            Change::Link(UPLINK, link()),
            Change::Link(PORT, link()),
            Change::Link(SECOND, link()),
            Change::Link(ELSEWHERE, link()),
            neighbour(BRIDGE, 3),
            neighbour(DEVICE, 3),
            neighbour(UPLINK, 3),
            neighbour(OTHER_BRIDGE, 3),
            place(BRIDGE, PORT),
            place(OTHER_BRIDGE, ELSEWHERE),
        ]);
        node
    }

    #[test]
    fn what_gives_proven_flows_another_way_is_told_from_noise() {
        for (change, matters) in [
            // Interfaces on the way.
            (Change::Link(BRIDGE, bridge()), false),
            (Change::Link(BRIDGE, Link { up: false, ..bridge() }), true),
            (Change::Link(BRIDGE, Link { name: "renamed".to_owned(), ..bridge() }), true),
            (Change::Link(UPLINK, Link { mtu: 1400, ..link() }), true),
            (Change::LinkGone(BRIDGE), true),
            // A pod that comes, and one that goes.
            (Change::Link(99, link()), false),
            (Change::Link(PORT, Link { up: false, ..link() }), false),
            (Change::LinkGone(PORT), false),
            (Change::Neighbour(BRIDGE, "10.5.7.4".parse().unwrap(), mac(4)), false),
            (Change::Place { bridge: BRIDGE, mac: mac(4), vlan: 0, port: Some(99) }, false),
            // An address that moves, and one that is confirmed.
            (neighbour(BRIDGE, 3), false),
            (neighbour(BRIDGE, 4), true),
            (neighbour(UPLINK, 3), false),
            (neighbour(UPLINK, 4), true),
            (place(BRIDGE, PORT), false),
            (place(BRIDGE, SECOND), true),
            (Change::Place { bridge: BRIDGE, mac: mac(3), vlan: 7, port: Some(SECOND) }, false),
            // What has nothing to do with pods.
            (Change::Link(ELSEWHERE, Link { up: false, ..link() }), false),
            (Change::LinkGone(OTHER_BRIDGE), false),
            (neighbour(OTHER_BRIDGE, 4), false),
            (neighbour(DEVICE, 4), false),
            (place(OTHER_BRIDGE, 22), false),
            // Routes.
            (route("10.5.9.0/24"), true),
            (route("10.5.9.7/32"), true),
            (route("fd44:0:0:9::/64"), true),
            (route("10.0.0.0/8"), true),
            (route("0.0.0.0/0"), true),
            (route("::/0"), true),
            (route("192.168.65.0/24"), false),
            (route("192.168.64.0/24"), true),
            (route("192.168.64.2/32"), true),
            (Change::Rule, true),
            (Change::Lost, true),
        ] {
            assert_eq!(node().observe(&change), matters, "{change:?}");
        }
    }

    #[test]
    fn a_mac_that_returns_at_another_port_has_not_moved_if_its_port_is_gone() {
        let mut node = node();
        node.observe(&Change::LinkGone(PORT));
        assert!(!node.observe(&place(BRIDGE, SECOND)));
        assert!(node.observe(&place(BRIDGE, 99)));
    }

    #[test]
    fn a_mac_that_the_bridge_has_forgotten_may_have_moved() {
        let mut node = node();
        let forgotten = Change::Place { bridge: BRIDGE, mac: mac(3), vlan: 0, port: None };
        assert!(!node.observe(&forgotten));
        assert!(node.observe(&place(BRIDGE, PORT)));
        assert!(!node.observe(&place(BRIDGE, PORT)));
    }

    #[test]
    fn too_much_is_forgotten_as_if_it_had_changed() {
        let mut node = node();
        let address = |number| IpAddr::from((number as u128).to_be_bytes());
        let news = |number| Change::Neighbour(BRIDGE, address(number), mac(1));
        let free = MOST - node.neighbours.len();
        assert_eq!((1..=free).find(|number| node.observe(&news(*number))), None);
        assert!(node.observe(&news(free + 1)));
        assert!(!node.observe(&news(free + 2)));
        assert_eq!(node.neighbours.len(), 2);
    }
}
