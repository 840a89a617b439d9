//! `flannel-agent flows`: which flows of this node's pods the BPF programs know, and which of them skip the host stack.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use serde::Serialize;

use crate::dataplane::bpf::flows::listed::{ListedFlow, Passed, list};
use crate::dataplane::bpf::pins::{self, Pins};
use crate::paths::Paths;
use crate::watch::{Form, show_all};

/// Version of the JSON. It rises when a field goes or gets another meaning.
const SCHEMA: u32 = 1;

/// Lists the flows of this node's pods that the BPF programs know: protocol, pod and other end, the pod behind a service, the other end's
/// node, the pod's port, and each direction.
///
/// A direction is `proven` if its packets skip the host stack (so long ago one has passed it), `expired` if the next packet passes it,
/// `changed` if the host changes packets so that all of them pass it, and `-` if none has been seen. The agent need not run.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowFlows {
    /// Only flows with this address, or one in this network: the pod's, the other end's or that of the pod behind a service.
    #[arg(long, value_name = "ADDRESS", value_parser = network)]
    pub address: Option<IpNet>,
    /// Only flows with this TCP or UDP port at an end.
    #[arg(long)]
    pub port: Option<u16>,
    /// Only flows to pods of the node with this public address.
    #[arg(long, value_name = "ADDRESS")]
    pub peer: Option<IpAddr>,
    /// Only flows that the host translates, such as those to services.
    #[arg(long)]
    pub translated: bool,
    /// Also flows none of whose directions is proven.
    #[arg(long)]
    pub all: bool,
    /// How it is shown.
    #[command(flatten)]
    pub form: Form,
    /// Where this node's things are.
    #[command(flatten)]
    pub paths: Paths,
}

/// Parses an address or a network.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| "neither an address nor a network".to_owned())
}

/// Prints the flows of each overlay of this node.
///
/// # Errors
/// No programs are pinned, their flows cannot be read, or the output cannot be written.
pub async fn run(options: &ShowFlows) -> Result<()> {
    show_all(options.form, async || read(options)).await
}

fn read(options: &ShowFlows) -> Result<Flows> {
    let mut overlays = Vec::new();
    for vni in pins::overlays(&options.paths.bpffs)? {
        let flows = list(&Pins::new(&options.paths.bpffs, vni));
        let flows = flows.with_context(|| format!("the flows of {}", pins::title(vni)))?.into_iter();
        overlays
            .push(Overlay { vni, flows: flows.filter(|flow| options.wants(flow)).map(Row::of).collect() });
    }
    Ok(Flows { schema: SCHEMA, overlays })
}

impl ShowFlows {
    fn wants(&self, flow: &ListedFlow) -> bool {
        let ends = || [Some(flow.pod), Some(flow.remote), flow.behind, flow.seen_as].into_iter().flatten();
        let has_address = |net: IpNet| ends().any(|end| net.contains(&end.ip()));
        self.address.is_none_or(has_address)
            && self.port.is_none_or(|port| ends().any(|end| end.port() == port))
            && self.peer.is_none_or(|peer| flow.peer == Some(peer))
            && (!self.translated || flow.behind.is_some() || flow.seen_as.is_some())
            && (self.all
                || [flow.sent, flow.received].iter().any(|passed| matches!(passed, Passed::Proven(_))))
    }
}

#[derive(Debug, Serialize)]
struct Flows {
    schema: u32,
    overlays: Vec<Overlay>,
}

#[derive(Debug, Serialize)]
struct Overlay {
    vni: u32,
    flows: Vec<Row>,
}

/// A flow, as it is shown.
#[derive(Debug, Serialize)]
struct Row {
    protocol: String,
    pod: SocketAddr,
    remote: SocketAddr,
    /// The pod behind a service.
    behind: Option<SocketAddr>,
    /// What the other end sees of the pod.
    seen_as: Option<SocketAddr>,
    /// The other end's node.
    peer: Option<IpAddr>,
    /// `vxlan` or `on-link`.
    way: &'static str,
    port: Option<String>,
    sent: Direction,
    received: Direction,
}

/// A direction of a flow.
#[derive(Debug, Serialize)]
struct Direction {
    /// `never`, `proven`, `expired` or `changed`.
    state: &'static str,
    /// When a packet has last left the host stack.
    milliseconds_ago: Option<u64>,
}

impl Row {
    fn of(flow: ListedFlow) -> Self {
        let ListedFlow { protocol, pod, remote, behind, seen_as, peer, on_link, port, sent, received } = flow;
        let protocol = protocol_name(protocol);
        let way = if on_link { "on-link" } else { "vxlan" };
        let (sent, received) = (Direction::of(sent), Direction::of(received));
        Self { protocol, pod, remote, behind, seen_as, peer, way, port, sent, received }
    }
}

/// Returns `tcp` or `udp`, or the number of another protocol.
pub(crate) fn protocol_name(protocol: u8) -> String {
    match i32::from(protocol) {
        libc::IPPROTO_TCP => "tcp".to_owned(),
        libc::IPPROTO_UDP => "udp".to_owned(),
        number => number.to_string(),
    }
}

impl Direction {
    const fn of(passed: Passed) -> Self {
        let (state, milliseconds_ago) = passed.parts();
        Self { state, milliseconds_ago }
    }
}

/// Writes a line for each flow, below a heading. Overlays have headings if there are several.
impl fmt::Display for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Overlay { vni, flows } in &self.overlays {
            if self.overlays.len() > 1 {
                writeln!(f, "{}", pins::title(*vni))?;
            }
            if !flows.is_empty() {
                line(f, ["", "pod", "other end", "way", "port", "sent", "received"])?;
            }
            flows.iter().try_for_each(|flow| write!(f, "{flow}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, pod, remote, behind, seen_as, peer, way, port, sent, received } = self;
        let as_seen = |end: &SocketAddr, other: &Option<SocketAddr>| {
            other.map_or_else(|| end.to_string(), |other| format!("{end} = {other}"))
        };
        let (pod, remote) = (as_seen(pod, seen_as), as_seen(remote, behind));
        let way = peer.map_or_else(|| "-".to_owned(), |peer| format!("{way} {peer}"));
        let (sent, received) = (sent.to_string(), received.to_string());
        line(f, [protocol, &pod, &remote, &way, port.as_deref().unwrap_or("-"), &sent, &received])
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.milliseconds_ago {
            Some(ago) => write!(f, "{} {}.{} s", self.state, ago / 1000, ago % 1000 / 100),
            None => write!(f, "-"),
        }
    }
}

fn line(
    f: &mut fmt::Formatter<'_>,
    [protocol, pod, remote, way, port, sent, received]: [&str; 7],
) -> fmt::Result {
    writeln!(f, "{protocol:<4} {pod:<21} {remote:<38} {way:<22} {port:<12} {sent:<14} {received}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> ListedFlow {
        ListedFlow {
            protocol: 6,
            pod: "10.5.1.2:40000".parse().unwrap(),
            remote: "10.96.0.1:80".parse().unwrap(),
            behind: "10.5.2.2:8080".parse().ok(),
            seen_as: None,
            peer: "192.168.64.2".parse().ok(),
            on_link: false,
            port: Some("veth1".to_owned()),
            sent: Passed::Proven(340),
            received: Passed::Never,
        }
    }

    fn options(change: impl FnOnce(&mut ShowFlows)) -> ShowFlows {
        let paths = Paths { subnet_file: Paths::SUBNET_FILE.into(), bpffs: "/sys/fs/bpf".into() };
        let mut options = ShowFlows {
            address: None,
            port: None,
            peer: None,
            translated: false,
            all: false,
            form: Form::default(),
            paths,
        };
        change(&mut options);
        options
    }

    #[test]
    fn a_flow_is_a_line() {
        let flows =
            Flows { schema: SCHEMA, overlays: vec![Overlay { vni: 1, flows: vec![Row::of(flow())] }] };
        let words: Vec<Vec<_>> = flows
            .to_string()
            .lines()
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect();
        assert_eq!(words[0], ["pod", "other", "end", "way", "port", "sent", "received"]);
        let expected =
            "tcp 10.5.1.2:40000 10.96.0.1:80 = 10.5.2.2:8080 vxlan 192.168.64.2 veth1 proven 0.3 s -";
        assert_eq!(words[1], expected.split_whitespace().collect::<Vec<_>>());
        assert_eq!(words.len(), 2);
    }

    #[test]
    fn filters_look_at_each_end() {
        let net = |text| network(text).ok();
        let expired = ListedFlow { sent: Passed::Expired(1), ..flow() };
        let direct = ListedFlow { behind: None, ..flow() };
        for (change, flow, wanted) in [
            (&(|_: &mut ShowFlows| {}) as &dyn Fn(&mut ShowFlows), flow(), true),
            (&|options| options.address = net("10.5.1.2"), flow(), true),
            (&|options| options.address = net("10.96.0.0/12"), flow(), true),
            (&|options| options.address = net("10.5.2.0/24"), flow(), true),
            (&|options| options.address = net("10.5.3.0/24"), flow(), false),
            (&|options| options.port = Some(8080), flow(), true),
            (&|options| options.port = Some(81), flow(), false),
            (&|options| options.peer = "192.168.64.2".parse().ok(), flow(), true),
            (&|options| options.peer = "192.168.64.3".parse().ok(), flow(), false),
            (&|options| options.translated = true, flow(), true),
            (&|options| options.translated = true, direct, false),
            (&|_| {}, expired.clone(), false),
            (&|options| options.all = true, expired, true),
        ] {
            assert_eq!(options(change).wants(&flow), wanted, "{:?} {flow:?}", options(change));
        }
        assert!(network("10.5.1").is_err());
    }
}
