//! Traffic between namespaces, sent and received by this process. Everything has a time limit.

mod asker;
mod batch;
mod bulk;
mod connections;
mod cpu_time;
mod datagrams;
mod flood;
mod flows;
mod frame;
mod ftp;
mod icmp;
mod pattern;
mod placed;
mod proxy;
mod responder;
mod round_trips;
mod served;
mod steady;
mod tcp;
mod tcp_info;
mod times;
mod udp;

use std::io::{self, ErrorKind};
use std::net::IpAddr;

use crate::netns::NetNs;
pub use asker::{Answer, Connection, UdpAsker};
pub use bulk::{Bulk, tcp_bulk};
pub use connections::tcp_connections;
pub use datagrams::{Datagrams, datagram_transfer};
pub use flood::{Received, udp_flood, udp_flood_of};
pub use frame::send_frame;
pub use ftp::{FtpMode, FtpSession};
pub use icmp::{Ping, PingAnswer, ping, ping_with};
pub use pattern::Pattern;
pub use placed::OnCpu;
pub use proxy::TransparentProxy;
pub use responder::Responder;
pub use round_trips::udp_round_trips;
pub use served::{Behind, Served};
pub use steady::{Steady, StreamReport};
pub use tcp::{TcpSession, Transfer, pour, reset, tcp_transfer};
pub use times::Times;
pub use udp::{UdpSession, udp_echo};

/// A namespace with an address: a pod, a node, or either of them [`At`] another address.
pub trait Host: Sync {
    /// Returns the namespace of its sockets.
    fn netns(&self) -> &NetNs;
    /// Returns its address.
    fn ip(&self) -> IpAddr;
    /// Returns the service that leads to its end of floods, round trips and bulk transfers; `None` if its own address does.
    fn service(&self) -> Option<Served> {
        None
    }
    /// Returns the CPU for its end of floods, round trips and bulk transfers; `None` for any CPU.
    fn cpu(&self) -> Option<usize> {
        None
    }
}

/// A host at one of its addresses.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// The namespace of its sockets.
    pub netns: &'a NetNs,
    /// The address.
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

/// Repeats a receiving call that is interrupted. The kernel does not repeat those with a time limit (signal(7)), also when the process
/// was only stopped or frozen for a moment.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
