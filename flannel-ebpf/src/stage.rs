//! What happens to a packet on its way.

pub mod decap;
pub mod deliver;
pub mod depart;
pub mod ecn;
pub mod encap;
pub mod find_udp;
pub mod fit;
pub mod flow;
pub mod parse;
pub mod path_mtu;
pub mod route;
pub mod sender;
pub mod tell;
