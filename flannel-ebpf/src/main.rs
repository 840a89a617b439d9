//! Entry points, one per hook, and nothing else.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::{macros::classifier, programs::TcContext};
    use flannel_common::outcome::Hook;
    use flannel_ebpf::{packet::Packet, path, verdict};

    /// Egress of `flannel.<VNI>`: a packet that the host routed into the overlay.
    #[classifier]
    pub(crate) fn overlay_egress(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        verdict::conclude(Hook::OverlayEgress, &packet, path::overlay_egress::run(&packet))
    }

    /// Ingress of the uplink: perhaps a VXLAN packet from a peer.
    #[classifier]
    pub(crate) fn underlay_ingress(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        verdict::conclude(Hook::UnderlayIngress, &packet, path::underlay_ingress::run(&packet))
    }

    /// Ingress of `flannel.<VNI>`: a packet out of its tunnel.
    #[classifier]
    pub(crate) fn overlay_ingress(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        verdict::conclude(Hook::OverlayIngress, &packet, path::overlay_ingress::run(&packet))
    }

    /// Ingress of a pod-side bridge port: what the pod sends.
    #[classifier]
    pub(crate) fn pod_egress(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        verdict::conclude(Hook::PodEgress, &packet, path::pod_egress::run(&packet))
    }

    /// Egress of a pod-side bridge port: what the pod gets.
    #[classifier]
    pub(crate) fn pod_ingress(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        verdict::conclude(Hook::PodIngress, &packet, Err(path::pod_ingress::run(&packet)))
    }

    /// Egress of the uplink: perhaps a packet to a peer on its link.
    #[classifier]
    pub(crate) fn underlay_egress(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        verdict::conclude(Hook::UnderlayEgress, &packet, Err(path::underlay_egress::run(&packet)))
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    /// Some kernel interfaces are open only to programs with a GPL-compatible licence string.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

/// On the host this crate is only a library.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
