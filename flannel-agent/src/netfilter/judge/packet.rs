//! What rules do with one packet on its way through the host: which of them stop it, and to what they translate its addresses. What
//! depends on something that is not known here is said to be possible, and why. Pure.

mod visit;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::marks::Marks;
use super::walk::{End, Fit, all_bases, chain, named};
use crate::netfilter::rules::{Base, Hook, Side, Table, Target, Value};
use visit::{Here, Visit};

/// What rules look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address, if it is known.
    pub source: Option<IpAddr>,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port, if it has one that is known.
    pub source_port: Option<u16>,
    /// Destination port, if it has one.
    pub port: Option<u16>,
    /// Whether the connection tracker has seen both sides of its connection. If not, this is the first packet of one.
    pub established: bool,
    /// Whether the destination is an address of the host.
    pub local: bool,
    /// Whether the host itself sends it.
    pub own: bool,
}

/// The interfaces of a packet at a hook, by name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ways<'a> {
    /// By which it has come.
    pub from: Option<&'a str>,
    /// By which it leaves.
    pub to: Option<&'a str>,
}

/// What a rule does to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It drops it.
    Drops,
    /// It drops it, and tells the sender.
    Rejects,
    /// It shows it to a program, which decides, or copies it.
    Shows,
    /// It changes it.
    Changes,
    /// It does something that is not known here, and may take it to another place.
    Unknown,
}

impl Deed {
    /// Returns the word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drops => "drops",
            Self::Rejects => "rejects",
            Self::Shows => "shows",
            Self::Changes => "changes",
            Self::Unknown => "unknown",
        }
    }
}

/// A rule that a packet meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// How an operator finds the rule.
    pub rule: String,
    /// What it does.
    pub deed: Deed,
    /// What decides whether the packet meets it, and is not known here. Nothing if it surely does.
    pub doubts: Vec<String>,
}

/// What a hook's chains do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// The rules that stop or change the packet, or may do so.
    pub met: Vec<Met>,
    /// Whether it surely goes no further.
    pub stopped: bool,
}

/// A translation that a rule may give a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The rules that lead to it, in an operator's words, and the rule itself at last.
    pub rules: Vec<String>,
    /// What the side becomes; `None` if that is not known.
    pub to: Option<Target>,
}

/// What the chains that translate addresses do with a connection at a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translated {
    /// The translations of which it may get one. Each is listed once.
    pub choices: Vec<Translation>,
    /// Whether it surely gets one of them.
    pub is_sure: bool,
    /// What decides that and is not known here.
    pub doubts: Vec<String>,
}

/// Which chains of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Those before addresses are translated.
    Before,
    /// Those after that.
    After,
}

/// A packet on its way.
#[derive(Clone, Debug)]
pub struct Traveller {
    tables: Arc<[Table]>,
    /// As it is now.
    pub packet: Packet,
    marks: Marks,
    /// Whether the connection tracker is kept off it.
    untracked: Fit,
    /// Whether its source or destination was translated.
    translated: [bool; 2],
}

impl Traveller {
    /// Returns the packet before its first hook.
    #[must_use]
    pub fn new(tables: Arc<[Table]>, packet: Packet) -> Self {
        Self { tables, packet, marks: Marks::default(), untracked: Fit::None, translated: [false; 2] }
    }

    /// Gives a side another address and port.
    pub const fn translate(&mut self, side: Side, to: SocketAddr) {
        self.translated[side as usize] = true;
        let (ip, port) = (to.ip(), Some(to.port()));
        match side {
            Side::Source => (self.packet.source, self.packet.source_port) = (Some(ip), port),
            Side::Destination => (self.packet.destination, self.packet.port) = (ip, port),
        }
    }

    /// Goes through the filtering chains of a hook that stand before or after the translation of addresses.
    pub fn pass(&mut self, hook: Hook, part: Part, ways: Ways<'_>) -> Passed {
        let mut passed = Passed::default();
        let tables = Arc::clone(&self.tables);
        for (base, table, name) in self.bases(&tables, hook) {
            let is_before = base.priority < Base::translation(hook);
            if base.translates || is_before != (part == Part::Before) {
                continue;
            }
            let mut visit = Visit::new(self, ways);
            let (end, gone) = chain(&mut visit, table, name, &Here::default());
            passed.met.append(&mut visit.met);
            if base.drops && end == End::Through {
                let rule = format!("{} -P {name} DROP", table.name);
                let doubts = std::mem::take(&mut visit.undecided);
                passed.met.push(Met { rule, deed: Deed::Drops, doubts });
            }
            passed.stopped |= (base.drops || end == End::Decided) && !gone.accepted;
            if passed.stopped {
                break;
            }
        }
        passed
    }

    /// Goes through the chains of a hook that translate a side of the first packet of a connection. Changes nothing.
    pub fn translations(&mut self, hook: Hook, side: Side, ways: Ways<'_>) -> Translated {
        let mut translated = Translated::default();
        if self.untracked == Fit::All {
            return translated;
        }
        let tables = Arc::clone(&self.tables);
        for (_, table, name) in self.bases(&tables, hook).into_iter().filter(|(base, ..)| base.translates) {
            let mut visit = Visit::new(self, ways);
            let (end, gone) = chain(&mut visit, table, name, &Here::default());
            for (of, choice) in visit.choices {
                if of == side && !translated.choices.iter().any(|known| known.to == choice.to) {
                    translated.choices.push(choice);
                }
            }
            translated.doubts.append(&mut visit.undecided);
            translated.is_sure = end == End::Decided && gone.translated && !gone.accepted;
            if translated.is_sure {
                break;
            }
        }
        translated.is_sure &= self.untracked == Fit::None;
        translated.doubts.sort_unstable();
        translated.doubts.dedup();
        translated
    }

    /// Returns the chains of a hook for this packet, with table and name, in the kernel's order.
    fn bases<'t>(&self, tables: &'t [Table], hook: Hook) -> Vec<(Base, &'t Table, &'t str)> {
        let v6 = self.packet.destination.is_ipv6();
        let mut bases = all_bases(tables);
        bases.retain(|(base, table, _)| base.hook == hook && table.family.includes(v6));
        bases
    }

    /// Returns whether its state is one of these. A packet is taken for one that the connection tracker accepts.
    fn state(&self, values: &[Value]) -> Fit {
        let is = |name| named(values, name) == Fit::All;
        let [snat, dnat] = self.translated;
        let known = is(if self.packet.established { "established" } else { "new" })
            || (snat && is("snat"))
            || (dnat && is("dnat"));
        let tracked = if known {
            Fit::All
        } else {
            // Others are about what the tracker knows of a connection.
            const NOT: [&str; 7] = ["new", "established", "related", "invalid", "untracked", "snat", "dnat"];
            let is_other =
                |value: &Value| !matches!(value, Value::Name(name) if NOT.contains(&name.as_str()));
            if values.iter().any(is_other) { Fit::Some } else { Fit::None }
        };
        let untracked = if is("untracked") { Fit::All } else { Fit::None };
        match self.untracked {
            Fit::None => tracked,
            Fit::All => untracked,
            Fit::Some if tracked == untracked => tracked,
            Fit::Some => Fit::Some,
        }
    }

    /// Returns whether it has these flags of TCP.
    fn flags(&self, values: &[Value]) -> Fit {
        const SYN: &str = "syn";
        let is = |value: &Value, name| *value == Value::name(name);
        match values {
            _ if self.packet.protocol != TCP => Fit::None,
            [only] if !self.packet.established && is(only, SYN) => Fit::All,
            [] => Fit::Some,
            // The first packet has no other, and a later one none of these.
            _ if !self.packet.established && !values.iter().any(|value| is(value, SYN)) => Fit::None,
            _ if values.iter().all(|value| is(value, SYN)) => Fit::None,
            _ => Fit::Some,
        }
    }
}

/// `IPPROTO_TCP`
const TCP: u8 = 6;

#[cfg(test)]
mod tests;
