//! A server over UDP and TCP that tells each client which server it is and who asks.
//!
//! Over TCP a request is four bytes of length (big-endian) and as many bytes; the answer has the same form. A request of
//! [`CLOSE`] bytes has none: the server closes the connection. The answer to any other one is a line with the server's and
//! the client's address, then the request.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::Host;

/// The length that asks the server to close the connection.
pub(super) const CLOSE: u32 = u32::MAX;
/// The most bytes of a request.
const LARGEST: usize = 64 << 20;
/// How often the server looks whether it has to end.
const POLL: Duration = Duration::from_millis(50);
/// A datagram's most bytes.
const DATAGRAM: usize = 65_535;

/// A running server. Dropping it ends it, with all its connections.
#[derive(Debug)]
pub struct Responder {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Responder {
    /// Starts a server at a host's address and this port of UDP and TCP.
    pub fn start(host: &dyn Host, port: u16) -> Result<Self> {
        let address = SocketAddr::new(host.ip(), port);
        let (datagrams, connections) =
            (host.netns().udp_bind(host.ip(), port)?, host.netns().tcp_listen(host.ip(), port)?);
        datagrams.set_read_timeout(Some(POLL))?;
        let poll = TimeVal::new(0, POLL.subsec_micros().into());
        setsockopt(&connections, sockopt::ReceiveTimeout, &poll)
            .context("set the time to wait for clients")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stops = [Arc::clone(&stop), Arc::clone(&stop)];
        let [udp, tcp] = stops;
        let threads = vec![
            thread::spawn(move || answer_datagrams(&datagrams, address, &udp)),
            thread::spawn(move || accept(&connections, address, &tcp)),
        ];
        Ok(Self { address, stop, threads })
    }

    /// Returns its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Returns the line before an answer's data.
fn header(server: SocketAddr, client: SocketAddr) -> Vec<u8> {
    format!("{server} {client}\n").into_bytes()
}

fn answer_datagrams(socket: &UdpSocket, own: SocketAddr, stop: &AtomicBool) {
    let mut request = vec![0; DATAGRAM];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, client)) = socket.recv_from(&mut request) {
            let answer = [&header(own, client), &request[..length]].concat();
            // The client notices a lost answer.
            let _ = socket.send_to(&answer, client);
        }
    }
}

fn accept(listener: &TcpListener, own: SocketAddr, stop: &Arc<AtomicBool>) {
    let mut connections = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if let Ok((stream, client)) = listener.accept() {
            let stop = Arc::clone(stop);
            // The client notices a connection that ends.
            connections.push(thread::spawn(move || drop(serve(stream, [own, client], &stop))));
        }
    }
    connections.into_iter().for_each(|connection| drop(connection.join()));
}

fn serve(mut stream: TcpStream, [own, client]: [SocketAddr; 2], stop: &AtomicBool) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(POLL))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let header = header(own, client);
    loop {
        let mut length = [0; 4];
        if !fill(&mut stream, &mut length, stop)? || u32::from_be_bytes(length) == CLOSE {
            return Ok(());
        }
        let length = u32::from_be_bytes(length) as usize;
        ensure!(length <= LARGEST, "a request of {length} bytes");
        let mut request = vec![0; length];
        if !fill(&mut stream, &mut request, stop)? {
            return Ok(());
        }
        let length = u32::try_from(header.len() + length)?.to_be_bytes();
        stream.write_all(&[&length, &*header, &request].concat())?;
    }
}

/// Reads until the buffer is full. Returns false if the connection ended before, or the server has to end.
fn fill(stream: &mut TcpStream, mut buffer: &mut [u8], stop: &AtomicBool) -> Result<bool> {
    while !buffer.is_empty() {
        match stream.read(buffer) {
            Ok(0) => return Ok(false),
            Ok(length) => buffer = &mut buffer[length..],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                if stop.load(Ordering::Relaxed) {
                    return Ok(false);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}
