//! Access to packet memory. Every read is bounds-checked here, and nowhere else.

use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{
    bpf_check_mtu, bpf_csum_update, bpf_get_hash_recalc, bpf_skb_load_bytes_relative, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use flannel_common::fingerprint::Token;
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;

mod checked;
mod driver;
mod ethernet;
mod first_bytes;
mod handed_over;
mod header;
mod memory;

pub use driver::DriverPacket;
pub use ethernet::{Ethernet, Mac};
pub use first_bytes::FirstBytes;
pub use header::{Aligned, Header};

/// `skb->pkt_type` (linux/if_packet.h) of frames addressed to this host.
const PACKET_HOST: u32 = 0;

/// A frame that a TC or XDP program handles.
pub trait PacketAccess {
    /// What the kernel passes to the program.
    type Context: EbpfContext;
    /// The action that passes the frame on.
    const PASS: i32;
    /// The action that drops the frame.
    const DROP: i32;

    /// Returns the context, for helpers and log macros.
    fn ctx(&self) -> &Self::Context;

    /// Returns the address of the first byte.
    fn data(&self) -> usize;

    /// Returns the address after the last byte that can be read in place.
    fn data_end(&self) -> usize;

    /// Returns the length in bytes that the frame had at first, Ethernet header included; of an aggregate, the whole length.
    fn frame_len(&self) -> u32;

    /// Returns the payload bytes per segment of an aggregate (GSO, GRO); 0 for a single packet, and always in XDP.
    fn gso_size(&self) -> u32;

    /// Returns whether the frame is addressed to this host, not received in promiscuous mode, and has no VLAN tag.
    fn is_for_host(&self, node: NodeRef) -> bool;

    /// Returns whether the kernel has taken no VLAN tag out of the frame.
    fn is_untagged(&self) -> bool;

    /// Makes the first `len` bytes readable in place, or the whole frame if it is shorter.
    fn pull(&self, len: u32);

    /// Copies the Ethernet header at `offset`.
    ///
    /// # Errors
    /// [`Outcome::Truncated`] if the frame ends before the header does.
    #[inline(always)]
    fn ethernet(&self, offset: usize) -> Result<Ethernet, Outcome> {
        let header = self.header::<EthHdr>(offset)?;
        let macs = [0, 4, 8].map(|at| u32::from_le(header.word(at)));
        Ok(Ethernet { macs, ether_type: header.ether_type })
    }

    /// Copies the header at `offset`.
    ///
    /// # Errors
    /// [`Outcome::Truncated`] if the frame ends before the header does.
    #[inline(always)]
    fn header<T: Header>(&self, offset: usize) -> Result<Aligned<T>, Outcome> {
        let start = self.data() + offset;
        if start + size_of::<T>() > self.data_end() {
            return Err(Outcome::Truncated);
        }
        // SAFETY: within the frame (checked above).
        Ok(unsafe { memory::load(start as *const u8) })
    }
}

/// The methods that all implementations of [`PacketAccess`] share.
macro_rules! frame_accessors {
    ($context:ty) => {
        type Context = $context;

        #[inline(always)]
        fn ctx(&self) -> &$context {
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
    };
}
use frame_accessors;

use crate::maps::NodeRef;

/// A [`Packet`] on its way to a function that is not inlined. A reference to the packet would take 32 bytes of the caller's
/// stack.
#[derive(Clone, Copy)]
pub struct Context(*mut __sk_buff);

impl From<Context> for TcContext {
    #[inline(always)]
    fn from(Context(skb): Context) -> Self {
        Self::new(skb)
    }
}

/// A frame in a TC program, from its Ethernet header on.
pub struct Packet<'a> {
    ctx: &'a TcContext,
    len: u32,
    needs_metadata: bool,
}

impl PacketAccess for Packet<'_> {
    /// Runs the next program and then the stack. `TCX_NEXT` is the same number.
    const PASS: i32 = TC_ACT_UNSPEC;
    const DROP: i32 = TC_ACT_SHOT;

    frame_accessors!(TcContext);

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        self.skb().gso_size
    }

    #[inline(always)]
    fn is_for_host(&self, _: NodeRef) -> bool {
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
            // If this fails, `header` reports what cannot be read.
            let _ = self.ctx.pull_data(len);
        }
    }
}

impl<'a> Packet<'a> {
    /// Wraps the context of a program run.
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        Self { ctx, len: ctx.len(), needs_metadata: false }
    }

    /// Wraps the context of a program that reads what an XDP program has written in front of the frame. Such a program writes by a
    /// helper and not in place: the kernel copies a packet that somebody else has too, such as a packet socket, before a program
    /// begins that writes in place (`bpf_unclone_prologue`), and the copy has no metadata (`pskb_expand_head`: Linux 4.15 to at
    /// least 6.18).
    #[inline(always)]
    pub fn behind_xdp(ctx: &'a TcContext) -> Self {
        Self { needs_metadata: true, ..Self::new(ctx) }
    }

    /// Returns what a function needs that is not inlined.
    #[inline(always)]
    pub fn context(&self) -> Context {
        Context(self.ctx.skb.skb)
    }

    #[inline(always)]
    fn skb(&self) -> &__sk_buff {
        // SAFETY: the kernel passes a valid context to every program run.
        unsafe { &*self.ctx.skb.skb }
    }

    /// Returns the mark, which firewall, routing and group policy use.
    #[inline(always)]
    pub fn mark(&self) -> u32 {
        self.skb().mark
    }

    /// Sets the mark.
    #[inline(always)]
    pub fn set_mark(&self, mark: u32) {
        self.ctx.set_mark(mark);
    }

    /// Removes the token that the packet got where it entered the host stack, and returns it. (Queues may read `tc_index`, and
    /// a packet keeps it on its way to another namespace.)
    #[inline(always)]
    pub fn take_token(&self) -> Token {
        let token = Token(self.skb().tc_index);
        self.set_token(Token::NONE);
        token
    }

    /// Gives the packet a token. (`tc_index`: Linux keeps it from hook to hook, unless another program there decides about
    /// the packet. New packets have 0.)
    #[inline(always)]
    pub fn set_token(&self, token: Token) {
        // SAFETY: the kernel passes a valid context to every program run, and lets TC programs write this field.
        unsafe { (*self.ctx.skb.skb).tc_index = token.0 };
    }

    /// Returns the ifindex of the interface that the program runs on.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        self.skb().ifindex
    }

    /// Returns the ifindex of the interface that last received the frame; 0: it comes from this host.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        self.skb().ingress_ifindex
    }

    /// Returns the hash of the packet's flow, which Linux keeps from hook to hook, also if it translates addresses. It is that of the
    /// sender's socket, or of the driver; if there is none, one is computed (`bpf_get_hash_recalc`: Linux 4.8).
    #[inline(always)]
    pub fn flow_hash(&self) -> u32 {
        // SAFETY: the context is valid for the whole run.
        unsafe { bpf_get_hash_recalc(self.ctx.skb.skb) }
    }

    /// Returns the MTU in bytes of an interface, if it exists (`bpf_check_mtu`: Linux 5.12).
    #[inline(always)]
    pub fn mtu_of(&self, ifindex: u32) -> Option<u32> {
        let mut mtu = 0;
        // SAFETY: the context is valid for the whole run. Whether this packet fits does not matter here.
        let checked = unsafe { bpf_check_mtu(self.ctx.skb.skb.cast(), ifindex, &raw mut mtu, 0, 0) };
        (checked >= 0).then_some(mtu)
    }

    /// Returns the EtherType of what follows the link-layer header, in wire order. A VLAN tag does not count.
    #[inline(always)]
    pub fn protocol(&self) -> u16 {
        self.skb().protocol as u16
    }

    /// Copies the header at any `offset` from the end of the link-layer header, whatever that is
    /// (`bpf_skb_load_bytes_relative`: Linux 4.18). It costs a helper call, but the verifier next to nothing: for rare
    /// packets. Only bytes that were made readable in place are found ([`PacketAccess::pull`]).
    ///
    /// # Errors
    /// [`Outcome::Truncated`] if the frame ends before the header does.
    #[inline(always)]
    pub fn copy_after_link<T: Header>(&self, offset: usize) -> Result<T, Outcome> {
        /// linux/bpf.h: `BPF_HDR_START_NET`.
        const NETWORK: u32 = 1;
        let mut header = MaybeUninit::<T>::uninit();
        let (skb, length) = (self.ctx.skb.skb, size_of::<T>() as u32);
        // SAFETY: the context is valid for the whole run, and the helper writes `length` bytes even if it fails.
        let copied = unsafe {
            bpf_skb_load_bytes_relative(
                skb.cast(),
                offset as u32,
                header.as_mut_ptr().cast(),
                length,
                NETWORK,
            )
        };
        if copied != 0 {
            return Err(Outcome::Truncated);
        }
        // SAFETY: every byte is written, and every bit pattern is valid (`Header`).
        Ok(unsafe { header.assume_init() })
    }

    /// Grows (positive) or shrinks (negative) the frame after its Ethernet header.
    ///
    /// # Errors
    /// [`Outcome::NoRoom`]: the kernel refused. The frame is as before.
    #[inline(always)]
    pub fn adjust(&self, by: i32, flags: u64) -> Result<(), Outcome> {
        use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
        self.ctx.adjust_room(by, BPF_ADJ_ROOM_MAC, flags).map_err(|_| Outcome::NoRoom)
    }

    /// Returns the frame's first `len` bytes for writing. In place they are this packet's own: the kernel has copied them, if it had to,
    /// before the program began. (The verifier adds that to programs that write in place: Linux 4.7.)
    ///
    /// # Errors
    /// [`Outcome::WriteFailed`]: the frame is lost if it has been resized.
    #[inline(always)]
    pub fn first_bytes(&self, len: usize) -> Result<FirstBytes<'_>, Outcome> {
        let start = self.data();
        if start + len > self.data_end() {
            return Err(Outcome::WriteFailed);
        }
        Ok(FirstBytes { packet: self, start: start as *mut u8, len })
    }

    /// Writes bytes from memory that other CPUs may change at the same time, or from the stack (`bpf_skb_store_bytes`: Linux 4.1).
    ///
    /// # Errors
    /// [`Outcome::WriteFailed`]: the frame is lost if it has been resized.
    #[inline(always)]
    pub fn write_from(&self, offset: usize, from: *const u8, length: usize) -> Result<(), Outcome> {
        let skb = self.ctx.skb.skb.cast();
        // SAFETY: the context is valid for the whole run. The verifier checks that the bytes are.
        let written = unsafe { bpf_skb_store_bytes(skb, offset as u32, from.cast(), length as u32, 0) };
        if written == 0 { Ok(()) } else { Err(Outcome::WriteFailed) }
    }

    /// Changes a transport checksum by how much the sum below it grows, in the machine's order
    /// (`bpf_l4_csum_replace`: Linux 4.1).
    ///
    /// # Errors
    /// [`Outcome::WriteFailed`]
    #[inline(always)]
    pub fn change_checksum(&self, offset: usize, change: u32, flags: u32) -> Result<(), Outcome> {
        // Without a size, the helper takes a difference.
        let changed = self.ctx.l4_csum_replace(offset, 0, change.into(), flags.into());
        changed.map_err(|_| Outcome::WriteFailed)
    }

    /// Adds to the kernel's checksum over the packet by how much a write has changed it, in the machine's order
    /// (`bpf_csum_update`: Linux 4.9). The kernel has one if the driver has summed the packet (CHECKSUM_COMPLETE).
    #[inline(always)]
    pub fn update_checksum(&self, change: u32) {
        if change != 0 {
            // SAFETY: the context is valid for the whole run. The helper fails if the kernel has no checksum, which is fine.
            let _ = unsafe { bpf_csum_update(self.ctx.skb.skb, change) };
        }
    }
}
