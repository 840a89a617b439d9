//! One packet in one chain. Pure.

use super::{Deed, Met, Packet, TCP, Translation, Traveller, Ways};
use crate::netfilter::judge::walk::{self, Fit, Gone, among, has_all, named};
use crate::netfilter::nft::number;
use crate::netfilter::rules::{Action, Field, Rule, Side, Step, Test, Value};

/// Protocols that rules call by name.
const PROTOCOLS: [(&str, u8); 6] =
    [("tcp", TCP), ("udp", 17), ("icmp", 1), ("icmpv6", 58), ("ipv6-icmp", 58), ("sctp", 132)];

/// What is known of a packet's coming to a rule.
#[derive(Clone, Debug, Default)]
pub(super) struct Here {
    /// What decides whether it comes here, and is not known.
    doubts: Vec<String>,
    /// The rules that led here, in an operator's words.
    by: Vec<String>,
}

impl Here {
    fn doubt(&mut self, what: String) {
        if !self.doubts.contains(&what) {
            self.doubts.push(what);
        }
    }
}

/// A packet in a chain.
pub(super) struct Visit<'a> {
    traveller: &'a mut Traveller,
    ways: Ways<'a>,
    pub(super) met: Vec<Met>,
    pub(super) choices: Vec<(Side, Translation)>,
    /// What decides whether it has been accepted or translated on the way, and is not known.
    pub(super) undecided: Vec<String>,
}

impl<'a> Visit<'a> {
    pub(super) const fn new(traveller: &'a mut Traveller, ways: Ways<'a>) -> Self {
        Self { traveller, ways, met: Vec::new(), choices: Vec::new(), undecided: Vec::new() }
    }

    fn meets(&mut self, rule: &Rule, deed: Deed, here: &Here) {
        let known = self.met.iter().any(|met| met.rule == rule.text);
        if !known {
            self.met.push(Met { rule: rule.text.clone(), deed, doubts: here.doubts.clone() });
        }
    }

    fn undecided(&mut self, here: &Here) {
        for doubt in &here.doubts {
            if !self.undecided.contains(doubt) {
                self.undecided.push(doubt.clone());
            }
        }
    }
}

impl walk::Packets for Visit<'_> {
    type Here = Here;

    fn fit(&self, field: &Field, values: &[Value]) -> Fit {
        let Packet { source, destination, protocol, source_port, port, local, own, .. } =
            self.traveller.packet;
        let any_of = |names: &[&str]| names.iter().map(|name| named(values, name)).max().unwrap_or(Fit::None);
        let has_ports = matches!(protocol, TCP | 17);
        match field {
            Field::Family => named(values, if destination.is_ipv6() { "ipv6" } else { "ipv4" }),
            Field::Protocol => {
                let names = PROTOCOLS.iter().filter(|(_, number)| *number == protocol);
                let by_name = names.map(|(name, _)| named(values, name)).max().unwrap_or(Fit::None);
                by_name.max(among(values, [protocol.into()]))
            }
            Field::Source => source.map_or(Fit::Some, |ip| among(values, [number(ip)])),
            Field::Destination => among(values, [number(destination)]),
            Field::SourcePort | Field::Port if !has_ports => Fit::None,
            Field::SourcePort => source_port.map_or(Fit::Some, |port| among(values, [port.into()])),
            Field::Port => port.map_or(Fit::Some, |port| among(values, [port.into()])),
            // ICMP messages that are traced ask for an echo.
            Field::IcmpType => match protocol {
                1 => any_of(&["echo-request"]).max(among(values, [8])),
                58 => any_of(&["echo-request"]).max(among(values, [128])),
                _ => Fit::None,
            },
            Field::In => self.ways.from.map_or(Fit::None, |name| named(values, name)),
            Field::Out => self.ways.to.map_or(Fit::None, |name| named(values, name)),
            Field::Mark(mask) => self.traveller.marks.fit(*mask, values),
            Field::State => self.traveller.state(values),
            Field::Kind => any_of(&[if local { "local" } else { "unicast" }]),
            Field::Sender => {
                if own {
                    Fit::Some
                } else {
                    Fit::None
                }
            }
            Field::Flags => self.traveller.flags(values),
            Field::All(fields) => has_all(self, fields, values),
            Field::Packet(_) | Field::Other(_) => Fit::Some,
        }
    }

    fn narrow(&self, here: &mut Here, test: &Test, fit: Fit) {
        if fit == Fit::Some {
            here.doubt(about(&test.field));
        }
    }

    fn meet(&mut self, rule: &Rule, action: &Action, here: &Here) {
        let is_sure = here.doubts.is_empty();
        match action {
            Action::Stop => self.meets(rule, Deed::Drops, here),
            Action::Reject => self.meets(rule, Deed::Rejects, here),
            Action::Show => self.meets(rule, Deed::Shows, here),
            Action::Change => self.meets(rule, Deed::Changes, here),
            Action::Unknown => self.meets(rule, Deed::Unknown, here),
            Action::Mark(mark) => self.traveller.marks.set(*mark, rule, is_sure),
            Action::Untrack => {
                let fit = if is_sure { Fit::All } else { Fit::Some };
                self.traveller.untracked = self.traveller.untracked.max(fit);
            }
            Action::Translate(side, targets) => {
                let rules: Vec<_> = here.by.iter().chain([&rule.text]).cloned().collect();
                let choice = |to| (*side, Translation { rules: rules.clone(), to });
                self.choices.extend(targets.iter().map(|to| choice(Some(*to))));
                if targets.is_empty() {
                    self.choices.push(choice(None));
                }
                self.undecided(here);
            }
            Action::Accept => self.undecided(here),
            Action::Return | Action::Jump(_) | Action::Goto(_) | Action::Help => {}
        }
    }

    fn enter(&self, here: &mut Here, rule: &Rule) {
        here.by.push(rule.text.clone());
    }

    fn part(&self, here: &mut Here, rule: &Rule, gone: Gone) {
        if gone.accepted || gone.translated {
            self.undecided.iter().for_each(|doubt| here.doubt(doubt.clone()));
        }
        if gone.stopped {
            self.met.iter().flat_map(|met| &met.doubts).for_each(|doubt| here.doubt(doubt.clone()));
        }
        if gone.returned {
            let doubts: Vec<_> = rule.steps.iter().filter_map(|step| self.doubt(step)).collect();
            if doubts.is_empty() {
                here.doubt(format!("what the rules behind `{}` look at", rule.text));
            }
            doubts.into_iter().for_each(|doubt| here.doubt(doubt));
        }
    }
}

impl Visit<'_> {
    /// Returns what decides about a part of a rule, if that is not known.
    fn doubt(&self, step: &Step) -> Option<String> {
        let field = match step {
            Step::Test(test) if walk::Packets::fit(self, &test.field, &test.values) == Fit::Some => {
                &test.field
            }
            Step::Choose(field, _) => field,
            Step::OneOf(_) => return Some("numgen".to_owned()),
            Step::Test(_) | Step::Act(_) => return None,
        };
        Some(about(field))
    }
}

/// Returns what a test looks at, in words.
fn about(field: &Field) -> String {
    match field {
        Field::Packet(words) | Field::Other(words) => words.to_string(),
        Field::Mark(_) => "the mark".to_owned(),
        Field::State => "what the connection tracker knows".to_owned(),
        Field::Sender => "the process that sends it".to_owned(),
        Field::Source => "the source address".to_owned(),
        Field::SourcePort => "the source port".to_owned(),
        Field::Port => "the destination port".to_owned(),
        Field::Flags => "flags of TCP".to_owned(),
        Field::All(fields) => fields.iter().map(about).collect::<Vec<_>>().join(" and "),
        Field::Family
        | Field::Protocol
        | Field::Destination
        | Field::Out
        | Field::In
        | Field::Kind
        | Field::IcmpType => "a value that is not read".to_owned(),
    }
}
