//! What happens to a packet on its way.

pub mod decap;
pub mod deliver;
pub mod encap;
pub mod fit;
pub mod flow;
pub mod handover;
pub mod parse;
pub mod route;
pub mod sender;
