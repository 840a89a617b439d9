//! Which packets `flannel-agent monitor --pcap` copies, and where the pods' frame in them begins. The filter in the kernel and the agent
//! share this code.

use crate::address::{Address as _, V4, V6};

/// The name of the filter's program.
pub const PROGRAM: &str = "capture";
/// The name of the array that holds [`Wanted`].
pub const WANTED: &str = "CAPTURE_WANTED";
/// The name of the array of [`Rate`], one for each CPU.
pub const RATES: &str = "CAPTURE_RATES";

/// Bytes of an Ethernet header, and of UDP and VXLAN headers together.
const ETHERNET: usize = 14;
const UDP_AND_VXLAN: usize = 16;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const UDP: u8 = 17;
/// The flag of a VXLAN header that has a VNI (RFC 7348 section 5).
const HAS_VNI: u8 = 0x08;

/// Addresses that begin with the same bits. IPv4 addresses are mapped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Net {
    /// The bits, and zeroes behind them.
    pub address: V6,
    /// Ones for the bits that count. If there are none, the net has all addresses.
    pub mask: V6,
}

impl Net {
    /// A net without an address.
    pub const NONE: Self = Self { address: [1; 16], mask: [0; 16] };

    #[inline(always)]
    fn has(&self, address: V6) -> bool {
        address.masked(self.mask) == self.address
    }

    #[inline(always)]
    fn has_one(&self, ends: &[V6; 2]) -> bool {
        self.has(ends[0]) || self.has(ends[1])
    }
}

/// What is copied.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP destination port of the overlay, wire order.
    pub port: [u8; 2],
    /// Zero.
    pub reserved: [u8; 2],
    /// The most packets in a second and CPU.
    pub rate: u32,
    /// The most bytes of a packet.
    pub length: u32,
    /// The node's own subnets, for packets that have no outer headers: those to and from peers on the uplink's link, and those that
    /// `underlay_xdp` has unwrapped.
    pub own: [Net; 2],
    /// Only packets with an address in this net.
    pub only: Net,
}

const _: () = assert!(size_of::<Wanted>() == 16 + 3 * size_of::<Net>());

#[cfg(feature = "user")]
// SAFETY: repr(C), no padding (asserted above), every bit pattern is valid.
unsafe impl aya::Pod for Wanted {}

impl Wanted {
    /// Returns what is copied of the overlay of this VNI and port. No packet without outer headers is.
    #[must_use]
    pub const fn of(vni: u32, port: [u8; 2]) -> Self {
        let all = Net { address: [0; 16], mask: [0; 16] };
        Self { vni, port, reserved: [0; 2], rate: u32::MAX, length: u32::MAX, own: [Net::NONE; 2], only: all }
    }
}

/// How many packets a CPU has copied in a second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// The second, of a clock that begins anywhere.
    pub second: u64,
    /// Packets copied in it.
    pub copied: u64,
    /// Packets that were left out since the beginning.
    pub left_out: u64,
}

#[cfg(feature = "user")]
// SAFETY: repr(C), three numbers of the same size, every bit pattern is valid.
unsafe impl aya::Pod for Rate {}

/// The bytes of a frame.
pub trait Frame {
    /// Returns the bytes at an offset; `None` if the frame ends before.
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Frame for [u8] {
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

/// Returns where the pods' frame begins in a frame of the uplink, if it is wanted: behind the outer headers, or at 0 if there are none.
#[inline(always)]
pub fn pods_frame(frame: &(impl Frame + ?Sized), wanted: &Wanted) -> Option<usize> {
    let (start, ends) = match behind_outer_headers(frame, wanted) {
        Some(start) => (start, ends(frame, start)),
        None => (0, Some(ends(frame, 0).filter(|ends| wanted.own.iter().any(|own| own.has_one(ends)))?)),
    };
    // What is not IP, such as ARP, has no addresses to choose by.
    let is_wanted = wanted.only.mask == [0; 16] || ends.is_some_and(|ends| wanted.only.has_one(&ends));
    is_wanted.then_some(start)
}

/// Returns where the outer headers of the overlay end.
#[inline(always)]
fn behind_outer_headers(frame: &(impl Frame + ?Sized), wanted: &Wanted) -> Option<usize> {
    let (protocol, udp) = match frame.bytes(ETHERNET - 2)? {
        IPV4 => {
            let [version_and_length] = frame.bytes(ETHERNET)?;
            (frame.bytes(ETHERNET + 9)?, ETHERNET + usize::from(version_and_length & 0xf) * 4)
        }
        IPV6 => (frame.bytes(ETHERNET + 6)?, ETHERNET + 40),
        _ => return None,
    };
    let [flags, _, _, _, vni @ .., _] = frame.bytes::<8>(udp + 8)?;
    let [first, second, third] = vni;
    let is_ours = protocol == [UDP]
        && frame.bytes(udp + 2)? == wanted.port
        && flags & HAS_VNI != 0
        && u32::from_be_bytes([0, first, second, third]) == wanted.vni;
    is_ours.then_some(udp + UDP_AND_VXLAN)
}

/// Returns source and destination of an IP packet in the Ethernet frame that begins here.
#[inline(always)]
fn ends(frame: &(impl Frame + ?Sized), start: usize) -> Option<[V6; 2]> {
    let ip = start + ETHERNET;
    match frame.bytes(ip - 2)? {
        IPV4 => Some([frame.bytes::<4>(ip + 12)?, frame.bytes::<4>(ip + 16)?].map(|end: V4| end.mapped())),
        IPV6 => Some([frame.bytes(ip + 8)?, frame.bytes(ip + 24)?]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: [u8; 2] = 8472_u16.to_be_bytes();
    const OWN: Net = net([10, 5, 1, 0], 24);
    const OTHER: Net = net([10, 5, 2, 0], 24);

    const fn net([a, b, c, d]: V4, length: u32) -> Net {
        let mask = (u128::MAX << (32 - length)).to_be_bytes();
        Net { address: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d], mask }
    }

    /// Writes an Ethernet frame with an IPv4 packet of this protocol between these addresses. Returns where its payload begins.
    fn ipv4(frame: &mut [u8], words: u8, protocol: u8, [from, to]: [V4; 2]) -> usize {
        frame[12..14].copy_from_slice(&IPV4);
        frame[14] = 0x40 | words;
        frame[23] = protocol;
        frame[26..30].copy_from_slice(&from);
        frame[30..34].copy_from_slice(&to);
        14 + usize::from(words) * 4
    }

    fn ipv6(frame: &mut [u8], protocol: u8, ends: [V6; 2]) -> usize {
        frame[12..14].copy_from_slice(&IPV6);
        frame[20] = protocol;
        frame[22..38].copy_from_slice(&ends[0]);
        frame[38..54].copy_from_slice(&ends[1]);
        54
    }

    /// Writes UDP and VXLAN headers, and returns where they end.
    fn vxlan(at: &mut [u8], port: [u8; 2], vni: u32) -> usize {
        at[2..4].copy_from_slice(&port);
        at[8] = HAS_VNI;
        at[12..16].copy_from_slice(&(vni << 8).to_be_bytes());
        16
    }

    const NODES: [V4; 2] = [[192, 168, 64, 1], [192, 168, 64, 2]];
    const PODS: [V4; 2] = [[10, 5, 1, 2], [10, 5, 2, 2]];

    fn wanted() -> Wanted {
        Wanted { own: [OWN, Net::NONE], ..Wanted::of(1, PORT) }
    }

    #[test]
    fn frames_are_found_behind_their_outer_headers() {
        for (words, port, vni, expected) in
            [(5, PORT, 1, Some(50)), (6, PORT, 1, Some(54)), (5, PORT, 2, None), (5, [0x12, 0xb5], 1, None)]
        {
            let mut frame = [0; 200];
            let udp = ipv4(&mut frame, words, UDP, NODES);
            let inner = udp + vxlan(&mut frame[udp..], port, vni);
            ipv4(&mut frame[inner..], 5, 6, PODS);
            assert_eq!(pods_frame(&frame[..], &wanted()), expected, "{words} {port:?} {vni}");
            // Too short to be read whole.
            assert_eq!(pods_frame(&frame[..udp + 15], &wanted()), None);
        }
        let mut frame = [0; 200];
        let udp = ipv6(&mut frame, UDP, [[1; 16], [2; 16]]);
        vxlan(&mut frame[udp..], PORT, 1);
        assert_eq!(pods_frame(&frame[..], &wanted()), Some(70), "the inner frame is no IP packet");
        frame[20] = 6;
        assert_eq!(pods_frame(&frame[..], &wanted()), None, "TCP");
    }

    #[test]
    fn frames_without_outer_headers_are_those_of_the_nodes_pods() {
        for (ends, expected) in
            [(PODS, Some(0)), ([PODS[1], PODS[0]], Some(0)), ([PODS[1]; 2], None), (NODES, None)]
        {
            let mut frame = [0; 60];
            ipv4(&mut frame, 5, UDP, ends);
            assert_eq!(pods_frame(&frame[..], &wanted()), expected, "{ends:?}");
        }
        let mut arp = [0; 60];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(pods_frame(&arp[..], &wanted()), None);
    }

    #[test]
    fn only_an_address_or_a_network_is_wanted() {
        let mut frame = [0; 200];
        let udp = ipv4(&mut frame, 5, UDP, NODES);
        let inner = udp + vxlan(&mut frame[udp..], PORT, 1);
        ipv4(&mut frame[inner..], 5, 6, PODS);
        let found = |only| pods_frame(&frame[..], &Wanted { only, ..wanted() });
        assert_eq!(found(OTHER), Some(50));
        assert_eq!(found(net(PODS[0], 32)), Some(50));
        assert_eq!(found(net([10, 5, 3, 0], 24)), None);
        assert_eq!(found(net(NODES[0], 32)), None, "an outer address is none of a pod's");
        let mut other = [0; 200];
        let udp = ipv4(&mut other, 5, UDP, NODES);
        vxlan(&mut other[udp..], PORT, 1);
        assert_eq!(pods_frame(&other[..], &Wanted { only: OTHER, ..wanted() }), None, "no IP packet");
    }
}
