//! Formats a report as text.

use std::fmt;
use std::net::SocketAddr;

use super::{Carrier, Choice, KnownFlow, LeaseHolder, Report, TraceEnd, TraceStep, Translator};
use crate::output::printable;
use crate::trace::outer::OuterHeaders;
use crate::trace::packet::{Packet, Protocol};

/// Writes a line for the packet, one for each step, and one for the end.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "packet", &self.packet)?;
        for step in &self.steps {
            line(f, step.label(), step)?;
        }
        let doubt = if self.certain { "" } else { ", unless a rule that cannot be judged changes that" };
        line(f, "=>", &format_args!("{}{doubt}", self.end))
    }
}

fn line(f: &mut fmt::Formatter<'_>, label: &str, text: &impl fmt::Display) -> fmt::Result {
    writeln!(f, "{label:<17} {text}")
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, destination, source_port, destination_port, bytes, protocol } = self;
        match protocol {
            Protocol::Icmp => write!(f, "icmp {source} -> {destination}, {bytes} bytes"),
            Protocol::Tcp | Protocol::Udp => {
                let name = if *protocol == Protocol::Tcp { "tcp" } else { "udp" };
                write!(
                    f,
                    "{name} {source} port {source_port} -> {destination} port {destination_port}, {bytes} bytes"
                )
            }
        }
    }
}

impl TraceStep {
    const fn label(&self) -> &'static str {
        match self {
            Self::Note { .. } => "note",
            Self::Lease(_) => "lease",
            Self::Pod { .. } => "pod",
            Self::Flow(_) => "flow",
            Self::Connection { .. } => "conntrack",
            Self::Translation { .. } | Self::Choice { .. } => "translation",
            Self::Rule { .. } => "rule",
            Self::Rules { .. } => "rules",
            Self::Program { program, .. } | Self::Absent { program, .. } => program,
            Self::Outer(_) => "outer headers",
            Self::Route { .. } => "route",
            Self::Neighbour { .. } => "neighbour",
            Self::TunnelEnd { .. } => "FDB",
        }
    }
}

impl fmt::Display for TraceStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Note { text } => f.write_str(text),
            Self::Lease(holder) => holder.fmt(f),
            Self::Pod { address, mac, device } => write!(f, "{address} is {mac} at {device}"),
            Self::Flow(flow) => flow.fmt(f),
            Self::Connection { answered } => {
                let answered = if *answered { "answered" } else { "without an answer yet" };
                write!(f, "the connection is known, {answered}")
            }
            Self::Translation { by, source, destination, rules } => {
                let sides = [("source", source), ("destination", destination)];
                let sides =
                    sides.into_iter().filter_map(|(side, to)| Some(format!("{side} {}", to.as_ref()?)));
                write!(f, "by {by}: {}", sides.collect::<Vec<_>>().join(", "))?;
                path(f, rules)
            }
            Self::Choice { by, side, to, may_stay, depends_on } => {
                let stays = if *may_stay { ", or stays as it is" } else { "" };
                write!(f, "by {by}: the {side} becomes one of these{stays}")?;
                if !depends_on.is_empty() {
                    write!(f, ", which depends on {}", printable(&depends_on.join(", ")))?;
                }
                to.iter().try_for_each(|choice| choice.fmt(f))
            }
            Self::Rule { outer, hook, does, rule, depends_on } => {
                let packet = if *outer { "the outer packet" } else { "it" };
                let rule = printable(rule);
                let does = match *does {
                    "shows" => format!("shows {packet} to a program, which decides"),
                    "unknown" => format!("does something to {packet} that is not known here"),
                    does => format!("{does} {packet}"),
                };
                match &depends_on[..] {
                    [] => write!(f, "{hook}: this {does}: {rule}"),
                    unknown => {
                        let unknown = printable(&unknown.join(", "));
                        write!(f, "{hook}: cannot tell whether this {does}, it looks at {unknown}: {rule}")
                    }
                }
            }
            Self::Rules { outer, hooks, established } => {
                let packet = match (outer, established) {
                    (true, _) => "the outer packet",
                    (false, true) => "a packet of this connection",
                    (false, false) => "the first packet of a connection",
                };
                write!(f, "{}: none stops {packet}", hooks.join(", "))
            }
            Self::Program { device, verdict, outcome, help, .. } => {
                write!(f, "at {device}: {verdict}, {outcome}: {help}")
            }
            Self::Absent { device, .. } => write!(f, "not attached to {device}: the packet passes"),
            Self::Outer(outer) => outer.fmt(f),
            Self::Route { destination, device, mtu, gateway: None } => {
                write!(f, "{destination} is on the link of {device} (MTU {mtu})")
            }
            Self::Route { destination, device, mtu, gateway: Some(gateway) } => {
                write!(f, "{destination} via {gateway} dev {device} (MTU {mtu})")
            }
            Self::Neighbour { address, device, mac: Some(mac), state } => {
                write!(f, "{address} dev {device} is {mac} ({state})")
            }
            Self::Neighbour { address, device, mac: None, state } => {
                write!(f, "{address} dev {device} has no MAC ({state})")
            }
            Self::TunnelEnd { mac, device, node: Some(node) } => write!(f, "{mac} dev {device} is at {node}"),
            Self::TunnelEnd { mac, device, node: None } => write!(f, "{mac} dev {device} is nowhere"),
        }
    }
}

/// Writes rules below the line.
fn path(f: &mut fmt::Formatter<'_>, rules: &[String]) -> fmt::Result {
    rules.iter().try_for_each(|rule| write!(f, "\n{:<17}   {}", "", printable(rule)))
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{:<17} {}", "", self.to.as_deref().unwrap_or("an address that the rule does not say"))?;
        path(f, &self.rules)
    }
}

impl fmt::Display for Translator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flow => "the flow table",
            Self::ConnectionTracker => "the connection tracker",
            Self::Rules => "rules",
            Self::Ipvs => "the load balancer ipvs",
        })
    }
}

impl fmt::Display for KnownFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pod, remote, behind, seen_as, peer, sent, received } = self;
        let as_seen = |end: &SocketAddr, other: &Option<SocketAddr>| {
            other.map_or_else(|| end.to_string(), |other| format!("{end} = {other}"))
        };
        write!(
            f,
            "{} -> {}: sent {sent}, received {received}",
            as_seen(pod, seen_as),
            as_seen(remote, behind)
        )?;
        peer.map_or(Ok(()), |peer| write!(f, "; the other end is on {peer}"))
    }
}

impl fmt::Display for LeaseHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, subnet, public_ip, vtep_mac, kind } = self;
        let kind = if *kind == "subnet" { String::new() } else { format!(" ({kind})") };
        write!(f, "{address} is in {subnet}{kind}, held by {public_ip} with VTEP MAC {vtep_mac}")
    }
}

impl fmt::Display for OuterHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, destination, ttl, ecn, source_port, destination_port, vni, bytes, .. } = self;
        let (from, to) = (self.inner_source, self.inner_destination);
        let group = self.group.map_or_else(String::new, |group| format!(", group {group}"));
        write!(
            f,
            "IPv4 {source} -> {destination}, TTL {ttl}, ECN {ecn}, {bytes} bytes; UDP {source_port} (varies) -> \
             {destination_port}; VXLAN VNI {vni}{group}; inside {from} -> {to}"
        )
    }
}

impl fmt::Display for TraceEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaves { device, node: Some(node), by } => {
                write!(f, "leaves by {device}, wrapped in VXLAN for {node} by {by}")
            }
            Self::Leaves { device, node: None, by } => {
                write!(f, "leaves by {device} without a tunnel, sent by {by}")
            }
            Self::Delivered { device, by } => write!(f, "reaches its pod at {device}, delivered by {by}"),
            Self::Local => f.write_str("is for this host itself"),
            Self::Undecided { reason } => write!(f, "cannot be followed further: {reason}"),
            Self::Lost { reason } => write!(f, "goes no further: {reason}"),
        }
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bpf => "BPF",
            Self::Kernel => "the kernel",
        })
    }
}
