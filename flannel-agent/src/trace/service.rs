//! Follows the translation of a packet's addresses, such as that of a service: by the flow table, the connection tracker, rules, or the
//! kernel's load balancer.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};

use super::filter::InHost;
use super::journey::Journey;
use super::packet::{Packet, Protocol};
use super::report::{Choice, KnownFlow, TraceEnd, TraceStep, Translator};
use crate::dataplane::bpf::flows::listed::ListedFlow;
use crate::netfilter::judge::packet::{Translated, Translation, Ways};
use crate::netfilter::rules::{Hook, Side, Target};
use crate::netfilter::{ipvs, reader};
use crate::netlink::conntrack::{Directions, Tracker, Tuple};
use crate::netlink::is_loaded;
use crate::netlink::route::{Hop, RouteAnswer, RouteQuery};

/// `NETLINK_NETFILTER`
const NETFILTER: isize = 12;

impl KnownFlow {
    pub(super) fn of(flow: &ListedFlow) -> Self {
        let ListedFlow { pod, remote, behind, seen_as, peer, sent, received, .. } = *flow;
        Self { pod, remote, behind, seen_as, peer, sent: sent.parts().0, received: received.parts().0 }
    }
}

impl Packet {
    /// Returns its addresses and ports.
    pub(super) const fn ends(&self) -> Tuple {
        let Self { source, destination, source_port, destination_port, .. } = *self;
        Tuple {
            source: SocketAddr::new(source, source_port),
            destination: SocketAddr::new(destination, destination_port),
        }
    }

    /// Gives a side another address and port.
    const fn translate(&mut self, side: Side, to: SocketAddr) {
        match side {
            Side::Source => (self.source, self.source_port) = (to.ip(), to.port()),
            Side::Destination => (self.destination, self.destination_port) = (to.ip(), to.port()),
        }
    }

    /// Returns an address of this packet as text, with its port if it has one.
    fn shown(&self, end: SocketAddr) -> String {
        if self.protocol == Protocol::Icmp { end.ip().to_string() } else { end.to_string() }
    }
}

impl Journey {
    /// Follows the packet of a flow that a program has taken past the stack, with the translation that the flow has learnt.
    pub(super) fn translate_by_flow(&mut self) -> Result<()> {
        let Some(KnownFlow { behind, seen_as, .. }) = self.flow else { return Ok(()) };
        if let (Some(chosen), Some(behind)) = (self.to, behind) {
            ensure!(chosen == behind, "--to {chosen}: the flow goes to {behind}");
            self.to = None;
        }
        self.translated(Translator::Flow, seen_as, behind, Vec::new());
        Ok(())
    }

    /// Gives the packet other addresses, and adds the steps for that.
    fn translated(
        &mut self,
        by: Translator,
        source: Option<SocketAddr>,
        destination: Option<SocketAddr>,
        rules: Vec<String>,
    ) {
        if source.is_none() && destination.is_none() {
            return;
        }
        let shown = |end: Option<SocketAddr>| end.map(|end| self.packet.shown(end));
        let (new_source, new_destination) = (shown(source), shown(destination));
        self.steps.push(TraceStep::Translation {
            by,
            source: new_source,
            destination: new_destination,
            rules,
        });
        for (side, to) in [(Side::Source, source), (Side::Destination, destination)] {
            to.into_iter().for_each(|to| self.packet.translate(side, to));
        }
        if let Some(holder) = destination.and_then(|to| self.holder(to.ip())) {
            self.steps.push(TraceStep::Lease(holder));
        }
    }

    /// Asks the connection tracker for the packet's connection. Adds a step if it knows that.
    pub(super) fn connection(&mut self) -> Result<Option<Directions>> {
        if self.packet.protocol == Protocol::Icmp || !is_loaded(NETFILTER)? {
            return Ok(None);
        }
        let protocol = self.packet.protocol.number(self.packet.source);
        let known = match Tracker::open().and_then(|tracker| tracker.directions(protocol, self.packet.ends()))
        {
            Ok(known) => known,
            Err(error) => {
                self.steps.push(TraceStep::note(format!("the connection tracker is not asked: {error:#}")));
                None
            }
        };
        if let Some(Directions { answered, .. }) = known {
            self.steps.push(TraceStep::Connection { answered });
        }
        Ok(known)
    }

    /// Translates a side of the packet at a hook, as its connection or the rules have it. Returns its end if it cannot be followed.
    pub(super) async fn translate(
        &mut self,
        host: &mut InHost,
        hook: Hook,
        side: Side,
    ) -> Result<Option<TraceEnd>> {
        if let Some(connection) = host.connection {
            let to = translation(&connection, host.arrived, side);
            if side == Side::Destination && self.to.is_some_and(|chosen| Some(chosen) != to) {
                let goes = to.unwrap_or(host.arrived.destination);
                bail!("the connection tracker knows this connection, which goes to {goes}: leave --to out");
            }
            if let Some(to) = to {
                let (source, destination) = sides(side, to);
                self.translated(Translator::ConnectionTracker, source, destination, Vec::new());
                self.note_translation(host, side, to);
            }
            return Ok(None);
        }
        let ways = Ways { from: host.from.as_deref(), to: host.to.as_deref() };
        let Some(traveller) = host.traveller.as_mut() else { return Ok(None) };
        let found = traveller.translations(hook, side, ways);
        match side {
            Side::Source => self.translate_source(host, found).await.map(|()| None),
            Side::Destination => self.translate_destination(host, found).await,
        }
    }

    fn note_translation(&mut self, host: &mut InHost, side: Side, to: SocketAddr) {
        if side == Side::Destination {
            self.to = None;
        }
        if let Some(traveller) = host.traveller.as_mut() {
            traveller.translate(side, to);
        }
    }

    /// Follows the only translation of the destination, or the one that was chosen by `--to`.
    async fn translate_destination(
        &mut self,
        host: &mut InHost,
        found: Translated,
    ) -> Result<Option<TraceEnd>> {
        let Translated { choices, is_sure, doubts } = found;
        if choices.is_empty() {
            return Ok(None);
        }
        let port = self.packet.destination_port;
        let end = |to: &Option<Target>| {
            let Target { address, port: of_target } = (*to)?;
            Some(SocketAddr::new(address?, of_target.unwrap_or(port)))
        };
        let ends: Vec<_> = choices.iter().map(|choice| end(&choice.to)).collect();
        let chosen = match self.to {
            Some(to) => Some(ends.iter().position(|end| *end == Some(to)).with_context(|| {
                let ends = ends.iter().flatten().map(ToString::to_string).collect::<Vec<_>>();
                format!("--to {to}: no rule translates the packet to that, but to {}", ends.join(" or "))
            })?),
            None if ends.len() == 1 && is_sure => Some(0),
            None => None,
        };
        if let Some((chosen, to)) = chosen.and_then(|at| Some((choices.get(at)?, (*ends.get(at)?)?))) {
            self.translated(Translator::Rules, None, Some(to), worded(&chosen.rules).await);
            self.note_translation(host, Side::Destination, to);
            return Ok(None);
        }
        let to = shown_all(&choices, port).await;
        Ok(Some(self.undecided(Translator::Rules, to, !is_sure, doubts)))
    }

    /// Adds the step with several destinations, and returns the end of a packet that may go to each of them.
    fn undecided(
        &mut self,
        by: Translator,
        to: Vec<Choice>,
        may_stay: bool,
        depends_on: Vec<String>,
    ) -> TraceEnd {
        let can_choose = to.iter().any(|choice| choice.to.is_some());
        self.steps.push(TraceStep::Choice { by, side: "destination", to, may_stay, depends_on });
        let reason = match (can_choose, self.packet.protocol) {
            (false, _) => "the rule's new destination is not read".to_owned(),
            (true, Protocol::Icmp) => "its destination may be translated, name a new one by --to".to_owned(),
            (true, _) => {
                "its destination may be translated; one of those above is followed with --to ADDRESS:PORT"
                    .to_owned()
            }
        };
        TraceEnd::Undecided { reason }
    }

    /// Follows the only translation of the source. Of several, each is shown, and the packet keeps its source.
    async fn translate_source(&mut self, host: &mut InHost, found: Translated) -> Result<()> {
        let Translated { choices, is_sure, doubts } = found;
        let port = self.packet.source_port;
        let (first, others) = match choices.split_first() {
            Some((first, others)) => (first, others),
            None => return Ok(()),
        };
        let address = match first.to {
            Some(Target { address: Some(address), .. }) => Some(address),
            Some(Target { address: None, .. }) => self.own_address().await?,
            None => None,
        };
        if let (true, [], Some(address), Some(target)) = (is_sure, others, address, first.to) {
            let to = SocketAddr::new(address, target.port.unwrap_or(port));
            self.translated(Translator::Rules, Some(to), None, worded(&first.rules).await);
            self.note_translation(host, Side::Source, to);
            return Ok(());
        }
        let to = shown_all(&choices, port).await;
        self.steps.push(TraceStep::Choice {
            by: Translator::Rules,
            side: "source",
            to,
            may_stay: !is_sure,
            depends_on: doubts,
        });
        Ok(())
    }

    /// Returns the host's address for packets to the packet's destination.
    async fn own_address(&self) -> Result<Option<IpAddr>> {
        let query = RouteQuery { destination: self.packet.destination, forwarded: None };
        Ok(match self.kernel.route(query).await? {
            RouteAnswer::Out(Hop { source, .. }) | RouteAnswer::Local(Hop { source, .. }) => source,
            RouteAnswer::Refused(_) => None,
        })
    }

    /// Returns true if the kernel's load balancer has a service at the packet's destination, and follows its only backend, or the one
    /// that was chosen by `--to`. `Err`: the packet's end.
    pub(super) fn balance(&mut self, host: &mut InHost) -> Result<std::result::Result<bool, TraceEnd>> {
        let protocol = match self.packet.protocol {
            Protocol::Icmp => return Ok(Ok(false)),
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        let listed = ipvs::read().context("reading /proc/net/ip_vs")?;
        let service = self.packet.ends().destination;
        let Some(backends) = ipvs::backends(&listed, protocol, service) else { return Ok(Ok(false)) };
        let chosen = match self.to {
            Some(to) if !backends.contains(&to) => bail!("--to {to}: ipvs has no such backend of {service}"),
            Some(to) => Some(to),
            None => Some(&backends[..]).filter(|backends| backends.len() == 1).map(|backends| backends[0]),
        };
        if let Some(to) = chosen {
            self.translated(Translator::Ipvs, None, Some(to), Vec::new());
            self.note_translation(host, Side::Destination, to);
            return Ok(Ok(true));
        }
        if backends.is_empty() {
            return Ok(Err(TraceEnd::Lost { reason: format!("ipvs has no backend of {service}") }));
        }
        let choice = |to: &SocketAddr| Choice { to: Some(to.to_string()), rules: Vec::new() };
        let choices = backends.iter().map(choice).collect();
        Ok(Err(self.undecided(Translator::Ipvs, choices, false, vec!["which one ipvs chooses".to_owned()])))
    }
}

/// Returns source and destination, of which one is new.
const fn sides(side: Side, to: SocketAddr) -> (Option<SocketAddr>, Option<SocketAddr>) {
    match side {
        Side::Source => (Some(to), None),
        Side::Destination => (None, Some(to)),
    }
}

/// Returns rules as their tools write them.
async fn worded(rules: &[String]) -> Vec<String> {
    let mut worded = Vec::new();
    for rule in rules {
        worded.push(reader::wording(rule).await);
    }
    worded
}

/// Returns what may become of an address with this port.
async fn shown_all(choices: &[Translation], port: u16) -> Vec<Choice> {
    let mut all = Vec::new();
    for Translation { rules, to } in choices {
        all.push(Choice { to: to.map(|target| shown(target, port)), rules: worded(rules).await });
    }
    all
}

/// Returns what a rule makes of an address with this port, as text.
fn shown(target: Target, port: u16) -> String {
    let port = target.port.unwrap_or(port);
    match target.address {
        Some(address) => SocketAddr::new(address, port).to_string(),
        None => format!("an address of this host, port {port}"),
    }
}

/// Returns what a side of a packet becomes that belongs to this connection; `None` if it stays.
fn translation(connection: &Directions, packet: Tuple, side: Side) -> Option<SocketAddr> {
    let Directions { original, reply, .. } = *connection;
    let other = if packet == original { reply } else { original };
    // The other direction has the ends of this one behind the translation.
    let (before, after) = match side {
        Side::Source => (packet.source, other.destination),
        Side::Destination => (packet.destination, other.source),
    };
    (before != after).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(source: &str, destination: &str) -> Tuple {
        Tuple { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    #[test]
    fn a_connection_says_what_packets_of_both_directions_become() {
        let original = tuple("10.5.1.2:40000", "10.96.0.10:80");
        let reply = tuple("10.5.2.2:8080", "10.5.1.0:50000");
        let connection = Directions { original, reply, answered: true };
        let becomes = |packet, side| translation(&connection, packet, side).map(|end| end.to_string());
        for (packet, source, destination) in [
            (original, Some("10.5.1.0:50000"), Some("10.5.2.2:8080")),
            (reply, Some("10.96.0.10:80"), Some("10.5.1.2:40000")),
        ] {
            assert_eq!(becomes(packet, Side::Source).as_deref(), source);
            assert_eq!(becomes(packet, Side::Destination).as_deref(), destination);
        }
        let plain = tuple("10.5.1.2:40000", "10.5.2.2:80");
        let back = tuple("10.5.2.2:80", "10.5.1.2:40000");
        let connection = Directions { original: plain, reply: back, answered: false };
        assert_eq!(translation(&connection, back, Side::Destination), None);
        assert_eq!(translation(&connection, plain, Side::Source), None);
    }
}
