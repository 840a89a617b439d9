//! The least that any VXLAN dataplane past the host stack has to do, to compare the product with (`cargo xtask bench`,
//! variant `limit`). No maps, no counters, hardly a check, and one pod for each node: never part of the agent.
//!
//! All addresses are constants. `xtask/src/bench/limit.rs` sets them before it loads the programs.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
    use aya_ebpf::bindings::{
        BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
        BPF_F_ADJ_ROOM_FIXED_GSO, TC_ACT_UNSPEC,
    };
    use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_peer, bpf_skb_adjust_room};
    use aya_ebpf::macros::classifier;
    use aya_ebpf::programs::TcContext;

    const ETHERNET: usize = 14;
    /// Bytes of outer headers: Ethernet, IPv4, UDP, VXLAN.
    const OUTER: usize = 50;
    const IPV4: u16 = 0x0800_u16.to_be();
    const UDP: u8 = 17;
    const VXLAN_PORT: u16 = 8472_u16.to_be();

    /// What is known of all packets to the other pod: outer headers without lengths and checksum, and the inner Ethernet header.
    #[unsafe(no_mangle)]
    static FRONT: [u64; 8] = [0; 8];
    /// The sum over the outer IPv4 header without its length, in the machine's order.
    #[unsafe(no_mangle)]
    static SUM: u32 = 0;
    /// The interface of the outer packets.
    #[unsafe(no_mangle)]
    static UPLINK: u32 = 0;
    /// The address of the other pod, as two words in wire order.
    #[unsafe(no_mangle)]
    static REMOTE: [u16; 2] = [0; 2];
    /// The Ethernet header of what the own pod receives, filled up to whole words.
    #[unsafe(no_mangle)]
    static DELIVERY: [u64; 2] = [0; 2];
    /// The pod's port on this node.
    #[unsafe(no_mangle)]
    static PORT: u32 = 0;

    /// Ingress of the pod's port: packets to the other pod get outer headers and leave by the uplink.
    #[classifier]
    pub(crate) fn limit_pod(ctx: TcContext) -> i32 {
        if is_for_remote(&ctx) && wrap(&ctx) {
            // SAFETY: the helper takes numbers only.
            return unsafe { bpf_redirect(read(&UPLINK), 0) } as i32;
        }
        TC_ACT_UNSPEC
    }

    /// Ingress of the uplink: VXLAN loses its outer headers and goes to the pod, aggregates too.
    #[classifier]
    pub(crate) fn limit_uplink(ctx: TcContext) -> i32 {
        if is_vxlan(&ctx) { deliver(&ctx) } else { TC_ACT_UNSPEC }
    }

    /// As `limit_uplink`, but aggregates go on to the kernel's vxlan device.
    #[classifier]
    pub(crate) fn limit_uplink_flat(ctx: TcContext) -> i32 {
        // SAFETY: the kernel passes a valid context to every program run.
        let is_single = unsafe { (*ctx.skb.skb).gso_size } == 0;
        if is_vxlan(&ctx) && is_single { deliver(&ctx) } else { TC_ACT_UNSPEC }
    }

    /// Returns whether it is IPv4 to the other pod.
    #[inline(always)]
    fn is_for_remote(ctx: &TcContext) -> bool {
        const DESTINATION: usize = ETHERNET + 16;
        let [high, low] = read(&REMOTE);
        let Some(frame) = frame::<{ ETHERNET + 20 }>(ctx) else { return false };
        word(frame, 12) == IPV4 && word(frame, DESTINATION) == high && word(frame, DESTINATION + 2) == low
    }

    /// Returns whether it is VXLAN over IPv4.
    #[inline(always)]
    fn is_vxlan(ctx: &TcContext) -> bool {
        let Some(frame) = frame::<{ OUTER + ETHERNET }>(ctx) else { return false };
        // SAFETY: within the frame.
        let protocol = unsafe { *frame.cast::<u8>().add(ETHERNET + 9) };
        word(frame, 12) == IPV4 && protocol == UDP && word(frame, ETHERNET + 22) == VXLAN_PORT
    }

    /// Adds the outer headers. Returns false if the kernel refuses.
    #[inline(always)]
    fn wrap(ctx: &TcContext) -> bool {
        const FLAGS: u64 = (BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
            | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
            | BPF_F_ADJ_ROOM_ENCAP_L2_ETH
            | BPF_F_ADJ_ROOM_FIXED_GSO) as u64
            // `BPF_F_ADJ_ROOM_ENCAP_L2(ETHERNET)`
            | (ETHERNET as u64) << 56;
        /// Places of the words that differ from packet to packet: lengths of IPv4 and UDP, checksum of IPv4.
        const LENGTH: usize = (ETHERNET + 2) / 2;
        const CHECKSUM: usize = (ETHERNET + 10) / 2;
        const UDP_LENGTH: usize = (ETHERNET + 24) / 2;
        let mut front = read(&FRONT);
        let words = (&raw mut front).cast::<u16>();
        let skb = ctx.skb.skb;
        // SAFETY: the kernel passes a valid context to every program run.
        let length = unsafe { (*skb).len } + (OUTER - ETHERNET) as u32;
        let sum = read(&SUM) + length;
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !((sum & 0xffff) + (sum >> 16));
        // SAFETY: within the headers.
        unsafe {
            *words.add(LENGTH) = (length as u16).to_be();
            *words.add(CHECKSUM) = (sum as u16).to_be();
            *words.add(UDP_LENGTH) = ((length - 20) as u16).to_be();
        }
        // SAFETY: the context is valid for the whole run.
        if unsafe { bpf_skb_adjust_room(skb, OUTER as i32, BPF_ADJ_ROOM_MAC, FLAGS) } != 0 {
            return false;
        }
        let Some(frame) = frame::<{ OUTER + ETHERNET }>(ctx) else { return false };
        for (place, word) in front.into_iter().enumerate() {
            // SAFETY: within the frame. The kernel lets programs access packets at any address.
            unsafe { frame.cast::<u64>().add(place).write_volatile(word) };
        }
        true
    }

    /// Removes the outer headers and passes the packet to the pod.
    #[inline(always)]
    fn deliver(ctx: &TcContext) -> i32 {
        let flags = BPF_F_ADJ_ROOM_FIXED_GSO.into();
        // SAFETY: the context is valid for the whole run.
        if unsafe { bpf_skb_adjust_room(ctx.skb.skb, -(OUTER as i32), BPF_ADJ_ROOM_MAC, flags) } != 0 {
            return TC_ACT_UNSPEC;
        }
        let Some(frame) = frame::<ETHERNET>(ctx) else { return TC_ACT_UNSPEC };
        let [first, rest] = read(&DELIVERY);
        // SAFETY: within the frame. The kernel lets programs access packets at any address. The helper takes numbers only.
        unsafe {
            frame.cast::<u64>().write_volatile(first);
            frame.cast::<u32>().add(2).write_volatile(rest as u32);
            frame.add(6).write_volatile((rest >> 32) as u16);
            bpf_redirect_peer(read(&PORT), 0) as i32
        }
    }

    /// Returns the address of the frame, if it has `LEN` bytes.
    #[inline(always)]
    fn frame<const LEN: usize>(ctx: &TcContext) -> Option<*mut u16> {
        let start = ctx.data();
        (start + LEN <= ctx.data_end()).then_some(start as *mut u16)
    }

    /// Returns the word at an even offset, in wire order.
    #[inline(always)]
    fn word(frame: *mut u16, offset: usize) -> u16 {
        // SAFETY: callers stay within the frame.
        unsafe { *frame.add(offset / 2) }
    }

    /// Reads a constant that the loader has set, which the compiler must not know.
    #[inline(always)]
    fn read<T: Copy>(constant: &'static T) -> T {
        // SAFETY: a reference is valid and aligned.
        unsafe { core::ptr::from_ref(constant).read_volatile() }
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    /// The kernel allows some helpers only to programs with a GPL-compatible licence.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

/// On the host there is nothing to run.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
