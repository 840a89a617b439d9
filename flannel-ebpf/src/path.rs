//! The packet's way: one file per hook.

pub mod overlay_egress;
pub mod underlay_ingress;
