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
use super::packet::{destination, hop, net_unreachable};

/// The longest packet there is.
const LONGEST: usize = 65_535;

/// The running threads; dropped, they end.
pub(super) struct Proxy {
    shared: Arc<Shared>,
    /// Both threads wait for its other end, too.
    wake: Option<PipeWriter>,
    threads: Vec<JoinHandle<()>>,
}

/// What both threads have.
struct Shared {
    tun: File,
    socket: UdpSocket,
    nodes: RwLock<Nodes>,
    /// For what senders are told. Not the TUN device: what arrives there from an address of this node is dropped.
    raw: Option<OwnedFd>,
    /// Told when a thread ends because it cannot go on.
    broken: Arc<Notify>,
    over: AtomicBool,
}

impl Proxy {
    /// Between these two, for nobody yet; `broken` is told when it cannot go on.
    pub(super) fn start(tun: File, socket: UdpSocket, broken: Arc<Notify>) -> Result<Self> {
        let (nodes, raw, over) = (RwLock::default(), raw(), AtomicBool::new(false));
        let shared = Arc::new(Shared { tun, socket, nodes, raw, broken, over });
        let (over, wake) = io::pipe().context("making a pipe")?;
        let mut proxy = Self { shared, wake: Some(wake), threads: Vec::new() };
        let other = over.try_clone().context("making a pipe")?;
        proxy.spawn("tun-to-udp", move |shared| outwards(shared, &over))?;
        proxy.spawn("udp-to-tun", move |shared| inwards(shared, &other))?;
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
                error!("the tunnel ({name}) has ended and is made anew: {problem}");
                shared.broken.notify_one();
            }
        });
        self.threads.push(thread.with_context(|| format!("starting the thread {name}"))?);
        Ok(())
    }

    /// Has packets go to these nodes from now on.
    pub(super) fn set_nodes(&self, nodes: Nodes) {
        *self.shared.nodes.write().unwrap_or_else(PoisonError::into_inner) = nodes;
    }
}

impl Shared {
    fn node_of(&self, address: Ipv4Addr) -> Option<SocketAddrV4> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).node_of(address)
    }

    /// Tells the sender of this packet that nobody leases where it goes.
    fn refuse(&self, packet: &[u8]) -> io::Result<usize> {
        let Some((raw, (answer, sender))) = self.raw.as_ref().zip(net_unreachable(packet)) else {
            return Ok(0);
        };
        let to = SockaddrIn::from(SocketAddrV4::new(sender, 0));
        Ok(sendto(raw.as_raw_fd(), &answer, &to, MsgFlags::MSG_DONTWAIT)?)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        drop(self.wake.take());
        for thread in self.threads.drain(..) {
            // A panic has been printed by the thread itself.
            let _ = thread.join();
        }
    }
}

/// A socket for whole IP packets, that receives none.
fn raw() -> Option<OwnedFd> {
    let made = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
    let told =
        |problem: &nix::Error| warn!("packets to subnets that nobody leases go without an answer: {problem}");
    made.inspect_err(told).ok()
}

/// From pods to other nodes, as flanneld's proxy does it: one TTL less, and an answer to who asks for nobody.
fn outwards(shared: &Shared, over: &PipeReader) -> io::Result<()> {
    let mut buffer = vec![0; LONGEST];
    let mut complaints = Complaints::default();
    pump(shared, shared.tun.as_fd(), over, || {
        let length = (&shared.tun).read(&mut buffer)?;
        let packet = &mut buffer[..length];
        // IPv6 neighbour discovery, for one, is nobody's.
        let Some(to) = destination(packet) else { return Ok(()) };
        let Some(node) = shared.node_of(to) else {
            complaints.about("answering a packet to nobody", shared.refuse(packet));
            return Ok(());
        };
        if hop(packet) {
            complaints.about("sending to another node", shared.socket.send_to(packet, node));
        }
        Ok(())
    })
}

/// From other nodes to pods: one TTL less.
fn inwards(shared: &Shared, over: &PipeReader) -> io::Result<()> {
    let mut buffer = vec![0; LONGEST];
    let mut complaints = Complaints::default();
    pump(shared, shared.socket.as_fd(), over, || {
        let length = recv(shared.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
        let packet = &mut buffer[..length];
        if hop(packet) {
            complaints.about("handing a received packet to the kernel", (&shared.tun).write(packet));
        }
        Ok(())
    })
}

/// Repeats `step`, waiting whenever the source has nothing, until the proxy is over.
fn pump(
    shared: &Shared,
    source: impl AsFd,
    over: &PipeReader,
    mut step: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    while !shared.over.load(Ordering::Relaxed) {
        match step() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let awaited = |fd| PollFd::new(fd, PollFlags::POLLIN);
                match poll(&mut [awaited(source.as_fd()), awaited(over.as_fd())], PollTimeout::NONE) {
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

/// Says what goes wrong with single packets, but not for every packet.
#[derive(Default)]
struct Complaints(Option<Option<i32>>);

impl Complaints {
    fn about(&mut self, what: &str, result: io::Result<usize>) {
        let Err(problem) = result else { return };
        let number = problem.raw_os_error();
        if self.0 == Some(number) {
            debug!("{what}: {problem}");
        } else {
            warn!("{what}: {problem}; packets are lost");
            self.0 = Some(number);
        }
    }
}
