//! A small HTTP server in a namespace: each connection carries one request.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{Shutdown, shutdown};

use crate::netns::NetNs;
use crate::process::LIMIT;

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// GET, POST and so on.
    pub method: String,
    /// Path and query, as they came.
    pub target: String,
    /// Names, in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// The client's address.
    pub from: IpAddr,
}

impl Request {
    /// Returns the path without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Returns the query; empty if there is none.
    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// Returns names and values of a query or a form, decoded.
    pub fn parameters(text: &str) -> Vec<(String, String)> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.map(|(name, value)| (decode(name), decode(value))).collect()
    }

    /// Returns the value of a header; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(header, _)| header == name).map_or("", |(_, value)| value)
    }

    fn read(stream: &TcpStream) -> Result<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next().context("no method")?, words.next().context("no path")?);
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            ensure!(reader.read_line(&mut line)? > 0, "the request ends within its header");
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut request =
            Self { method, target, headers, body: String::new(), from: stream.peer_addr()?.ip() };
        let length = request.header("content-length").parse().unwrap_or_default();
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        request.body = String::from_utf8(body).context("the body is not UTF-8")?;
        Ok(request)
    }

    /// Sends it on as it is, and returns the answer.
    pub fn forward(&self, mut stream: TcpStream) -> Result<Reply> {
        // On a busy machine a server in Python takes seconds.
        stream.set_read_timeout(Some(LIMIT))?;
        let headers = self.headers.iter().filter(|(name, _)| name != "connection");
        let headers: String = headers.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let (method, target) = (&self.method, &self.target);
        write!(stream, "{method} {target} HTTP/1.1\r\n{headers}connection: close\r\n\r\n{}", self.body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8(answer).context("the answer is not UTF-8")?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
        let status =
            head.split(' ').nth(1).unwrap_or_default().parse().context("the answer has no status")?;
        Ok(Reply { status, headers: Vec::new(), body: body.to_owned() })
    }
}

/// Returns a text without percent-encoding.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digits = if byte == b'%' { rest.next().zip(rest.next()) } else { None };
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let decoded = digits.and_then(|(high, low)| Some(16 * digit(high)? + digit(low)?));
        bytes.push(decoded.unwrap_or(byte));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Names and values beside those that every answer has.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Reply {
    /// Returns one without special headers.
    pub fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn write(&self, mut stream: &TcpStream) -> Result<()> {
        let Self { status, headers, body } = self;
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status} Answer\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
        )?;
        Ok(())
    }
}

/// A running server. Dropping it closes it.
#[derive(Debug)]
pub struct Server {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts it on an address of a namespace. Port 0 means any free port.
    pub fn start(
        netns: &NetNs,
        ip: IpAddr,
        port: u16,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = Arc::new(netns.tcp_listen(ip, port)?);
        let address = listener.local_addr()?;
        let (accepting, answer) = (Arc::clone(&listener), Arc::new(answer));
        let thread = thread::spawn(move || {
            // An error: it is shut down.
            while let Ok((stream, _)) = accepting.accept() {
                let answer = Arc::clone(&answer);
                thread::spawn(move || {
                    if let Err(error) = serve(&stream, &*answer) {
                        eprintln!("test bed: a request to {address}: {error:#}");
                    }
                });
            }
        });
        Ok(Self { listener, address, thread: Some(thread) })
    }

    /// Returns its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if shutdown(self.listener.as_raw_fd(), Shutdown::Both).is_ok()
            && let Some(thread) = self.thread.take()
        {
            drop(thread.join());
        }
    }
}

fn serve(stream: &TcpStream, answer: impl Fn(&Request) -> Reply) -> Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    answer(&Request::read(stream)?).write(stream)
}
