//! Which rules look at each packet of pods' flows, and not only at the first ones. Pure.
//!
//! A flow past the host stack escapes a rule whose answer differs among the packets of a flow, such as a limit or a test of the length, a
//! rule that shows packets to a program, and a helper of the connection tracker. Not so a rule that tests nothing but what all packets of
//! a flow have in common, one for new or invalid connections, and one that only logs or counts.

mod scope;

use std::collections::BTreeSet;

use ipnet::IpNet;

use scope::Scope;
pub use scope::Selector;

use super::walk::{Fit, Packets, among, bases, chain, has_all, named, of_each};
use crate::netfilter::nft::number;
use crate::netfilter::rules::{Action, Field, Hook, Rule, Table, Test, Value};

/// Packets that the host forwards from and to its pods.
#[derive(Clone, Copy, Debug)]
pub struct Pods<'a> {
    /// The networks of all pods.
    pub networks: &'a [IpNet],
    /// Names of the interfaces by which they come in and leave; none if they are not known.
    pub interfaces: &'a BTreeSet<String>,
}

/// A rule that looks at each packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// How an operator finds it.
    pub rule: String,
    /// The packets that it may match.
    pub packets: BTreeSet<Selector>,
}

/// Returns the rules that look at each packet of pods.
#[must_use]
pub fn looks(tables: &[Table], pods: Pods<'_>) -> Vec<Look> {
    let mut looks = Vec::new();
    for v6 in [false, true] {
        let Some(network) = pods.networks.iter().find(|network| network.addr().is_ipv6() == v6) else {
            continue;
        };
        // The first packets of a flow as well: a helper is chosen by them.
        for first in [false, true] {
            let bases = bases(tables);
            let bases = bases.into_iter().filter(|(base, table, _)| {
                table.family.includes(v6) && !matches!(base.hook, Hook::Input | Hook::Output)
            });
            for (base, table, name) in bases {
                let (network, hook) = (*network, base.hook);
                let mut flows = Flows { pods, network, hook, first, looks: &mut looks };
                chain(&mut flows, table, name, &Scope::all(v6));
            }
        }
    }
    looks
}

/// Packets of flows that are proven, or the first ones of such flows.
struct Flows<'a> {
    pods: Pods<'a>,
    /// The network of pods of one family.
    network: IpNet,
    hook: Hook,
    first: bool,
    looks: &'a mut Vec<Look>,
}

impl Packets for Flows<'_> {
    type Here = Scope;

    fn fit(&self, field: &Field, values: &[Value]) -> Fit {
        let any_of = |names: &[&str]| names.iter().map(|name| named(values, name)).max().unwrap_or(Fit::None);
        match field {
            Field::Family => any_of(&[if self.network.addr().is_ipv6() { "ipv6" } else { "ipv4" }]),
            // Flows are TCP or UDP.
            Field::Protocol => {
                of_each(scope::PROTOCOLS.map(|(name, number)| {
                    named(values, name).max(among(values, [number.into()])) == Fit::All
                }))
            }
            Field::Destination if self.hook > Hook::Prerouting => self.in_network(values),
            Field::In | Field::Out if self.pods.interfaces.is_empty() => Fit::Some,
            Field::In | Field::Out => {
                of_each(self.pods.interfaces.iter().map(|name| named(values, name) == Fit::All))
            }
            Field::State if self.first => {
                any_of(&["new"]).max(any_of(&["untracked", "dnat", "snat"]).min(Fit::Some))
            }
            Field::State => {
                any_of(&["established"]).max(any_of(&["related", "untracked", "dnat", "snat"]).min(Fit::Some))
            }
            // Packets that begin or end a connection go through the stack anyway.
            Field::Flags if !self.first && any_of(&["syn", "fin", "rst"]) == Fit::All => Fit::None,
            // No process of the host has sent them.
            Field::Sender => Fit::None,
            Field::Kind => any_of(&["unicast"]),
            Field::All(fields) => has_all(self, fields, values),
            _ => Fit::Some,
        }
    }

    fn narrow(&self, here: &mut Scope, test: &Test, _: Fit) {
        here.narrow(test);
    }

    fn meet(&mut self, rule: &Rule, action: &Action, here: &Scope) {
        let looks = match action {
            Action::Help => self.first,
            // What is done in the chain counts.
            Action::Jump(_) | Action::Goto(_) | Action::Untrack => false,
            Action::Show => !self.first,
            _ => here.by_packet && !self.first,
        };
        if !looks {
            return;
        }
        match self.looks.iter_mut().find(|look| look.rule == rule.text) {
            Some(look) => look.packets.extend(here.selectors()),
            None => self
                .looks
                .push(Look { rule: rule.text.clone(), packets: here.selectors().into_iter().collect() }),
        }
    }
}

impl Flows<'_> {
    /// Returns which of the pods' addresses are among these values.
    fn in_network(&self, values: &[Value]) -> Fit {
        let (first, last) = (number(self.network.network()), number(self.network.broadcast()));
        let overlaps = |value: &Value| match value {
            Value::Numbers(from, to) if *from <= first && last <= *to => Fit::All,
            Value::Numbers(from, to) if *from <= last && first <= *to => Fit::Some,
            Value::Numbers(..) => Fit::None,
            Value::Name(_) | Value::All(_) => Fit::Some,
        };
        values.iter().map(overlaps).max().unwrap_or(Fit::None)
    }
}

#[cfg(test)]
mod tests;
