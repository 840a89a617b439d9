//! Two threads that carry packets between the TUN device and the UDP socket, one each way.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket,
};
use tokio::sync::Notify;
use tracing::{debug, error, warn};

use super::nodes::Nodes;
use super::packet::{decrement_ttl, destination, net_unreachable};

/// Maximum length of an IPv4 packet.
const MAX_PACKET: usize = 65_535;

/// The running threads. Dropping it ends them.
pub(super) struct Proxy {
    shared: Arc<Shared>,
    /// Both threads poll the other end, so that closing it wakes them.
    wake: Option<PipeWriter>,
    threads: Vec<JoinHandle<()>>,
}

/// The state that both threads use.
struct Shared {
    tun: File,
    socket: UdpSocket,
    nodes: RwLock<Nodes>,
    /// Sends ICMP errors. The TUN device cannot: the kernel drops packets from the node's own address that arrive there.
    icmp_errors: Option<OwnedFd>,
    /// Notified when a thread ends with an error.
    failed: Arc<Notify>,
    stopping: AtomicBool,
}

impl Proxy {
    /// Starts both threads, without nodes to send to. Notifies `failed` when one of them ends with an error.
    pub(super) fn start(tun: File, socket: UdpSocket, failed: Arc<Notify>) -> Result<Self> {
        let (nodes, icmp_errors) = (RwLock::default(), icmp_error_socket());
        let shared =
            Arc::new(Shared { tun, socket, nodes, icmp_errors, failed, stopping: AtomicBool::new(false) });
        let (stop, wake) = io::pipe().context("making a pipe")?;
        let mut proxy = Self { shared, wake: Some(wake), threads: Vec::new() };
        let stop2 = stop.try_clone().context("making a pipe")?;
        proxy.spawn("tun-to-udp", move |shared| tun_to_udp(shared, &stop))?;
        proxy.spawn("udp-to-tun", move |shared| udp_to_tun(shared, &stop2))?;
        Ok(proxy)
    }

    fn spawn(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&Shared) -> io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            if let Err(problem) = work(&shared) {
                error!("the tunnel's thread {name} has failed: {problem}; opening the tunnel again");
                shared.failed.notify_one();
            }
        });
        self.threads.push(thread.with_context(|| format!("starting the thread {name}"))?);
        Ok(())
    }

    /// Replaces the nodes that packets are sent to.
    pub(super) fn set_nodes(&self, nodes: Nodes) {
        *self.shared.nodes.write().unwrap_or_else(PoisonError::into_inner) = nodes;
    }
}

impl Shared {
    fn node_of(&self, address: Ipv4Addr) -> Option<SocketAddrV4> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).node_of(address)
    }

    /// Sends an ICMP error to the sender of this packet: no lease holds the destination.
    fn send_unreachable(&self, packet: &[u8]) -> io::Result<usize> {
        let Some((socket, (error, sender))) = self.icmp_errors.as_ref().zip(net_unreachable(packet)) else {
            return Ok(0);
        };
        let to = SockaddrIn::from(SocketAddrV4::new(sender, 0));
        Ok(sendto(socket.as_raw_fd(), &error, &to, MsgFlags::MSG_DONTWAIT)?)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        drop(self.wake.take());
        for thread in self.threads.drain(..) {
            // The thread has printed its panic, if there was one.
            let _ = thread.join();
        }
    }
}

/// Opens a raw socket that sends whole IP packets and receives none.
fn icmp_error_socket() -> Option<OwnedFd> {
    let opened = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
    opened
        .inspect_err(|problem| {
            warn!("no raw socket ({problem}): packets to subnets without a lease are dropped without an ICMP error");
        })
        .ok()
}

/// Carries packets from pods to other nodes. Like flanneld's proxy, it decrements the TTL and sends an ICMP error if no
/// lease holds the destination.
fn tun_to_udp(shared: &Shared, stop: &PipeReader) -> io::Result<()> {
    let mut buffer = vec![0; MAX_PACKET];
    let mut warnings = Warnings::default();
    repeat(shared, shared.tun.as_fd(), stop, || {
        let length = (&shared.tun).read(&mut buffer)?;
        let packet = &mut buffer[..length];
        // Not IPv4, for instance IPv6 neighbour discovery: drop it.
        let Some(to) = destination(packet) else { return Ok(()) };
        let Some(node) = shared.node_of(to) else {
            warnings.check("sending an ICMP error", shared.send_unreachable(packet));
            return Ok(());
        };
        if decrement_ttl(packet) {
            warnings.check("sending to another node", shared.socket.send_to(packet, node));
        }
        Ok(())
    })
}

/// Carries packets from other nodes to pods, and decrements the TTL.
fn udp_to_tun(shared: &Shared, stop: &PipeReader) -> io::Result<()> {
    let mut buffer = vec![0; MAX_PACKET];
    let mut warnings = Warnings::default();
    repeat(shared, shared.socket.as_fd(), stop, || {
        let length = recv(shared.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
        let packet = &mut buffer[..length];
        if decrement_ttl(packet) {
            warnings.check("writing a received packet to the TUN device", (&shared.tun).write(packet));
        }
        Ok(())
    })
}

/// Calls `carry_one` until the proxy stops, and waits whenever `source` has no packet.
fn repeat(
    shared: &Shared,
    source: impl AsFd,
    stop: &PipeReader,
    mut carry_one: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    while !shared.stopping.load(Ordering::Relaxed) {
        match carry_one() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
                match poll(&mut [readable(source.as_fd()), readable(stop.as_fd())], PollTimeout::NONE) {
                    Ok(_) | Err(nix::Error::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => done?,
        }
    }
    Ok(())
}

/// Logs a warning when packets fail with another error than the last one; the same error again is logged as debug.
#[derive(Default)]
struct Warnings {
    /// Error number of the last failure.
    last: Option<Option<i32>>,
}

impl Warnings {
    fn check(&mut self, what: &str, result: io::Result<usize>) {
        let Err(problem) = result else { return };
        let number = problem.raw_os_error();
        if self.last == Some(number) {
            debug!("{what}: {problem}");
        } else {
            warn!("{what}: {problem}; packets are lost");
            self.last = Some(number);
        }
    }
}
