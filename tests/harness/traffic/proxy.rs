//! A transparent proxy for TCP: it takes the place of the server, and connects to it with the client's address and port, as
//! proxies of service meshes do.

use std::io::{Read as _, Write as _};
use std::mem::size_of;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, setsockopt, socket,
    sockopt,
};

use crate::NetNs;
use crate::wait::scaled;

/// `IP_TRANSPARENT` and `IPV6_TRANSPARENT` (linux/in.h, linux/in6.h).
const TRANSPARENT: [(i32, i32); 2] = [(libc::SOL_IP, 19), (libc::SOL_IPV6, 75)];

/// Longest time without data.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A proxy for one connection.
#[derive(Debug)]
pub struct TransparentProxy(JoinHandle<Result<u64>>);

impl TransparentProxy {
    /// Listens at this address for a connection that a TPROXY rule leads there.
    pub fn start(netns: &NetNs, at: SocketAddr) -> Result<Self> {
        let listener = netns.run(|| {
            let socket = transparent(at.ip())?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(at)).with_context(|| format!("binding {at}"))?;
            listen(&socket, Backlog::new(1)?)?;
            Ok(TcpListener::from(socket))
        })?;
        // Sockets belong to the namespace of the thread that makes them.
        let path = netns.path();
        let proxy = thread::spawn(move || {
            let (client, from) = listener.accept().context("accept")?;
            let to = client.local_addr()?;
            let server =
                open_in(&path, from, to).with_context(|| format!("connecting from {from} to {to}"))?;
            relay(client, server)
        });
        Ok(Self(proxy))
    }

    /// Waits until both ends have closed the connection. Returns the number of bytes that passed.
    pub fn stop(self) -> Result<u64> {
        match self.0.join() {
            Ok(passed) => passed,
            Err(_) => bail!("the proxy has panicked"),
        }
    }
}

/// Makes a TCP socket that may have any address.
fn transparent(ip: IpAddr) -> Result<OwnedFd> {
    let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (level, option) = TRANSPARENT[usize::from(ip.is_ipv6())];
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    let on: i32 = 1;
    // SAFETY: the number lives through the call.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), size_of::<i32>() as u32)
    };
    if set == 0 {
        Ok(socket)
    } else {
        Err(std::io::Error::last_os_error()).context("making a socket transparent")
    }
}

/// Connects in the namespace at this path, which the thread stays in.
fn open_in(netns: &std::path::Path, from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    nix::sched::setns(std::fs::File::open(netns)?, nix::sched::CloneFlags::CLONE_NEWNET)?;
    let socket = transparent(from.ip())?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(TcpStream::from(socket))
}

/// Copies both ways until both ends are closed.
fn relay(client: TcpStream, server: TcpStream) -> Result<u64> {
    let (mut back_from, back_to) = (server.try_clone()?, client.try_clone()?);
    let back = thread::spawn(move || copy(&mut back_from, back_to));
    let mut client = client;
    let there = copy(&mut client, server)?;
    match back.join() {
        Ok(back) => Ok(there + back?),
        Err(_) => bail!("the proxy's way back has panicked"),
    }
}

fn copy(from: &mut TcpStream, mut to: TcpStream) -> Result<u64> {
    let (mut buffer, mut passed) = (vec![0; 64 << 10], 0);
    to.set_nodelay(true)?;
    from.set_read_timeout(Some(scaled(TIMEOUT)))?;
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            // The other end may be closed already.
            let _ = to.shutdown(Shutdown::Write);
            return Ok(passed);
        }
        to.write_all(&buffer[..length])?;
        passed += length as u64;
    }
}
