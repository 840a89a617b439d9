//! Goes through chains of rules as packets do. Many tests have an answer that is known, and others may go either way: what a rule may
//! do counts. Pure.

use crate::netfilter::rules::{Action, Base, Chain, Field, Rule, Step, Table, Test, Value};

/// More jumps in a row than iptables or nft allow.
const DEEPEST: u32 = 32;

/// Whether packets pass a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    None,
    Some,
    All,
}

/// How packets come to the end of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All of them were decided about.
    Decided,
    /// Some go on.
    Through,
}

/// Packets that go through rules together.
pub(super) trait Packets {
    /// Which of them have come to a rule.
    type Here: Clone;

    /// Returns which of them have one of these values.
    fn fit(&self, field: &Field, values: &[Value]) -> Fit;

    /// Leaves out those that do not pass the test, as far as that is known.
    fn narrow(&self, here: &mut Self::Here, test: &Test, fit: Fit);

    /// Those that are here meet an action.
    fn meet(&mut self, rule: &Rule, action: &Action, here: &Self::Here);
}

/// Returns the chains that packets enter from the kernel, with table and name, in the kernel's order.
pub(super) fn bases(tables: &[Table]) -> Vec<(Base, &Table, &str)> {
    let of_table = |table| bases_of(table);
    let mut bases: Vec<_> = tables.iter().flat_map(of_table).collect();
    bases.sort_by_key(|(base, ..)| (base.hook, base.priority));
    bases
}

fn bases_of(table: &Table) -> impl Iterator<Item = (Base, &Table, &str)> {
    table.chains.iter().filter_map(move |(name, Chain { base, .. })| Some(((*base)?, table, name.as_str())))
}

/// Goes through a chain.
pub(super) fn chain<P: Packets>(packets: &mut P, table: &Table, name: &str, here: &P::Here) -> End {
    Walk { packets, table }.chain(name, here, 0)
}

struct Walk<'a, P> {
    packets: &'a mut P,
    table: &'a Table,
}

impl<P: Packets> Walk<'_, P> {
    fn chain(&mut self, name: &str, here: &P::Here, depth: u32) -> End {
        let table = self.table;
        let Some(chain) = table.chains.get(name).filter(|_| depth < DEEPEST) else { return End::Through };
        for rule in &chain.rules {
            if let Some(end) = self.rule(rule, here.clone(), depth) {
                return end;
            }
        }
        End::Through
    }

    /// Returns how the chain ends, if it does for all packets.
    fn rule(&mut self, rule: &Rule, mut here: P::Here, depth: u32) -> Option<End> {
        let mut fit = Fit::All;
        for step in &rule.steps {
            match step {
                Step::Test(test) => fit = fit.min(self.test(&mut here, test)),
                Step::Act(action) => {
                    if let Some(end) = self.act(rule, action, &here, fit, depth) {
                        return Some(end);
                    }
                }
                Step::Choose(field, choices) => {
                    for (value, action) in choices {
                        let mut here = here.clone();
                        let test = Test::new(field.clone(), [value.clone()]);
                        let fit = fit.min(self.test(&mut here, &test));
                        if fit != Fit::None
                            && let Some(end) = self.act(rule, action, &here, fit, depth)
                        {
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

    fn test(&mut self, here: &mut P::Here, test: &Test) -> Fit {
        let fit = match (self.packets.fit(&test.field, &test.values), test.negated) {
            (Fit::All, true) => Fit::None,
            (Fit::None, true) => Fit::All,
            (fit, _) => fit,
        };
        self.packets.narrow(here, test, fit);
        fit
    }

    fn act(&mut self, rule: &Rule, action: &Action, here: &P::Here, fit: Fit, depth: u32) -> Option<End> {
        self.packets.meet(rule, action, here);
        let end = match action {
            Action::Accept | Action::Stop => End::Decided,
            Action::Return => End::Through,
            Action::Jump(chain) => match self.chain(chain, here, depth + 1) {
                End::Decided => End::Decided,
                End::Through => return None,
            },
            Action::Goto(chain) => self.chain(chain, here, depth + 1),
            Action::Show | Action::Help | Action::Change | Action::Mark(_) => return None,
        };
        (fit == Fit::All).then_some(end)
    }
}

/// Returns whether a name is among these values.
pub(super) fn named(values: &[Value], name: &str) -> Fit {
    if values.iter().any(|value| is_name(value, name)) { Fit::All } else { Fit::None }
}

fn is_name(value: &Value, name: &str) -> bool {
    match value {
        Value::Name(pattern) => match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => pattern == name,
        },
        _ => false,
    }
}

/// Returns which numbers are among these values.
pub(super) fn among(values: &[Value], numbers: impl IntoIterator<Item = u128>) -> Fit {
    let is_in = |number| {
        values.iter().any(|value| match value {
            Value::Numbers(first, last) => (*first..=*last).contains(&number),
            Value::Name(name) => name == "*",
            Value::All(_) => false,
        })
    };
    of_each(numbers.into_iter().map(is_in))
}

/// Returns which of several pass a test.
pub(super) fn of_each(passes: impl IntoIterator<Item = bool>) -> Fit {
    let (mut some, mut all) = (false, true);
    for passes in passes {
        some |= passes;
        all &= passes;
    }
    if some { if all { Fit::All } else { Fit::Some } } else { Fit::None }
}

/// Returns which packets have these values of several fields at once.
pub(super) fn has_all<P: Packets>(packets: &P, fields: &[Field], values: &[Value]) -> Fit {
    let of_value = |value: &Value| {
        let Value::All(parts) = value else { return Fit::Some };
        let fits =
            fields.iter().zip(parts).map(|(field, part)| packets.fit(field, std::slice::from_ref(part)));
        fits.min().unwrap_or(Fit::Some)
    };
    values.iter().map(of_value).max().unwrap_or(Fit::None)
}
