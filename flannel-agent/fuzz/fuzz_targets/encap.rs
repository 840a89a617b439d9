//! Outer headers that the programs write: for any values, another parser reads the same values.
#![no_main]

#[path = "../src/memory.rs"]
mod memory;

use etherparse::{Ipv4HeaderSlice, UdpHeaderSlice};
use flannel_ebpf::group;
use flannel_ebpf::outer::{EncapParams, LEN, source_port};
use flannel_ebpf::packet::Header as _;
use libfuzzer_sys::fuzz_target;

/// The largest inner frame whose outer packet has a length of 16 bits.
const LONGEST: u16 = u16::MAX - LEN as u16;

fuzz_target!(|bytes: [u8; 28]| {
    let number = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let params = EncapParams {
        source: number(0).to_be_bytes(),
        destination: number(4).to_be_bytes(),
        source_port: source_port(number(8)),
        port: [bytes[12], bytes[13]],
        vni: number(14) >> 8,
        mark: number(17),
        ecn: bytes[21] & 3,
        ttl: bytes[22].max(1),
        identification: u16::from_be_bytes([bytes[23], bytes[24]]),
    };
    let frame_len = u16::from_be_bytes([bytes[25], bytes[26]]).min(LONGEST);
    let headers = params.headers(frame_len);
    let written = headers.bytes();
    let ip = Ipv4HeaderSlice::from_slice(written).expect("an IPv4 header");
    assert_eq!((ip.source(), ip.destination()), (params.source, params.destination));
    assert_eq!((ip.ihl(), ip.ttl(), ip.protocol().0), (5, params.ttl, 17));
    assert_eq!(ip.total_len(), frame_len + LEN as u16);
    assert_eq!(
        (ip.identification(), ip.ecn().value(), ip.dcp().value()),
        (params.identification, params.ecn, 0)
    );
    assert!(!ip.is_fragmenting_payload());
    assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
    let udp = UdpHeaderSlice::from_slice(&written[20..]).expect("a UDP header");
    assert!((32768..=60999).contains(&udp.source_port()), "port {}", udp.source_port());
    assert_eq!(udp.destination_port().to_be_bytes(), params.port);
    assert_eq!((udp.length(), udp.checksum()), (ip.total_len() - 20, 0));
    let vxlan = &written[28..];
    assert_eq!(vxlan[0] & !0x80, 8);
    assert_eq!(vxlan[0] & 0x80 != 0, params.mark != 0);
    assert_eq!(u32::from_be_bytes([0, vxlan[4], vxlan[5], vxlan[6]]), params.vni);
    assert_eq!(vxlan[7], 0);
    let arrived = group::mark([vxlan[0], vxlan[1], vxlan[2], vxlan[3]]);
    assert_eq!(arrived, (params.mark != 0).then_some(params.mark & 0x0048_ffff));
});
