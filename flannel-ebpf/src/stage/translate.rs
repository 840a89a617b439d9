//! Translation: gives packets that skip the host stack the addresses and ports that the stack would give them, as for a
//! service.

use core::mem::offset_of;

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use flannel_common::flow::{Direction, FlowKey};
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;

use crate::ip::{Ip, TCP};
use crate::maps::FlowRef;
use crate::packet::Packet;
use crate::stage::parse::Inner;
use crate::stage::route::Routed;

/// Offset of the checksum in the transport header: TCP (RFC 9293 section 3.1), UDP (RFC 768).
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
/// Bytes of a port.
const PORT: usize = 2;

/// The headers that a packet gets past the host stack.
#[derive(Clone, Copy)]
pub struct Front<H: Ip> {
    /// What changes of Ethernet and IP header, but for the addresses of a translation.
    pub headers: Routed<H>,
    /// The flow whose other name the packet gets, if the stack would translate it.
    ///
    /// Addresses and ports are copied from the flow's entry into the packet. They may change meanwhile, if the map is full and
    /// the kernel gives the entry to another flow. Such a packet has a wrong checksum, and its receiver drops it.
    translation: Option<FlowRef<H::Address>>,
}

impl<H: Ip> Front<H> {
    /// Makes the headers of a packet.
    #[inline(always)]
    pub fn new(routed: Routed<H>, translation: Option<FlowRef<H::Address>>) -> Self {
        let headers = match translation {
            Some(flow) => routed.with_changed_addresses(flow.changes().0),
            None => routed,
        };
        Self { headers, translation }
    }

    /// Completes a packet of this direction, whose inner frame begins at `offset` now: writes addresses, ports and transport checksum
    /// of a translation.
    ///
    /// A checksum that is to be computed later (`CHECKSUM_PARTIAL`), a missing one (UDP) and the kernel's sum over the packet
    /// stay right.
    ///
    /// # Errors
    /// [`Outcome::WriteFailed`]
    #[inline(always)]
    pub fn complete(
        &self,
        packet: &Packet<'_>,
        inner: &Inner<H>,
        offset: usize,
        direction: Direction,
    ) -> Result<(), Outcome> {
        let Some(flow) = self.translation else { return Ok(()) };
        let transport = offset + EthHdr::LEN + size_of::<H>();
        let (checksum, flags) = if inner.ip.protocol() == TCP {
            (transport + TCP_CHECKSUM, 0)
        } else {
            (transport + UDP_CHECKSUM, BPF_F_MARK_MANGLED_0)
        };
        let (addresses, ports) = flow.changes();
        packet.change_checksum(checksum, addresses, flags | BPF_F_PSEUDO_HDR)?;
        if !H::HAS_CHECKSUM {
            // The kernel takes the change of the addresses for one that the IP header's own checksum balances.
            packet.update_checksum(addresses);
        }
        packet.change_checksum(checksum, ports, flags)?;
        let address = size_of::<H::Address>();
        let source = transport - 2 * address;
        let name = flow.other_ptr().cast::<u8>();
        let copy = |to, from, length| {
            // SAFETY: within the name.
            packet.write_from(to, unsafe { name.add(from) }, length)
        };
        let (pod, remote) = (offset_of!(FlowKey<H::Address>, pod), offset_of!(FlowKey<H::Address>, remote));
        let (pod_port, remote_port) =
            (offset_of!(FlowKey<H::Address>, pod_port), offset_of!(FlowKey<H::Address>, remote_port));
        match direction {
            // The pod's address and port come first, as in the name.
            Direction::Egress => {
                copy(source, pod, 2 * address)?;
                copy(transport, pod_port, 2 * PORT)
            }
            Direction::Ingress => {
                copy(source, remote, address)?;
                copy(source + address, pod, address)?;
                copy(transport, remote_port, PORT)?;
                copy(transport + PORT, pod_port, PORT)
            }
        }
    }
}

const _: () =
    assert!(offset_of!(FlowKey<[u8; 4]>, remote) == 4 && offset_of!(FlowKey<[u8; 16]>, remote) == 16);
const _: () =
    assert!(offset_of!(FlowKey<[u8; 4]>, remote_port) == offset_of!(FlowKey<[u8; 4]>, pod_port) + PORT);
