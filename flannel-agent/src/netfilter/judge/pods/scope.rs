//! Which packets can come to a rule, by the tests before it. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::netfilter::rules::{Field, Test, Value};

/// The protocols of flows, by name and number.
pub(super) const PROTOCOLS: [(&str, u8); 2] = [("tcp", 6), ("udp", 17)];

/// Ports from the first to the last.
pub(super) type Ports = (u16, u16);

const ANY_PORT: Ports = (0, u16::MAX);

/// Packets of a protocol between addresses and ports. Those of the other direction of a flow are meant as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    /// IP protocol number; `None` for TCP and UDP.
    pub protocol: Option<u8>,
    /// Their source.
    pub source: IpNet,
    /// Their destination.
    pub destination: IpNet,
    /// Their source port.
    pub source_ports: Ports,
    /// Their destination port.
    pub destination_ports: Ports,
}

impl Selector {
    /// Returns the selector of all TCP and UDP packets of a family.
    fn everything(v6: bool) -> Self {
        let any = if v6 { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
        let anywhere = IpNet::new_assert(any, 0);
        Self {
            protocol: None,
            source: anywhere,
            destination: anywhere,
            source_ports: ANY_PORT,
            destination_ports: ANY_PORT,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, source, destination, source_ports, destination_ports } = self;
        let name = PROTOCOLS
            .iter()
            .find(|(_, number)| Some(*number) == *protocol)
            .map_or("TCP and UDP", |(name, _)| name);
        write!(f, "{name}")?;
        for (word, net, ports) in [("from", source, source_ports), ("to", destination, destination_ports)] {
            match (net.prefix_len() == 0, *ports == ANY_PORT) {
                (true, true) => {}
                (true, false) => write!(f, " {word} port {}", shown(*ports))?,
                (false, true) => write!(f, " {word} {net}")?,
                (false, false) => write!(f, " {word} {net} port {}", shown(*ports))?,
            }
        }
        Ok(())
    }
}

fn shown((first, last): Ports) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// What is known of the packets that come to a rule: for each property the values that they may have, if any were named.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    v6: bool,
    /// Whether it depends on the packet, and not only on its flow, whether it comes here.
    pub(super) by_packet: bool,
    protocols: Option<Vec<u8>>,
    sources: Option<Vec<IpNet>>,
    destinations: Option<Vec<IpNet>>,
    source_ports: Option<Vec<Ports>>,
    destination_ports: Option<Vec<Ports>>,
}

impl Scope {
    /// Returns the scope of all packets of a family.
    pub(super) const fn all(v6: bool) -> Self {
        Self {
            v6,
            by_packet: false,
            protocols: None,
            sources: None,
            destinations: None,
            source_ports: None,
            destination_ports: None,
        }
    }

    /// Leaves out packets that do not pass a test. Of two tests of the same property the later one counts: it is mostly the narrower.
    pub(super) fn narrow(&mut self, test: &Test) {
        self.by_packet |= matches!(test.field, Field::Packet(_));
        if test.negated {
            return;
        }
        let Self { v6, .. } = *self;
        let values = &test.values;
        match &test.field {
            Field::Protocol => set(&mut self.protocols, values.iter().map(protocol)),
            Field::Source => set(&mut self.sources, values.iter().map(|value| net(value, v6))),
            Field::Destination => set(&mut self.destinations, values.iter().map(|value| net(value, v6))),
            Field::SourcePort => set(&mut self.source_ports, values.iter().map(ports)),
            Field::Port => set(&mut self.destination_ports, values.iter().map(ports)),
            Field::All(fields) => {
                for (index, field) in fields.iter().enumerate() {
                    let part = |value: &Value| match value {
                        Value::All(parts) => parts.get(index).cloned(),
                        _ => None,
                    };
                    if let Some(parts) = values.iter().map(part).collect::<Option<Vec<_>>>() {
                        self.narrow(&Test::new(field.clone(), parts));
                    }
                }
            }
            _ => {}
        }
    }

    /// Returns selectors that leave out none of these packets.
    pub(super) fn selectors(&self) -> Vec<Selector> {
        let Self { protocols, sources, destinations, source_ports, destination_ports, .. } = self;
        let all = vec![Selector::everything(self.v6)];
        let all = each(all, protocols.as_deref(), |selector, protocol| selector.protocol = Some(protocol));
        let all = each(all, sources.as_deref(), |selector, source| selector.source = source);
        let all = each(all, destinations.as_deref(), |selector, to| selector.destination = to);
        let all = each(all, source_ports.as_deref(), |selector, ports| selector.source_ports = ports);
        each(all, destination_ports.as_deref(), |selector, ports| selector.destination_ports = ports)
    }
}

/// Returns each selector with each of the values, if they are known.
fn each<T: Copy>(all: Vec<Selector>, values: Option<&[T]>, set: impl Fn(&mut Selector, T)) -> Vec<Selector> {
    let Some(values) = values else { return all };
    let with = |mut selector: Selector, value| {
        set(&mut selector, value);
        selector
    };
    all.iter().flat_map(|selector| values.iter().map(|value| with(*selector, *value))).collect()
}

/// Sets the values that are known, if all of them are.
fn set<T>(known: &mut Option<Vec<T>>, values: impl Iterator<Item = Option<T>>) {
    if let Some(values) = values.collect::<Option<Vec<_>>>().filter(|values| !values.is_empty()) {
        *known = Some(values);
    }
}

fn protocol(value: &Value) -> Option<u8> {
    match value {
        Value::Name(name) => PROTOCOLS.iter().find(|(known, _)| known == name).map(|(_, number)| *number),
        Value::Numbers(first, last) if first == last => (*first).try_into().ok(),
        _ => None,
    }
}

fn ports(value: &Value) -> Option<Ports> {
    match value {
        Value::Numbers(first, last) => Some(((*first).try_into().ok()?, (*last).try_into().ok()?)),
        _ => None,
    }
}

/// Returns the longest prefix that has all these addresses.
fn net(value: &Value, v6: bool) -> Option<IpNet> {
    let Value::Numbers(first, last) = *value else { return None };
    let common = (first ^ last).leading_zeros();
    let net = if v6 {
        IpNet::new(Ipv6Addr::from(first).into(), common.try_into().ok()?)
    } else {
        let first: u32 = first.try_into().ok()?;
        IpNet::new(Ipv4Addr::from(first).into(), common.checked_sub(96)?.try_into().ok()?)
    };
    net.ok().map(|net| net.trunc())
}
