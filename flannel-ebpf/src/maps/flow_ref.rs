//! Access to one entry of `FLOWS` or `FLOWS6`.

use core::ptr::NonNull;

use flannel_common::address::Address;
use flannel_common::checksum;
use flannel_common::flow::{Direction, Flow, FlowKey, Names, Passage, Port, Way};
use flannel_common::lease::{DIRECT, Lease};

use super::shared::{load, load_mac, load_macs, store};
use crate::packet::{Ethernet, Mac};

/// An entry, which programs on other CPUs read and write at the same time.
///
/// Each field is loaded and stored by itself. The last writer wins; what gets lost is one proof.
#[derive(Clone, Copy)]
pub struct FlowRef<A: Address>(NonNull<Flow<A>>);

impl<A: Address> FlowRef<A> {
    /// # Safety
    /// `entry` is the value of an entry that the running program has looked up. (Its memory stays an entry's for as long
    /// as the program runs. If the map is full, the kernel may give it to another flow meanwhile.)
    #[inline(always)]
    pub(super) const unsafe fn new(entry: *mut Flow<A>) -> Self {
        // SAFETY: a value has an address.
        Self(unsafe { NonNull::new_unchecked(entry) })
    }

    /// Copies what is known of one direction.
    #[inline(always)]
    #[must_use]
    pub fn passage(self, direction: Direction) -> Passage {
        let passage = self.passage_ptr(direction);
        // SAFETY: within the entry, and aligned as the type is.
        unsafe {
            Passage {
                left: load::<u64, _>(&raw const (*passage).left),
                mark: load::<u32, _>(&raw const (*passage).mark),
                generation: load::<u32, _>(&raw const (*passage).generation),
            }
        }
    }

    /// Returns whether this port and frame are those of a packet from the flow's pod.
    #[inline(always)]
    #[must_use]
    pub fn comes_by(self, ifindex: u32, frame: &Ethernet) -> bool {
        // SAFETY: within the entry.
        let (pod, gateway) = unsafe {
            let port = &raw const (*self.0.as_ptr()).port;
            (load_mac(&raw const (*port).pod_mac), load_mac(&raw const (*port).gateway_mac))
        };
        self.port_ifindex() == ifindex && pod == frame.source() && gateway == frame.destination()
    }

    /// Copies the ifindex of the pod's port.
    #[inline(always)]
    #[must_use]
    pub fn port_ifindex(self) -> u32 {
        // SAFETY: within the entry, and aligned as the type is.
        unsafe { load::<u32, _>(&raw const (*self.0.as_ptr()).port.ifindex) }
    }

    /// Copies the MACs of a frame to the pod.
    #[inline(always)]
    #[must_use]
    pub fn macs_to_pod(self) -> [u32; 3] {
        // SAFETY: within the entry. The gateway's MAC follows that of the pod (asserted below).
        unsafe { load_macs((&raw const (*self.0.as_ptr()).port.pod_mac).cast()) }
    }

    /// Copies where the pod is.
    #[inline(always)]
    #[must_use]
    pub fn port(self) -> Port {
        // SAFETY: within the entry, aligned (asserted below), bytes and a number without padding.
        unsafe { load::<u64, _>(&raw const (*self.0.as_ptr()).port) }
    }

    /// Stores where the pod is.
    #[inline(always)]
    pub fn set_port(self, port: Port) {
        // SAFETY: as in `port`.
        unsafe { store::<u64, _>(&raw mut (*self.0.as_ptr()).port, port) }
    }

    /// Copies whose name the entry's key is.
    #[inline(always)]
    #[must_use]
    pub fn names(self) -> Names {
        // SAFETY: within the entry, and aligned as the type is.
        unsafe { load::<u32, _>(&raw const (*self.0.as_ptr()).names) }
    }

    /// Copies the flow's other name.
    #[inline(always)]
    #[must_use]
    pub fn other(self) -> FlowKey<A> {
        // SAFETY: within the entry, aligned (asserted below), bytes without padding.
        unsafe { load::<u64, _>(&raw const (*self.0.as_ptr()).other) }
    }

    /// Stores whose name the entry's key is, and the other name.
    #[inline(always)]
    pub fn set_names(self, key: &FlowKey<A>, names: Names, other: &FlowKey<A>) {
        let change = |before: A, after: A| checksum::change_of(before.as_ref(), after.as_ref());
        let addresses = change(key.pod, other.pod) + change(key.remote, other.remote);
        let ports = checksum::change_of(&key.pod_port, &other.pod_port)
            + checksum::change_of(&key.remote_port, &other.remote_port);
        // SAFETY: within the entry, aligned (asserted below) or as the type is, bytes and numbers without padding.
        unsafe {
            store::<u64, _>(&raw mut (*self.0.as_ptr()).other, *other);
            store::<u32, _>(&raw mut (*self.0.as_ptr()).addresses, addresses);
            store::<u32, _>(&raw mut (*self.0.as_ptr()).ports, ports);
            store::<u32, _>(&raw mut (*self.0.as_ptr()).names, names);
        }
    }

    /// Copies the MTU of the path to the peer in bytes ([`Way::mtu`]).
    #[inline(always)]
    #[must_use]
    pub fn path_mtu(self) -> u32 {
        // SAFETY: within the entry, and aligned as the type is.
        unsafe { load::<u32, _>(&raw const (*self.0.as_ptr()).way.mtu) }
    }

    /// Returns [`Way::is_known`].
    #[inline(always)]
    #[must_use]
    pub fn is_way_known(self) -> bool {
        self.path_mtu() != 0
    }

    /// Returns whether packets from the pod reach the peer without a tunnel.
    #[inline(always)]
    #[must_use]
    pub fn is_direct(self) -> bool {
        // SAFETY: within the entry, and aligned as the type is.
        unsafe { load::<u16, u16>(&raw const (*self.0.as_ptr()).way.flags) & DIRECT != 0 }
    }

    /// Copies the MACs of a frame to the next hop; destination zero: not known.
    #[inline(always)]
    #[must_use]
    pub fn macs_to_next_hop(self) -> [u32; 3] {
        // SAFETY: within the entry. The uplink's MAC follows that of the next hop (asserted below).
        unsafe { load_macs((&raw const (*self.0.as_ptr()).way.next_hop_mac).cast()) }
    }

    /// Copies the MAC of the peer's vxlan device.
    #[inline(always)]
    #[must_use]
    pub fn vtep_mac(self) -> Mac {
        // SAFETY: within the entry.
        unsafe { load_mac(&raw const (*self.0.as_ptr()).way.vtep_mac) }
    }

    /// Stores the peer that packets from the pod go to, whether without a tunnel ([`Way::flags`]), and the MTU of the path in bytes.
    #[inline(always)]
    pub fn set_peer(self, peer: &Lease<A>, flags: u16, mtu: u32) {
        // SAFETY: within the entry, aligned as the types are or to half words (asserted below), bytes and numbers.
        unsafe {
            let way = &raw mut (*self.0.as_ptr()).way;
            store::<u32, _>(&raw mut (*way).public_ip, peer.public_ip);
            store::<u16, _>(&raw mut (*way).vtep_mac, peer.vtep_mac);
            store::<u16, _>(&raw mut (*way).flags, flags);
            store::<u32, _>(&raw mut (*way).mtu, mtu);
        }
    }

    /// Stores the next hop of packets from the pod, its MAC, and that of the uplink.
    #[inline(always)]
    pub fn set_next_hop(self, next_hop: A, mac: [u8; 6], uplink_mac: [u8; 6]) {
        // SAFETY: as in `set_peer`.
        unsafe {
            let way = &raw mut (*self.0.as_ptr()).way;
            store::<u32, _>(&raw mut (*way).next_hop, next_hop);
            store::<u16, _>(&raw mut (*way).next_hop_mac, mac);
            store::<u16, _>(&raw mut (*way).uplink_mac, uplink_mac);
        }
    }

    /// Copies the address of the peer that packets from the pod go to.
    #[inline(always)]
    #[must_use]
    pub fn peer(self) -> A {
        // SAFETY: within the entry, aligned (asserted below), bytes.
        unsafe { load::<u32, _>(&raw const (*self.0.as_ptr()).way.public_ip) }
    }

    /// Copies the MTU of the pod's port in bytes, and when it was asked for.
    #[inline(always)]
    #[must_use]
    pub fn port_mtu(self) -> (u32, u64) {
        // SAFETY: within the entry, and aligned as the types are.
        unsafe {
            let asked = load::<u64, _>(&raw const (*self.0.as_ptr()).port_asked);
            (load::<u32, _>(&raw const (*self.0.as_ptr()).port_mtu), asked)
        }
    }

    /// Stores the MTU of the pod's port in bytes, and when it was asked for.
    #[inline(always)]
    pub fn set_port_mtu(self, mtu: u32, asked: u64) {
        // SAFETY: as in `port_mtu`.
        unsafe {
            store::<u32, _>(&raw mut (*self.0.as_ptr()).port_mtu, mtu);
            store::<u64, _>(&raw mut (*self.0.as_ptr()).port_asked, asked);
        }
    }

    /// Returns a pointer to the flow's other name, for helpers that copy from it.
    #[inline(always)]
    #[must_use]
    pub const fn other_ptr(self) -> *const FlowKey<A> {
        // SAFETY: within the entry.
        unsafe { &raw const (*self.0.as_ptr()).other }
    }

    /// Copies [`Flow::addresses`] and [`Flow::ports`].
    #[inline(always)]
    #[must_use]
    pub fn changes(self) -> (u32, u32) {
        // SAFETY: within the entry, and aligned as the type is.
        unsafe {
            let (addresses, ports) =
                (&raw const (*self.0.as_ptr()).addresses, &raw const (*self.0.as_ptr()).ports);
            (load::<u32, _>(addresses), load::<u32, _>(ports))
        }
    }

    /// Changes what is known of one direction. Only fields that differ afterwards are stored.
    #[inline(always)]
    pub fn update<R>(self, direction: Direction, change: impl FnOnce(&mut Passage) -> R) -> R {
        let passage = self.passage_ptr(direction);
        let before = self.passage(direction);
        let mut after = before;
        let result = change(&mut after);
        // SAFETY: within the entry, and aligned as the type is.
        unsafe {
            // The mark is stored before the proof of it. `generation` comes before `left`: it makes a proof of the time, or takes
            // the proof away.
            if after.mark != before.mark {
                store::<u32, _>(&raw mut (*passage).mark, after.mark);
            }
            if after.generation != before.generation {
                store::<u32, _>(&raw mut (*passage).generation, after.generation);
            }
            if after.left != before.left {
                store::<u64, _>(&raw mut (*passage).left, after.left);
            }
        }
        result
    }

    #[inline(always)]
    const fn passage_ptr(self, direction: Direction) -> *mut Passage {
        // SAFETY: within the entry.
        unsafe {
            match direction {
                Direction::Egress => &raw mut (*self.0.as_ptr()).egress,
                Direction::Ingress => &raw mut (*self.0.as_ptr()).ingress,
            }
        }
    }
}

const _: () = assert!(core::mem::offset_of!(Flow<[u8; 4]>, port).is_multiple_of(align_of::<u64>()));
const _: () = assert!(core::mem::offset_of!(Flow<[u8; 16]>, other).is_multiple_of(align_of::<u64>()));

const _: () = assert!(core::mem::offset_of!(Way<[u8; 4]>, vtep_mac).is_multiple_of(align_of::<u16>()));
const _: () = assert!(core::mem::offset_of!(Way<[u8; 4]>, next_hop_mac).is_multiple_of(align_of::<u16>()));
const _: () = assert!(
    core::mem::offset_of!(Way<[u8; 4]>, uplink_mac) == core::mem::offset_of!(Way<[u8; 4]>, next_hop_mac) + 6
);
const _: () = assert!(core::mem::offset_of!(Port, gateway_mac) == core::mem::offset_of!(Port, pod_mac) + 6);

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Port = Port { ifindex: 7, pod_mac: [1, 2, 3, 4, 5, 6], gateway_mac: [6, 5, 4, 3, 2, 1] };

    #[test]
    fn what_is_stored_is_loaded_again() {
        let mut flow = Flow::default();
        // SAFETY: valid, and accessed by `entry` only until it is read below.
        let entry = unsafe { FlowRef::new(&raw mut flow) };
        entry.set_port(PORT);
        let other = FlowKey { pod: [10, 1, 2, 3], remote_port: [1, 2], ..FlowKey::default() };
        entry.set_names(&FlowKey::default(), Names::POD, &other);
        let (public_ip, vtep_mac, flags, mtu) = ([1, 2, 3, 4], [5, 4, 3, 2, 1, 0], DIRECT, 1500);
        entry.set_peer(&Lease { public_ip, vtep_mac, flags: 0, route_mtu: 9000 }, flags, mtu);
        let (next_hop, next_hop_mac, uplink_mac) =
            ([4, 3, 2, 1], [6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 16, 17]);
        entry.set_next_hop(next_hop, next_hop_mac, uplink_mac);
        entry.set_port_mtu(1450, 200);
        assert_eq!((entry.port_mtu(), entry.peer()), ((1450, 200), public_ip));
        let way = Way { public_ip, next_hop, next_hop_mac, uplink_mac, vtep_mac, flags, mtu };
        assert_eq!((entry.path_mtu(), entry.is_direct()), (1500, true));
        let words = |macs: [[u8; 6]; 2]| Ethernet::new(macs[0].into(), macs[1].into(), 0).macs;
        assert_eq!(entry.vtep_mac(), vtep_mac.into());
        assert_eq!(entry.macs_to_next_hop(), words([next_hop_mac, uplink_mac]));
        assert_eq!(entry.macs_to_pod(), words([PORT.pod_mac, PORT.gateway_mac]));
        let frame = |from: [u8; 6], to: [u8; 6]| Ethernet::new(to.into(), from.into(), 0);
        assert!(entry.comes_by(7, &frame(PORT.pod_mac, PORT.gateway_mac)));
        assert!(!entry.comes_by(8, &frame(PORT.pod_mac, PORT.gateway_mac)));
        for byte in 0..6 {
            let mut other = [PORT.pod_mac, PORT.gateway_mac];
            other[0][byte] ^= 1;
            assert!(!entry.comes_by(7, &frame(other[0], other[1])), "byte {byte} of the pod's MAC");
            other = [PORT.pod_mac, PORT.gateway_mac];
            other[1][byte] ^= 1;
            assert!(!entry.comes_by(7, &frame(other[0], other[1])), "byte {byte} of the gateway's MAC");
        }
        let expected = |left, mark| Passage { left, mark, generation: (mark & 1) ^ 1 };
        for (direction, mark) in [(Direction::Egress, 1), (Direction::Ingress, 2)] {
            let known = entry.update(direction, |passage| {
                *passage = expected(100, mark);
                passage.is_known()
            });
            assert_eq!(known, mark == 2);
        }
        entry.update(Direction::Egress, |passage| *passage = expected(50, 4));
        let passages = [expected(50, 4), expected(100, 2)];
        assert_eq!(
            [Direction::Egress, Direction::Ingress].map(|direction| entry.passage(direction)),
            passages
        );
        assert_eq!((entry.port(), entry.names(), entry.other()), (PORT, Names::POD, other));
        let [egress, ingress] = passages;
        let (addresses, ports) = entry.changes();
        let expected = Flow {
            egress,
            ingress,
            port: PORT,
            other,
            way,
            names: Names::POD,
            addresses,
            ports,
            port_mtu: 1450,
            port_asked: 200,
        };
        assert_eq!(flow, expected);
        assert_eq!(
            checksum::changed(checksum::of(&[0; 4]), addresses + ports).to_ne_bytes(),
            checksum::of(&[10, 1, 2, 3, 1, 2]).to_be_bytes(),
            "the sum over the other name"
        );
    }
}
