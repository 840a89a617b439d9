//! Traffic from namespaces, made in this process. Everything has a time limit.

mod batch;
mod datagrams;
mod flood;
mod frame;
mod icmp;
mod iperf;
mod pattern;
mod placed;
mod round_trips;
mod steady;
mod tcp;
mod udp;

use std::net::IpAddr;

use crate::netns::NetNs;
pub use datagrams::{Datagrams, datagram_transfer};
pub use flood::{Received, udp_flood};
pub use frame::send_frame;
pub use icmp::{Answer, Ping, ping, ping_with};
pub use iperf::iperf3_tcp;
pub use pattern::Pattern;
pub use placed::OnCpu;
pub use round_trips::udp_round_trips;
pub use steady::{Report, Steady};
pub use tcp::{TcpSession, Transfer, tcp_transfer};
pub use udp::{UdpSession, udp_echo};

/// Something with a namespace and an address there: a pod, a node, or either [`At`] another address.
pub trait Host: Sync {
    /// Where its sockets live.
    fn netns(&self) -> &NetNs;
    /// Where it is reached.
    fn ip(&self) -> IpAddr;
    /// The one CPU that its end of floods, round trips and bulk works on; where none is named, any.
    fn cpu(&self) -> Option<usize> {
        None
    }
}

/// A namespace at an address of choice.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// Where its sockets live.
    pub netns: &'a NetNs,
    /// Where it is reached.
    pub ip: IpAddr,
}

impl Host for At<'_> {
    fn netns(&self) -> &NetNs {
        self.netns
    }

    fn ip(&self) -> IpAddr {
        self.ip
    }
}
