//! The only place that touches packet memory: every read is bounds-checked here.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_check_mtu, bpf_csum_update};
use aya_ebpf::programs::TcContext;
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::udp::UdpHdr;
use network_types::vxlan::VxlanHdr;

/// Protocol headers that may be read and written in place.
///
/// # Safety
/// `repr(C)` without padding, valid for every bit pattern, and of an alignment that packet memory has: at
/// most 2.
pub unsafe trait Header {}
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

/// A frame on its way through a TC program, from its Ethernet header on.
pub struct Packet<'a> {
    ctx: &'a TcContext,
    len: u32,
}

impl<'a> Packet<'a> {
    /// The frame of a program run.
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        Self { ctx, len: ctx.len() }
    }

    /// The context, for helpers and log macros.
    #[inline(always)]
    pub const fn ctx(&self) -> &'a TcContext {
        self.ctx
    }

    #[inline(always)]
    fn skb(&self) -> &__sk_buff {
        // SAFETY: the kernel hands every program run a valid context.
        unsafe { &*self.ctx.skb.skb }
    }

    /// Length in bytes of the frame as the program met it, Ethernet header included; an aggregate's whole
    /// length.
    #[inline(always)]
    pub const fn frame_len(&self) -> u32 {
        self.len
    }

    /// Payload bytes per segment of a GSO/GRO aggregate, 0 for a single packet.
    #[inline(always)]
    pub fn gso_size(&self) -> u32 {
        self.skb().gso_size
    }

    /// Whether the frame is addressed to this host and untagged: neither promiscuous catch nor VLAN traffic.
    #[inline(always)]
    pub fn is_for_host(&self) -> bool {
        const PACKET_HOST: u32 = 0;
        self.skb().pkt_type == PACKET_HOST && self.is_untagged()
    }

    /// Whether the frame has no VLAN tag beside it in the metadata.
    #[inline(always)]
    pub fn is_untagged(&self) -> bool {
        self.skb().vlan_present == 0
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

    /// Makes the first `len` bytes readable, or the whole frame if it is shorter.
    #[inline(always)]
    pub fn pull(&self, len: u32) {
        let len = if len < self.len { len } else { self.len };
        if self.ctx.data() + len as usize > self.ctx.data_end() {
            // What still cannot be read after a failure is reported by `header`.
            let _ = self.ctx.pull_data(len);
        }
    }

    /// The header at `offset`.
    ///
    /// # Errors
    /// [`Outcome::Truncated`] if the frame ends before the header does.
    #[inline(always)]
    pub fn header<T: Header>(&self, offset: usize) -> Result<&T, Outcome> {
        let start = self.ctx.data() + offset;
        if start + size_of::<T>() > self.ctx.data_end() {
            return Err(Outcome::Truncated);
        }
        // SAFETY: within the frame (checked above), readable in place (`Header`), and not written to while
        // borrowed: writing goes through helpers that invalidate packet pointers, which the verifier enforces.
        Ok(unsafe { &*(start as *const T) })
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
