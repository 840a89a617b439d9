//! File transfers over FTP (RFC 959, and RFC 2428 for IPv6). The data go over connections of their own, whose addresses are
//! told over the control connection: a firewall that expects them has to read that one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::Host;
use super::tcp::{TIMEOUT, TcpSession, carry};
use crate::wait::scaled;

/// The port of control connections.
const FTP: u16 = 21;
/// The port from which a server opens data connections.
const DATA: u16 = 20;

/// Who opens the data connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FtpMode {
    /// The server.
    Active,
    /// The client.
    Passive,
}

/// Both ends of a control connection.
pub struct FtpSession<'a> {
    hosts: [&'a dyn Host; 2],
    client: Lines,
    server: Lines,
}

impl<'a> FtpSession<'a> {
    /// Connects to a server, and logs in.
    pub fn open(client: &'a dyn Host, server: &'a dyn Host) -> Result<Self> {
        let control = TcpSession::open_to(client, server, FTP)?;
        let [one, other] = [control.client, control.server].map(|end| Lines(BufReader::new(end)));
        let mut session = Self { hosts: [client, server], client: one, server: other };
        session.answer("220 ready")?;
        session.exchange("USER anonymous", "331 any password")?;
        session.exchange("PASS any", "230 logged in")?;
        session.exchange("TYPE I", "200 bytes")?;
        Ok(session)
    }

    /// Sends a command that does nothing, and its answer.
    pub fn noop(&mut self) -> Result<()> {
        self.exchange("NOOP", "200 nothing done").map(drop)
    }

    /// Sends as many bytes from the server to the client, and checks each.
    pub fn fetch(&mut self, mode: FtpMode, bytes: usize) -> Result<()> {
        let [client, server] = self.hosts;
        let listener = listen(if mode == FtpMode::Active { client } else { server })?;
        let at = listener.local_addr()?;
        let (sink, source) = match mode {
            FtpMode::Active => {
                let told = self.exchange(&command(at), "200 understood")?;
                self.exchange("RETR file", "150 connecting")?;
                let from = SocketAddr::new(server.ip(), DATA);
                let source = server.netns().tcp_connect_from(from, address_in_command(&told)?)?;
                (accept(&listener)?, source)
            }
            FtpMode::Passive => {
                let ask = if at.is_ipv4() { "PASV" } else { "EPSV" };
                self.request(ask)?;
                let told = self.answer(&answer(at))?;
                let sink = client.netns().tcp_connect(address_in_answer(&told, server)?)?;
                self.exchange("RETR file", "150 sending")?;
                (sink, accept(&listener)?)
            }
        };
        carry(&source, &sink, bytes)?;
        self.answer("226 done").map(drop)
    }

    /// Sends a command and its answer. Returns the command as the server has received it.
    fn exchange(&mut self, command: &str, answer: &str) -> Result<String> {
        let received = self.request(command)?;
        self.answer(answer)?;
        Ok(received)
    }

    fn request(&mut self, command: &str) -> Result<String> {
        self.client.pass(&mut self.server, command).context("over the control connection")
    }

    fn answer(&mut self, answer: &str) -> Result<String> {
        self.server.pass(&mut self.client, answer).context("over the control connection")
    }
}

/// One end of a control connection.
struct Lines(BufReader<TcpStream>);

impl Lines {
    /// Sends a line to the other end. Returns what has arrived there.
    fn pass(&mut self, to: &mut Self, line: &str) -> Result<String> {
        self.0
            .get_mut()
            .write_all(format!("{line}\r\n").as_bytes())
            .with_context(|| format!("send {line}"))?;
        let mut received = String::new();
        to.0.read_line(&mut received).with_context(|| format!("receive {line}"))?;
        let received = received.strip_suffix("\r\n");
        Ok(received.with_context(|| format!("{line}: the connection has ended"))?.to_owned())
    }
}

/// Waits for one data connection, at any port.
fn listen(host: &dyn Host) -> Result<TcpListener> {
    let listener = host.netns().tcp_listen(host.ip(), 0)?;
    let limit = TimeVal::new(scaled(TIMEOUT).as_secs().try_into()?, 0);
    setsockopt(&listener, sockopt::ReceiveTimeout, &limit).context("set the time to wait for data")?;
    Ok(listener)
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    let (stream, _) = listener.accept().context("no data connection has come")?;
    stream.set_read_timeout(Some(scaled(TIMEOUT)))?;
    Ok(stream)
}

/// Returns the command that tells the server where the client waits.
fn command(at: SocketAddr) -> String {
    match at {
        SocketAddr::V4(_) => format!("PORT {}", numbers(at)),
        SocketAddr::V6(_) => format!("EPRT |2|{}|{}|", at.ip(), at.port()),
    }
}

fn address_in_command(command: &str) -> Result<SocketAddr> {
    match command.split_once(' ') {
        Some(("PORT", numbers)) => from_numbers(numbers),
        Some(("EPRT", parts)) => {
            let parts: Vec<_> = parts.trim_matches('|').split('|').collect();
            ensure!(parts.len() == 3, "{command:?} has not three parts");
            Ok(SocketAddr::new(parts[1].parse()?, parts[2].parse()?))
        }
        _ => bail!("{command:?} tells no address"),
    }
}

/// Returns the answer that tells the client where the server waits.
fn answer(at: SocketAddr) -> String {
    match at {
        SocketAddr::V4(_) => format!("227 Entering Passive Mode ({})", numbers(at)),
        SocketAddr::V6(_) => format!("229 Entering Extended Passive Mode (|||{}|)", at.port()),
    }
}

/// Returns the address in the answer. With IPv6 it has only a port, of the server.
fn address_in_answer(answer: &str, server: &dyn Host) -> Result<SocketAddr> {
    let inside = answer.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    let (inside, _) = inside.with_context(|| format!("{answer:?} tells no address"))?;
    match inside.strip_prefix("|||").and_then(|rest| rest.strip_suffix('|')) {
        Some(port) => Ok(SocketAddr::new(server.ip(), port.parse()?)),
        None => from_numbers(inside),
    }
}

/// Writes an IPv4 address and a port as six numbers.
fn numbers(at: SocketAddr) -> String {
    let [high, low] = at.port().to_be_bytes();
    format!("{},{high},{low}", at.ip().to_string().replace('.', ","))
}

fn from_numbers(text: &str) -> Result<SocketAddr> {
    let numbers = text.split(',').map(str::parse).collect::<Result<Vec<u8>, _>>()?;
    let [a, b, c, d, high, low] = numbers[..] else { bail!("{text:?} is not six numbers") };
    Ok(SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low]))))
}
