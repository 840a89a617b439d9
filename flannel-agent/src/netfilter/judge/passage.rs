//! Whether rules let packets pass that nobody has seen before: the first ones of connections to, from and through the host. Pure.

use ipnet::IpNet;

use super::walk::{self, End, Fit, Gone, among, bases, chain, has_all, named, of_each};
use crate::netfilter::nft::number;
use crate::netfilter::rules::{Action, Field, Hook, Rule, Table, Test, Value};

/// A way of packets through the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// They are for the host itself.
    In,
    /// It forwards them.
    Through,
    /// It sends them.
    Out,
}

/// Packets of one address family.
#[derive(Clone, Copy, Debug)]
pub struct Packets<'a> {
    /// Their way.
    pub route: Route,
    /// Where they come from; any of these.
    pub sources: &'a [IpNet],
    /// Where they go; any of these, of the same family.
    pub destinations: &'a [IpNet],
    /// The destination port of UDP; `None` for packets of any protocol.
    pub udp_port: Option<u16>,
    /// Name of the interface by which they come.
    pub from: Option<&'a str>,
    /// Name of the interface by which they leave.
    pub to: Option<&'a str>,
}

/// What happens to them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Passage {
    /// No rule stops any of them.
    Open,
    /// This rule may stop some of them.
    Unsure(String),
    /// This rule stops all of them.
    Closed(String),
}

impl Route {
    const fn has(self, hook: Hook) -> bool {
        match self {
            Self::In => matches!(hook, Hook::Prerouting | Hook::Input),
            Self::Through => matches!(hook, Hook::Prerouting | Hook::Forward | Hook::Postrouting),
            Self::Out => matches!(hook, Hook::Output | Hook::Postrouting),
        }
    }
}

/// Returns what these tables do with these packets. Tables that translate addresses are not among them.
#[must_use]
pub fn passage(tables: &[Table], packets: Packets<'_>) -> Passage {
    let v6 = packets.destinations.iter().any(|net| net.addr().is_ipv6());
    let mut worst = Passage::Open;
    for (base, table, name) in bases(tables) {
        if !table.family.includes(v6) || !packets.route.has(base.hook) {
            continue;
        }
        let mut walker = Walker { packets, v6, is_marked: false, found: Passage::Open };
        let (end, gone) = chain(&mut walker, table, name, &true);
        if base.drops && end == End::Through {
            walker.stop(&format!("{} -P {name} DROP", table.name), !gone.accepted);
        }
        worst = worst.max(walker.found);
    }
    worst
}

/// The packets in one chain.
struct Walker<'a> {
    packets: Packets<'a>,
    v6: bool,
    /// Whether a rule may have marked them.
    is_marked: bool,
    found: Passage,
}

impl walk::Packets for Walker<'_> {
    /// Whether all packets have come to a rule, not some.
    type Here = bool;

    fn fit(&self, field: &Field, values: &[Value]) -> Fit {
        let any_of = |names: &[&str]| names.iter().map(|name| named(values, name)).max().unwrap_or(Fit::None);
        let interface = |known: Option<&str>, exists: bool| match known {
            Some(name) => named(values, name),
            None if exists => Fit::Some,
            None => Fit::None,
        };
        let Packets { route, sources, destinations, udp_port, from, to } = self.packets;
        match field {
            Field::Family => named(values, if self.v6 { "ipv6" } else { "ipv4" }),
            Field::Protocol if udp_port.is_some() => named(values, "udp").max(among(values, [17])),
            Field::Port => udp_port.map_or(Fit::Some, |port| among(values, [port.into()])),
            Field::Source => within(values, sources),
            Field::Destination => within(values, destinations),
            Field::In => interface(from, route != Route::Out),
            Field::Out => interface(to, route != Route::In),
            Field::Sender if route != Route::Out => Fit::None,
            // It is not TCP.
            Field::Flags if udp_port.is_some() => Fit::None,
            Field::Mark(_) if !self.is_marked => among(values, [0]),
            // A rule may keep the connection tracker off.
            Field::State => any_of(&["new"]).max(any_of(&["untracked", "dnat", "snat"]).min(Fit::Some)),
            Field::Kind => any_of(&[if route == Route::In { "local" } else { "unicast" }]),
            Field::All(fields) => has_all(self, fields, values),
            _ => Fit::Some,
        }
    }

    fn narrow(&self, all: &mut bool, _: &Test, fit: Fit) {
        *all &= fit == Fit::All;
    }

    fn meet(&mut self, rule: &Rule, action: &Action, all: &bool) {
        match action {
            Action::Stop | Action::Reject => self.stop(&rule.text, *all),
            Action::Mark(_) => self.is_marked = true,
            _ => {}
        }
    }

    fn part(&self, all: &mut bool, _: &Rule, gone: Gone) {
        *all &= !gone.accepted && !gone.returned;
    }
}

impl Walker<'_> {
    /// A rule stops those that come to it, which are all of them or some.
    fn stop(&mut self, rule: &str, all: bool) {
        let found = if all { Passage::Closed(rule.to_owned()) } else { Passage::Unsure(rule.to_owned()) };
        let is_worse =
            matches!((&self.found, &found), (Passage::Open, _) | (Passage::Unsure(_), Passage::Closed(_)));
        if is_worse {
            self.found = found;
        }
    }
}

/// Returns which addresses of these networks are among the values. Addresses that are not known may be any.
fn within(values: &[Value], networks: &[IpNet]) -> Fit {
    let fit = |network: &IpNet| {
        let (first, last) = (number(network.network()), number(network.broadcast()));
        let covers = |value: &Value| match value {
            Value::Numbers(from, to) if *from <= first && last <= *to => Fit::All,
            Value::Numbers(from, to) if *from <= last && first <= *to => Fit::Some,
            Value::Numbers(..) => Fit::None,
            Value::Name(_) | Value::All(_) => Fit::Some,
        };
        values.iter().map(covers).max().unwrap_or(Fit::None)
    };
    let fits: Vec<_> = networks.iter().map(fit).collect();
    if fits.is_empty() || fits.contains(&Fit::Some) {
        return Fit::Some;
    }
    of_each(fits.into_iter().map(|fit| fit == Fit::All))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netfilter::{iptables, nft};

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// What becomes of VXLAN that arrives.
    fn received(tables: &[Table]) -> Passage {
        let (sources, destinations) =
            (nets(&["192.168.64.2/32", "192.168.64.3/32"]), nets(&["192.168.64.1/32"]));
        let (sources, destinations) = (&sources[..], &destinations[..]);
        let (udp_port, from) = (Some(8472), Some("eth0"));
        passage(tables, Packets { route: Route::In, sources, destinations, udp_port, from, to: None })
    }

    /// What becomes of packets of pods.
    fn forwarded(tables: &[Table]) -> Passage {
        let (sources, destinations) = (nets(&["10.5.1.0/24"]), nets(&["10.5.0.0/16"]));
        let (sources, destinations) = (&sources[..], &destinations[..]);
        let (from, to) = (Some("cni0"), Some("flannel.1"));
        passage(tables, Packets { route: Route::Through, sources, destinations, udp_port: None, from, to })
    }

    fn filter(rules: &str) -> Vec<Table> {
        iptables::parse(&format!("*filter\n{rules}COMMIT\n"), "iptables")
    }

    /// In short: `open`, or the first letter and the rule.
    fn short(passage: Passage) -> String {
        let rule = |text: String| text.trim_start_matches("iptables -t filter ").to_owned();
        match passage {
            Passage::Open => "open".to_owned(),
            Passage::Unsure(text) => format!("unsure {}", rule(text)),
            Passage::Closed(text) => format!("closed {}", rule(text)),
        }
    }

    #[test]
    fn a_rule_or_policy_that_stops_vxlan_is_named() {
        for (rules, expected) in [
            ("", "open"),
            (":INPUT ACCEPT [0:0]\n", "open"),
            (":INPUT DROP [0:0]\n", "closed -P INPUT DROP"),
            (":INPUT DROP [0:0]\n-A INPUT -p udp -m udp --dport 8472 -j ACCEPT\n", "open"),
            (":INPUT DROP [0:0]\n-A INPUT -i eth0 -j ACCEPT\n", "open"),
            (":INPUT DROP [0:0]\n-A INPUT -p tcp -j ACCEPT\n", "closed -P INPUT DROP"),
            (":INPUT DROP [0:0]\n-A INPUT -s 192.168.64.0/24 -j ACCEPT\n", "open"),
            (":INPUT DROP [0:0]\n-A INPUT -s 192.168.64.2/32 -j ACCEPT\n", "unsure -P INPUT DROP"),
            (":INPUT DROP [0:0]\n-A INPUT -m set --match-set nodes src -j ACCEPT\n", "unsure -P INPUT DROP"),
            (
                ":INPUT DROP [0:0]\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n",
                "closed -P INPUT DROP",
            ),
            (
                ":INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp --dport 8472 -j DROP\n",
                "closed -A INPUT -p udp -m udp --dport 8472 -j DROP",
            ),
            (":INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp --dport 53 -j DROP\n", "open"),
            (":FORWARD DROP [0:0]\n:OUTPUT DROP [0:0]\n", "open"),
            (
                ":INPUT DROP [0:0]\n:NODES - [0:0]\n-A INPUT -p udp -j NODES\n-A NODES -i eth0 -j ACCEPT\n",
                "open",
            ),
        ] {
            assert_eq!(short(received(&filter(rules))), expected, "{rules}");
        }
    }

    #[test]
    fn packets_of_pods_pass_by_rules_for_their_network_alone() {
        const OWN: &str = ":FLANNEL-FWD - [0:0]\n-A FORWARD -j FLANNEL-FWD\n-A FLANNEL-FWD -s 10.5.0.0/16 -j ACCEPT\n\
             -A FLANNEL-FWD -d 10.5.0.0/16 -j ACCEPT\n";
        for (rules, expected) in [
            (":FORWARD DROP [0:0]\n".to_owned(), "closed -P FORWARD DROP"),
            (format!(":FORWARD DROP [0:0]\n{OWN}"), "open"),
            (
                ":FORWARD DROP [0:0]\n-A FORWARD -s 10.5.0.0/16 -p tcp -j ACCEPT\n".to_owned(),
                "unsure -P FORWARD DROP",
            ),
            (":FORWARD DROP [0:0]\n-A FORWARD -i docker0 -j ACCEPT\n".to_owned(), "closed -P FORWARD DROP"),
            (":FORWARD ACCEPT [0:0]\n-A FORWARD -j REJECT\n".to_owned(), "closed -A FORWARD -j REJECT"),
            (format!(":FORWARD DROP [0:0]\n-A FORWARD -j REJECT\n{OWN}"), "closed -A FORWARD -j REJECT"),
        ] {
            assert_eq!(short(forwarded(&filter(&rules))), expected, "{rules}");
        }
    }

    #[test]
    fn rule_sets_of_other_programs_let_pods_and_nodes_talk() {
        let saved = include_str!("rule_sets/kubernetes-canal-docker.rules");
        assert!(!matches!(received(&iptables::parse(saved, "iptables")), Passage::Closed(_)));
        let listing = serde_json::from_str(include_str!("rule_sets/kube-proxy.json")).unwrap();
        for (family, name) in nft::tables(&listing, false) {
            assert_eq!(received(&[nft::parse(&listing, &family, &name)]), Passage::Open);
        }
    }
}
