//! What the rules of a host do with the packets that it sends itself. Pure.
//!
//! Many tests have an answer that is known, and others, such as a limit, may go either way: what a rule may do counts.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::rules::{Action, Base, Chain, Field, Mark, Rule, Step, Table, Test, Value};

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
    let mut bases: Vec<(Base, &Table, &str)> = tables.iter().flat_map(bases).collect();
    bases.sort_by_key(|(base, ..)| (base.hook, base.priority));
    let mut walk = Walk { packets, marks: [0].into(), any_mark: None, fate: Fate::default() };
    for (base, table, name) in bases {
        let end = walk.chain(table, name, true, 0);
        if base.drops && end == End::Through {
            walk.fate.stopped.get_or_insert_with(|| format!("{} -P {name} DROP", table.name));
        }
        if base.reroutes {
            walk.fate.marks.extend(walk.marks.iter().filter(|mark| **mark != 0));
            walk.fate.any_mark.clone_from(&walk.any_mark);
        }
    }
    walk.fate
}

fn bases(table: &Table) -> impl Iterator<Item = (Base, &Table, &str)> {
    table.chains.iter().filter_map(move |(name, Chain { base, .. })| Some(((*base)?, table, name.as_str())))
}

/// More jumps in a row than iptables or nft allow.
const DEEPEST: u32 = 32;

/// Whether packets pass a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    None,
    Some,
    All,
}

/// How packets come to the end of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All of them were decided about.
    Decided,
    /// Some go on.
    Through,
}

struct Walk<'a> {
    packets: Packets<'a>,
    /// The marks that they may have now.
    marks: BTreeSet<u32>,
    /// The rule by which they may have any mark.
    any_mark: Option<String>,
    fate: Fate,
}

impl Walk<'_> {
    /// Goes through a chain. `all`: all packets come here, not some.
    fn chain(&mut self, table: &Table, name: &str, all: bool, depth: u32) -> End {
        let Some(chain) = table.chains.get(name).filter(|_| depth < DEEPEST) else { return End::Through };
        for rule in &chain.rules {
            if let Some(end) = self.rule(table, rule, all, depth) {
                return end;
            }
        }
        End::Through
    }

    /// Returns how the chain ends, if it does for all packets.
    fn rule(&mut self, table: &Table, rule: &Rule, all: bool, depth: u32) -> Option<End> {
        let mut fit = Fit::All;
        for step in &rule.steps {
            match step {
                Step::Test(test) => fit = fit.min(self.test(test)),
                Step::Act(action) => {
                    if let Some(end) = self.act(table, rule, action, (fit, all), depth) {
                        return Some(end);
                    }
                }
                Step::Choose(field, choices) => {
                    for (value, action) in choices {
                        let fit = fit.min(self.has(field, std::slice::from_ref(value)));
                        if let Some(end) = self.act(table, rule, action, (fit, all), depth) {
                            return Some(end);
                        }
                    }
                }
            }
            if fit == Fit::None {
                return None;
            }
        }
        None
    }

    fn act(
        &mut self,
        table: &Table,
        rule: &Rule,
        action: &Action,
        (fit, all): (Fit, bool),
        depth: u32,
    ) -> Option<End> {
        if fit == Fit::None {
            return None;
        }
        let is_certain = fit == Fit::All;
        let mut enter = |chain| self.chain(table, chain, all && is_certain, depth + 1);
        let end = match action {
            Action::Accept => End::Decided,
            Action::Return => End::Through,
            Action::Jump(chain) => match enter(chain) {
                End::Decided => End::Decided,
                End::Through => return None,
            },
            Action::Goto(chain) => enter(chain),
            Action::Stop => {
                self.fate.stopped.get_or_insert_with(|| rule.text.clone());
                End::Decided
            }
            Action::Change => {
                self.fate.changed.get_or_insert_with(|| rule.text.clone());
                return None;
            }
            Action::Mark(mark) => {
                self.mark(*mark, rule, all && is_certain);
                return None;
            }
        };
        is_certain.then_some(end)
    }

    fn mark(&mut self, mark: Mark, rule: &Rule, all: bool) {
        match mark {
            Mark::Unknown => self.any_mark = Some(rule.text.clone()),
            Mark::Bits { keep, flip } => {
                let marked: BTreeSet<_> = self.marks.iter().map(|mark| (mark & keep) ^ flip).collect();
                if all {
                    self.marks = marked;
                    self.any_mark.take_if(|_| keep == 0);
                } else {
                    self.marks.extend(marked);
                }
            }
        }
    }

    fn test(&self, Test { field, values, negated }: &Test) -> Fit {
        match (self.has(field, values), *negated) {
            (Fit::All, true) => Fit::None,
            (Fit::None, true) => Fit::All,
            (fit, _) => fit,
        }
    }

    /// Returns which packets have one of these values.
    fn has(&self, field: &Field, values: &[Value]) -> Fit {
        let named = |name: &str| fit(values.iter().any(|value| value.is_name(name)));
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
            Field::Mark(_) if self.any_mark.is_some() => Fit::Some,
            Field::Mark(mask) => among(values, self.marks.iter().map(|mark| (mark & mask).into())),
            // A rule may keep the connection tracker off.
            Field::State => named("new").max(named("untracked").min(Fit::Some)),
            Field::Kind => named("unicast"),
            Field::All(fields) => {
                values.iter().map(|value| self.has_all(fields, value)).max().unwrap_or(Fit::None)
            }
            Field::Other => Fit::Some,
        }
    }

    fn has_all(&self, fields: &[Field], value: &Value) -> Fit {
        let Value::All(parts) = value else { return Fit::Some };
        let fits = fields.iter().zip(parts).map(|(field, part)| self.has(field, std::slice::from_ref(part)));
        fits.min().unwrap_or(Fit::Some)
    }
}

fn fit(all: bool) -> Fit {
    if all { Fit::All } else { Fit::None }
}

/// Returns which numbers are among these values.
fn among(values: &[Value], numbers: impl IntoIterator<Item = u128>) -> Fit {
    let is_in = |number| {
        values.iter().any(|value| match value {
            Value::Numbers(first, last) => (*first..=*last).contains(&number),
            Value::Name(name) => name == "*",
            Value::All(_) => false,
        })
    };
    let (mut some, mut all) = (false, true);
    for number in numbers {
        let is_in = is_in(number);
        some |= is_in;
        all &= is_in;
    }
    if some { if all { Fit::All } else { Fit::Some } } else { Fit::None }
}

impl Value {
    fn is_name(&self, name: &str) -> bool {
        match self {
            Self::Name(pattern) => match pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => pattern == name,
            },
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
