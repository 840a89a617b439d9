//! The packet's way: one file per hook.

pub mod overlay_egress;
pub mod overlay_ingress;
pub mod pod_egress;
pub mod pod_ingress;
pub mod underlay_egress;
pub mod underlay_ingress;
