//! What happens to a packet on its way.

pub mod decap;
pub mod deliver;
pub mod encap;
pub mod parse;
