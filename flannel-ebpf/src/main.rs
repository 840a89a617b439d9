//! The entry points, one per hook.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::macros::{classifier, xdp};
    use aya_ebpf::programs::{TcContext, XdpContext};
    use flannel_common::outcome::Hook;
    use flannel_ebpf::packet::{Aligned, DriverPacket, Packet, PacketAccess as _};
    use flannel_ebpf::{clock, path, verdict};

    /// Egress of `flannel.<VNI>`: packets that the host has routed into the overlay.
    #[classifier]
    pub(crate) fn overlay_egress(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        verdict::conclude(Hook::OverlayEgress, &packet, path::overlay_egress::run(&packet))
    }

    /// Ingress of the uplink: VXLAN from peers, and other traffic.
    #[classifier]
    pub(crate) fn underlay_ingress(ctx: TcContext) -> i32 {
        let packet = Packet::behind_xdp(&ctx);
        verdict::conclude(Hook::UnderlayIngress, &packet, path::underlay_ingress::run(&packet))
    }

    /// Ingress of `flannel.<VNI>`: packets out of their tunnel.
    #[classifier]
    pub(crate) fn overlay_ingress(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        verdict::conclude(Hook::OverlayIngress, &packet, path::overlay_ingress::run(&packet))
    }

    /// Ingress of a pod's bridge port: packets from the pod.
    #[classifier]
    pub(crate) fn pod_egress(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        verdict::conclude(Hook::PodEgress, &packet, path::pod_egress::run(&packet))
    }

    /// Egress of a pod's bridge port: packets to the pod.
    #[classifier]
    pub(crate) fn pod_ingress(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        verdict::conclude(Hook::PodIngress, &packet, Err(path::pod_ingress::run(&packet)))
    }

    /// Egress of the uplink: packets to peers on its link, and other traffic.
    #[classifier]
    pub(crate) fn underlay_egress(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        verdict::conclude(Hook::UnderlayEgress, &packet, Err(path::underlay_egress::run(&packet)))
    }

    /// Ingress of other interfaces: VXLAN that does not come in by the uplink, and other traffic.
    #[classifier]
    pub(crate) fn side_ingress(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        verdict::conclude(Hook::SideIngress, &packet, Err(path::side_ingress::run(&packet)))
    }

    /// XDP of the uplink: VXLAN from peers, and other traffic, before the kernel reads it.
    #[xdp]
    pub(crate) fn underlay_xdp(ctx: XdpContext) -> u32 {
        let packet = DriverPacket::new(&ctx);
        verdict::conclude(Hook::UnderlayXdp, &packet, path::underlay_xdp::run(&packet)) as u32
    }

    /// [`flannel_common::abi::CLOCK`]
    #[classifier]
    pub(crate) fn clock(ctx: TcContext) -> i32 {
        let now = Aligned(clock::now().to_ne_bytes());
        match Packet::new(&ctx).first_bytes(size_of_val(&now)) {
            Ok(bytes) if bytes.write(0, &now).is_ok() => Packet::PASS,
            _ => Packet::DROP,
        }
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

/// On the host this crate is a library only.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
