//! Sockets in a namespace. They stay there whichever thread uses them, and all have timeouts.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::NetNs;
use crate::wait::scaled;

const TIMEOUT: Duration = Duration::from_secs(5);

impl NetNs {
    /// Binds a UDP socket with a read timeout of some seconds. Port 0 means any free port.
    pub fn udp_bind(&self, ip: IpAddr, port: u16) -> Result<UdpSocket> {
        let socket = self
            .run(|| Ok(UdpSocket::bind((ip, port))?))
            .with_context(|| format!("bind UDP {ip} port {port} in {}", self.name))?;
        socket.set_read_timeout(Some(scaled(TIMEOUT)))?;
        Ok(socket)
    }

    /// Opens a TCP listener. Port 0 means any free port.
    pub fn tcp_listen(&self, ip: IpAddr, port: u16) -> Result<TcpListener> {
        self.run(|| Ok(TcpListener::bind((ip, port))?))
            .with_context(|| format!("listen on TCP {ip} port {port} in {}", self.name))
    }

    /// Opens a TCP connection with timeouts of some seconds for connecting, reading and writing.
    pub fn tcp_connect(&self, to: SocketAddr) -> Result<TcpStream> {
        let stream = self
            .run(|| Ok(TcpStream::connect_timeout(&to, scaled(TIMEOUT))?))
            .with_context(|| format!("connect to TCP {to} from {}", self.name))?;
        stream.set_read_timeout(Some(scaled(TIMEOUT)))?;
        stream.set_write_timeout(Some(scaled(TIMEOUT)))?;
        Ok(stream)
    }

    /// Opens a TCP connection from an address whose port may be in use for others. Port 0 means any free port.
    pub fn tcp_connect_from(&self, from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
        self.run(|| connect_from(from, to))
            .with_context(|| format!("connect from {from} to TCP {to} in {}", self.name))
    }
}

fn connect_from(from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    // It limits the time to connect, too.
    let limit = TimeVal::new(scaled(TIMEOUT).as_secs().try_into()?, 0);
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Err(Errno::EINPROGRESS) => bail!("not within {:?}", scaled(TIMEOUT)),
        connected => connected?,
    }
    Ok(TcpStream::from(socket))
}
