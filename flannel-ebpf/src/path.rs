//! One file per hook: what a program does with a packet, in order.

pub mod overlay_egress;
pub mod overlay_ingress;
pub mod pod_egress;
pub mod pod_ingress;
pub mod side_ingress;
pub mod underlay_egress;
pub mod underlay_ingress;
pub mod underlay_xdp;
