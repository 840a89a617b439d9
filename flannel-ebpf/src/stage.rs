//! The steps on a packet's way.

pub mod decap;
pub mod deliver;
pub mod ecn;
pub mod encap;
pub mod find_udp;
pub mod fit;
pub mod flow;
pub mod handover;
pub mod kept;
pub mod outgoing;
pub mod parse;
pub mod report;
pub mod route;
pub mod sender;
pub mod translate;
pub mod transmit;
pub mod way;
