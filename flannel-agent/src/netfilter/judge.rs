//! What the rules of a host do with the packets that it sends itself, which look at each packet of pods ([`pods`]), and what becomes of
//! one packet ([`packet`]). Pure.

mod marks;
pub mod packet;
pub mod passage;
pub mod pods;
mod walk;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::rules::{Action, Field, Hook, Rule, Table, Test, Value};
use marks::Marks;
use walk::{End, Fit, among, bases, chain, has_all, named};

/// Packets of the host itself: UDP over IPv4, which no process has sent, each in a connection that has had no answer.
#[derive(Clone, Copy, Debug)]
pub struct Packets<'a> {
    /// Their source.
    pub source: Ipv4Addr,
    /// Where they go.
    pub destinations: &'a BTreeSet<Ipv4Addr>,
    /// Their destination port.
    pub port: u16,
    /// Name of the interface by which they leave.
    pub interface: &'a str,
}

/// What may happen to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// The first rule that may stop them, in an operator's words.
    pub stopped: Option<String>,
    /// The first rule that may change them, or how they are queued.
    pub changed: Option<String>,
    /// The marks that they may have when they are routed again, without 0.
    pub marks: BTreeSet<u32>,
    /// The last rule that may set a mark which is not known.
    pub any_mark: Option<String>,
}

/// Returns what these tables may do with these packets.
#[must_use]
pub fn judge(tables: &[Table], packets: Packets<'_>) -> Fate {
    let mut sent = Sent { packets, marks: Marks::default(), fate: Fate::default() };
    for (base, table, name) in bases(tables) {
        if !table.family.includes(false) || base.hook < Hook::Output {
            continue;
        }
        let (end, _) = chain(&mut sent, table, name, &true);
        if base.drops && end == End::Through {
            sent.fate.stopped.get_or_insert_with(|| format!("{} -P {name} DROP", table.name));
        }
        if base.reroutes {
            sent.fate.marks.extend(sent.marks.known.iter().filter(|mark| **mark != 0));
            sent.fate.any_mark.clone_from(&sent.marks.any);
        }
    }
    sent.fate
}

/// The packets on their way, and what has become of them so far.
struct Sent<'a> {
    packets: Packets<'a>,
    marks: Marks,
    fate: Fate,
}

impl walk::Packets for Sent<'_> {
    /// Whether all packets have come to a rule, not some.
    type Here = bool;

    fn fit(&self, field: &Field, values: &[Value]) -> Fit {
        let named = |name| named(values, name);
        let Packets { source, destinations, port, interface } = self.packets;
        match field {
            Field::Family => named("ipv4"),
            Field::Protocol => named("udp").max(among(values, [17])),
            Field::Source => among(values, [u32::from(source).into()]),
            Field::Destination => among(values, destinations.iter().map(|to| u32::from(*to).into())),
            Field::Port => among(values, [port.into()]),
            Field::Out => named(interface),
            // It is sent here.
            Field::In | Field::Sender => Fit::None,
            // It is neither TCP nor ICMP.
            Field::Flags | Field::IcmpType => Fit::None,
            Field::Mark(mask) => self.marks.fit(*mask, values),
            // A rule may keep the connection tracker off.
            Field::State => named("new").max(named("untracked").min(Fit::Some)),
            Field::Kind => named("unicast"),
            Field::All(fields) => has_all(self, fields, values),
            Field::SourcePort | Field::Packet(_) | Field::Other(_) => Fit::Some,
        }
    }

    fn narrow(&self, all: &mut bool, _: &Test, fit: Fit) {
        *all &= fit == Fit::All;
    }

    fn meet(&mut self, rule: &Rule, action: &Action, all: &bool) {
        match action {
            Action::Stop | Action::Reject | Action::Show => {
                self.fate.stopped.get_or_insert_with(|| rule.text.clone());
            }
            Action::Change | Action::Unknown => {
                self.fate.changed.get_or_insert_with(|| rule.text.clone());
            }
            Action::Mark(mark) => self.marks.set(*mark, rule, *all),
            // Of what the host itself sends, addresses are not translated as a rule.
            Action::Accept
            | Action::Return
            | Action::Jump(_)
            | Action::Goto(_)
            | Action::Help
            | Action::Untrack
            | Action::Translate(..) => {}
        }
    }
}

#[cfg(test)]
mod tests;
