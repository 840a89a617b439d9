//! Frames for the programs, built by etherparse, so that lengths and checksums do not come from this project's code.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Header, IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv6Header, TcpHeader,
    UdpHeader,
};

/// UDP destination port of the overlay.
pub(crate) const PORT: u16 = 8472;

/// Makes an Ethernet frame.
pub(crate) fn frame(destination: [u8; 6], source: [u8; 6], ether_type: EtherType, payload: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header { destination, source, ether_type };
    [header.to_bytes().as_slice(), payload].concat()
}

/// Parts of an IPv4 packet.
#[derive(Clone)]
pub(crate) struct Ipv4 {
    pub(crate) header: Ipv4Header,
    pub(crate) payload: Vec<u8>,
}

/// Makes an IPv4 packet.
pub(crate) fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: IpNumber, payload: Vec<u8>) -> Ipv4 {
    let length = u16::try_from(payload.len()).unwrap();
    let mut header = Ipv4Header::new(length, 64, protocol, source.octets(), destination.octets()).unwrap();
    header.dont_fragment = false;
    Ipv4 { header, payload }
}

impl Ipv4 {
    pub(crate) fn tos(mut self, dscp: u8, ecn: u8) -> Self {
        self.header.dscp = IpDscp::try_new(dscp).unwrap();
        self.header.ecn = IpEcn::try_new(ecn).unwrap();
        self
    }

    pub(crate) fn options(mut self, options: [u8; 4]) -> Self {
        self.header.options = options.into();
        self
    }

    pub(crate) fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
        self.header.more_fragments = more;
        self
    }

    pub(crate) fn ttl(mut self, ttl: u8) -> Self {
        self.header.time_to_live = ttl;
        self
    }

    /// Returns the packet's bytes, with a right checksum.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.header.clone().write(&mut bytes).unwrap();
        bytes.extend(&self.payload);
        bytes
    }
}

/// Parts of an IPv6 packet.
#[derive(Clone)]
pub(crate) struct Ipv6 {
    pub(crate) header: Ipv6Header,
    pub(crate) payload: Vec<u8>,
}

/// Makes an IPv6 packet.
pub(crate) fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: IpNumber, payload: Vec<u8>) -> Ipv6 {
    let header = Ipv6Header {
        payload_length: u16::try_from(payload.len()).unwrap(),
        next_header: protocol,
        hop_limit: 64,
        source: source.octets(),
        destination: destination.octets(),
        ..Ipv6Header::default()
    };
    Ipv6 { header, payload }
}

impl Ipv6 {
    pub(crate) fn traffic_class(mut self, traffic_class: u8) -> Self {
        self.header.traffic_class = traffic_class;
        self
    }

    pub(crate) fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.header.hop_limit = hop_limit;
        self
    }

    /// Inserts an extension header before the payload. Its first byte is set to the protocol that follows.
    pub(crate) fn extended(mut self, number: u8, mut extension: Vec<u8>) -> Self {
        extension[0] = self.header.next_header.0;
        self.header.next_header = IpNumber(number);
        self.payload = [extension, self.payload].concat();
        self.header.payload_length = u16::try_from(self.payload.len()).unwrap();
        self
    }

    /// Returns the packet's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        [self.header.to_bytes().as_slice(), &self.payload].concat()
    }
}

/// Makes a UDP datagram with the checksum that IPv6 requires.
pub(crate) fn udp_over_ipv6(
    from: Ipv6Addr,
    to: Ipv6Addr,
    source: u16,
    destination: u16,
    payload: &[u8],
) -> Vec<u8> {
    let header = UdpHeader::with_ipv6_checksum(
        source,
        destination,
        &ipv6(from, to, IpNumber::UDP, vec![]).header,
        payload,
    );
    [header.unwrap().to_bytes().as_slice(), payload].concat()
}

/// Makes a UDP datagram without checksum.
pub(crate) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let header = UdpHeader::without_ipv4_checksum(source, destination, payload.len()).unwrap();
    [header.to_bytes().as_slice(), payload].concat()
}

/// Makes a TCP segment with ACK and a changed header, without checksum.
pub(crate) fn tcp(
    source: u16,
    destination: u16,
    change: impl FnOnce(&mut TcpHeader),
    payload: &[u8],
) -> Vec<u8> {
    let mut header = TcpHeader::new(source, destination, 1000, 500);
    header.ack = true;
    change(&mut header);
    [header.to_bytes().as_slice(), payload].concat()
}

/// Makes a VXLAN header and appends the frame.
pub(crate) fn vxlan(flags: u8, vni: u32, frame: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    [&[flags, 0, 0, 0, a, b, c, 0], frame].concat()
}
