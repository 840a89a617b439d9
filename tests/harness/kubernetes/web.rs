//! Web servers in pods that say which pod they are and who asks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};

use crate::http;
use crate::traffic::Host;

/// A DaemonSet and a Service with the name and the label `app` `web`.
pub const WEB: &str = include_str!("web.yaml");
/// The port of the servers at their pods.
pub const POD_PORT: u16 = 8080;
/// The port of the servers at their nodes.
pub const HOST_PORT: u16 = 8000;
/// The port of the service at every node.
pub const NODE_PORT: u16 = 30080;
/// The address and port of the service.
pub const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 77, 77)), 80);

/// The answer of a web server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The name of the server's pod.
    pub pod: String,
    /// The client's address, as the server sees it.
    pub client: IpAddr,
}

/// Asks a web server of [`WEB`], over a new connection.
pub fn ask(from: &dyn Host, server: SocketAddr) -> Result<Answer> {
    request(from, server).with_context(|| format!("ask the web server at {server} from {}", from.ip()))
}

fn request(from: &dyn Host, server: SocketAddr) -> Result<Answer> {
    let stream = from.netns().tcp_connect(server)?;
    let answer = http::request(stream, "GET", "/cgi-bin/who", "text/plain", b"")?;
    let (pod, client) =
        answer.trim().split_once(' ').with_context(|| format!("unknown answer {answer:?}"))?;
    // The server listens for IPv6 and IPv4, and shows an IPv4 address as `[::ffff:10.244.0.2]`.
    let client: IpAddr =
        client.trim_matches(['[', ']']).parse().with_context(|| format!("no address in {answer:?}"))?;
    Ok(Answer { pod: pod.to_owned(), client: client.to_canonical() })
}
