//! Clients of a [`Responder`](super::Responder). They check that each answer comes from the address that was asked, and every
//! byte of it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::responder::CLOSE;
use super::uninterrupted;
use super::{Host, Pattern, tcp_info};
use crate::wait::{eventually, scaled};

/// Longest time until a datagram is answered.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Longest time until a connection is made, and between two parts of an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a request's number, at its beginning.
const NUMBER: usize = 8;
/// The state of a connection whose end both sides have confirmed: `TCP_CLOSE`.
const CLOSED: u8 = 7;
/// A datagram's most bytes.
const DATAGRAM: usize = 65_535;

/// Who has answered, and whom it took for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The server's own address.
    pub server: SocketAddr,
    /// The client's address as the server sees it.
    pub client: SocketAddr,
}

impl Answer {
    /// Reads an answer, whose end has to be the request.
    fn read(bytes: &[u8], request: &[u8]) -> Result<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n').context("the answer has no first line")?;
        let line = std::str::from_utf8(&bytes[..end])?;
        let (server, client) = line.split_once(' ').with_context(|| format!("a first line {line:?}"))?;
        let data = &bytes[end + 1..];
        ensure!(data.len() == request.len(), "{} bytes came back of {}", data.len(), request.len());
        let wrong = data.iter().zip(request).position(|(came, sent)| came != sent);
        ensure!(wrong.is_none(), "byte {wrong:?} of {} is another one", data.len());
        Ok(Self { server: server.parse()?, client: client.parse()? })
    }
}

/// Returns a request's bytes, which begin with its number if there is room for it.
fn request(number: u64, size: usize) -> Vec<u8> {
    let mut bytes = Pattern::bytes(number, size);
    if size >= NUMBER {
        bytes[..NUMBER].copy_from_slice(&number.to_be_bytes());
    }
    bytes
}

/// A UDP socket that asks any number of servers.
#[derive(Debug)]
pub struct UdpAsker {
    socket: UdpSocket,
    number: u64,
}

impl UdpAsker {
    /// Binds a port of the host, or any free one if it is 0.
    pub fn open(host: &dyn Host, port: u16) -> Result<Self> {
        Ok(Self { socket: host.netns().udp_bind(host.ip(), port)?, number: 0 })
    }

    /// Returns its address.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    /// Returns its socket, to set options of it.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Sends a request of `size` bytes and waits half a second for its answer. Skips late answers to earlier requests.
    pub fn ask(&mut self, to: SocketAddr, size: usize) -> Result<Answer> {
        self.number += 1;
        let request = request(self.number, size);
        let what = || {
            format!(
                "UDP of {size} bytes from {} to {to}",
                self.socket.local_addr().map_or_else(|error| error.to_string(), |own| own.to_string())
            )
        };
        self.socket.send_to(&request, to).with_context(what)?;
        self.receive(to, &request).with_context(what)
    }

    fn receive(&self, asked: SocketAddr, request: &[u8]) -> Result<Answer> {
        let deadline = Instant::now() + scaled(TIMEOUT);
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no answer");
            self.socket.set_read_timeout(Some(left))?;
            let (length, from) = match uninterrupted(|| self.socket.recv_from(&mut buffer)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("no answer"),
                received => received?,
            };
            let answer = &buffer[..length];
            if is_late(answer, request) {
                continue;
            }
            ensure!(from == asked, "the answer comes from {from}");
            return Answer::read(answer, request);
        }
    }
}

/// Returns whether an answer has another number than the request.
fn is_late(answer: &[u8], request: &[u8]) -> bool {
    let number = request.get(..NUMBER);
    let answered = answer.len().checked_sub(request.len()).and_then(|start| answer[start..].get(..NUMBER));
    number.is_some() && number != answered
}

/// A TCP connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    number: u64,
}

impl Connection {
    /// Connects from a port of the host, or any free one if it is 0. The port may be in use for other connections, or for
    /// one that has ended.
    pub fn open(host: &dyn Host, port: u16, to: SocketAddr) -> Result<Self> {
        let from = SocketAddr::new(host.ip(), port);
        let stream = host.netns().tcp_connect_from(from, to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(scaled(PATIENCE)))?;
        stream.set_write_timeout(Some(scaled(PATIENCE)))?;
        Ok(Self { stream, number: 0 })
    }

    /// Returns the client's port.
    pub fn port(&self) -> Result<u16> {
        Ok(self.stream.local_addr()?.port())
    }

    /// Sends a request of `size` bytes and reads its answer.
    pub fn ask(&mut self, size: usize) -> Result<Answer> {
        self.number += 1;
        let request = request(self.number, size);
        self.exchange(&request).with_context(|| {
            let ends = self.stream.local_addr().and_then(|own| Ok((own, self.stream.peer_addr()?)));
            format!("request {} over TCP, {size} bytes, {ends:?}", self.number)
        })
    }

    fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(&[&u32::try_from(request.len())?.to_be_bytes(), request].concat())?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut answer)?;
        Answer::read(&answer, request)
    }

    /// Makes the server close the connection, and closes it then. Its port is free for the next one to the same server.
    pub fn end_by_server(mut self) -> Result<()> {
        self.stream.write_all(&CLOSE.to_be_bytes())?;
        ensure!(uninterrupted(|| self.stream.read(&mut [0]))? == 0, "data after the last answer");
        self.stream.shutdown(Shutdown::Write)?;
        eventually("the server confirms the end of a connection", PATIENCE, || {
            let state = tcp_info::read(&self.stream)?.tcpi_state;
            ensure!(state == CLOSED, "TCP's state is {state}");
            Ok(())
        })
    }
}
