//! The only place that touches packet memory: every read is bounds-checked here.

use core::{ptr, slice};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{bpf_check_mtu, bpf_csum_update};
use aya_ebpf::programs::TcContext;
use flannel_common::address::Address;
use flannel_common::handover::Handover;
use flannel_common::node::NodeConfig;
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::udp::UdpHdr;
use network_types::vxlan::VxlanHdr;

mod driver;
mod handed_over;

pub use driver::DriverPacket;

/// `skb->pkt_type` (linux/if_packet.h) of a frame that is addressed to this host.
const PACKET_HOST: u32 = 0;

/// Protocol headers that may be read and written in place.
///
/// # Safety
/// `repr(C)` without padding, valid for every bit pattern, and of an alignment that packet memory has: at
/// most 2.
pub unsafe trait Header: Sized {
    /// Returns the header as it is on the wire.
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        // SAFETY: a header has no padding, so that each of its bytes is initialised.
        unsafe { slice::from_raw_parts(ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}
// SAFETY: plain bytes and one u16.
unsafe impl Header for EthHdr {}
// SAFETY: plain bytes.
unsafe impl Header for Ipv4Hdr {}
// SAFETY: plain bytes.
unsafe impl Header for Ipv6Hdr {}
// SAFETY: plain bytes.
unsafe impl Header for UdpHdr {}
// SAFETY: plain bytes.
unsafe impl Header for VxlanHdr {}
// SAFETY: a byte.
unsafe impl Header for u8 {}
// SAFETY: plain bytes, those of the address too.
unsafe impl<A: Address> Header for Handover<A> {}

/// A frame that a program meets, whatever runs the program: what reading headers needs.
pub trait PacketAccess {
    /// What the kernel hands the program.
    type Context: EbpfContext;
    /// The verdict that lets the frame go on as it is.
    const PASS: i32;
    /// The verdict that ends it.
    const DROP: i32;

    /// The context, for helpers and log macros.
    fn ctx(&self) -> &Self::Context;

    /// Address of the first byte.
    fn data(&self) -> usize;

    /// Address behind the last byte that can be read in place.
    fn data_end(&self) -> usize;

    /// Length in bytes of the frame as the program met it, Ethernet header included; an aggregate's whole
    /// length.
    fn frame_len(&self) -> u32;

    /// Payload bytes per segment of a GSO/GRO aggregate, 0 for a single packet, or where that cannot be seen.
    fn gso_size(&self) -> u32;

    /// Whether the frame is addressed to this host and untagged: neither promiscuous catch nor VLAN traffic.
    fn is_for_host(&self, node: &NodeConfig) -> bool;

    /// Whether the frame has no VLAN tag beside it in the metadata.
    fn is_untagged(&self) -> bool;

    /// Makes the first `len` bytes readable, or the whole frame if it is shorter.
    fn pull(&self, len: u32);

    /// The header at `offset`.
    ///
    /// # Errors
    /// [`Outcome::Truncated`] if the frame ends before the header does.
    #[inline(always)]
    fn header<T: Header>(&self, offset: usize) -> Result<&T, Outcome> {
        let start = self.data() + offset;
        if start + size_of::<T>() > self.data_end() {
            return Err(Outcome::Truncated);
        }
        // SAFETY: within the frame (checked above), readable in place (`Header`), and not written to while
        // borrowed: writing goes through helpers that invalidate packet pointers, which the verifier enforces.
        Ok(unsafe { &*(start as *const T) })
    }
}

/// A frame on its way through a TC program, from its Ethernet header on.
pub struct Packet<'a> {
    ctx: &'a TcContext,
    len: u32,
}

impl PacketAccess for Packet<'_> {
    type Context = TcContext;
    /// To the next program and then to the stack; the same number as `TCX_NEXT`.
    const PASS: i32 = TC_ACT_UNSPEC;
    const DROP: i32 = TC_ACT_SHOT;

    #[inline(always)]
    fn ctx(&self) -> &TcContext {
        self.ctx
    }

    #[inline(always)]
    fn data(&self) -> usize {
        self.ctx.data()
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        self.ctx.data_end()
    }

    #[inline(always)]
    fn frame_len(&self) -> u32 {
        self.len
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        self.skb().gso_size
    }

    #[inline(always)]
    fn is_for_host(&self, _: &NodeConfig) -> bool {
        self.skb().pkt_type == PACKET_HOST && self.is_untagged()
    }

    #[inline(always)]
    fn is_untagged(&self) -> bool {
        self.skb().vlan_present == 0
    }

    #[inline(always)]
    fn pull(&self, len: u32) {
        let len = if len < self.len { len } else { self.len };
        if self.ctx.data() + len as usize > self.ctx.data_end() {
            // What still cannot be read after a failure is reported by `header`.
            let _ = self.ctx.pull_data(len);
        }
    }
}

impl<'a> Packet<'a> {
    /// The frame of a program run.
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        Self { ctx, len: ctx.len() }
    }

    #[inline(always)]
    fn skb(&self) -> &__sk_buff {
        // SAFETY: the kernel hands every program run a valid context.
        unsafe { &*self.ctx.skb.skb }
    }

    /// The mark that firewall, routing and group policy know the packet by.
    #[inline(always)]
    pub fn mark(&self) -> u32 {
        self.skb().mark
    }

    /// Changes the mark.
    #[inline(always)]
    pub fn set_mark(&self, mark: u32) {
        self.ctx.set_mark(mark);
    }

    /// ifindex of the interface whose hook the program runs at.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        self.skb().ifindex
    }

    /// ifindex of the interface that the frame was last received on; 0: it comes from this host.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        self.skb().ingress_ifindex
    }

    /// The longest IP packet in bytes that an interface takes, if it is there (`bpf_check_mtu`: Linux 5.12).
    #[inline(always)]
    pub fn mtu_of(&self, ifindex: u32) -> Option<u32> {
        let mut mtu = 0;
        // SAFETY: the context is valid for the whole run. What the helper says of this packet does not matter.
        let checked = unsafe { bpf_check_mtu(self.ctx.skb.skb.cast(), ifindex, &raw mut mtu, 0, 0) };
        (checked >= 0).then_some(mtu)
    }

    /// A copy of the header at `offset`, wherever that is: for rare packets, since it costs a helper call, and the verifier
    /// next to nothing.
    ///
    /// # Errors
    /// [`Outcome::Truncated`] if the frame ends before the header does.
    #[inline(always)]
    pub fn copy<T: Header>(&self, offset: usize) -> Result<T, Outcome> {
        self.ctx.load(offset).map_err(|_| Outcome::Truncated)
    }

    /// Grows (positive) or shrinks (negative) the frame behind its Ethernet header.
    ///
    /// # Errors
    /// [`Outcome::NoRoom`]: the kernel refused and the frame is as before.
    #[inline(always)]
    pub fn adjust(&self, by: i32, flags: u64) -> Result<(), Outcome> {
        use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
        self.ctx.adjust_room(by, BPF_ADJ_ROOM_MAC, flags).map_err(|_| Outcome::NoRoom)
    }

    /// Writes a header over the frame's bytes at `offset`.
    ///
    /// # Errors
    /// [`Outcome::WriteFailed`]: the frame is beyond repair, since it has been resized.
    #[inline(always)]
    pub fn write<T: Header>(&self, offset: usize, header: &T) -> Result<(), Outcome> {
        self.ctx.store(offset, header, 0).map_err(|_| Outcome::WriteFailed)
    }

    /// Tells the kernel by how much what was written has changed the Internet checksum over the packet, in the machine's
    /// order (`bpf_csum_update`: Linux 4.9). It matters where the driver has summed the packet (CHECKSUM_COMPLETE).
    #[inline(always)]
    pub fn add_to_sum(&self, change: u32) {
        if change != 0 {
            // SAFETY: the context is valid for the whole run. That the kernel keeps no sum is no error.
            let _ = unsafe { bpf_csum_update(self.ctx.skb.skb, change) };
        }
    }
}
