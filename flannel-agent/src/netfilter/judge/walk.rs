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

/// What has become of some packets before the others went on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gone {
    /// Some were accepted.
    pub(super) accepted: bool,
    /// Some were stopped.
    pub(super) stopped: bool,
    /// Some got another address.
    pub(super) translated: bool,
    /// Some have left the chain, and go on after the jump into it.
    pub(super) returned: bool,
}

impl Gone {
    const NOWHERE: Self = Self { accepted: false, stopped: false, translated: false, returned: false };
    const ACCEPTED: Self = Self { accepted: true, ..Self::NOWHERE };
    const STOPPED: Self = Self { stopped: true, ..Self::NOWHERE };
    const TRANSLATED: Self = Self { translated: true, ..Self::NOWHERE };
    const RETURNED: Self = Self { returned: true, ..Self::NOWHERE };

    fn add(&mut self, other: Self) {
        self.accepted |= other.accepted;
        self.stopped |= other.stopped;
        self.translated |= other.translated;
        self.returned |= other.returned;
    }
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

    /// Those that are here go into another chain.
    fn enter(&self, _here: &mut Self::Here, _rule: &Rule) {}

    /// Some of those that were here may have gone by this rule, and the others come to the next one.
    fn part(&self, _here: &mut Self::Here, _rule: &Rule, _gone: Gone) {}
}

/// Returns the chains that packets enter from the kernel, with table and name, in the kernel's order, but not those that translate
/// addresses.
pub(super) fn bases(tables: &[Table]) -> Vec<(Base, &Table, &str)> {
    let mut bases = all_bases(tables);
    bases.retain(|(base, ..)| !base.translates);
    bases
}

/// Returns the chains that packets enter from the kernel, with table and name, in the kernel's order.
pub(super) fn all_bases(tables: &[Table]) -> Vec<(Base, &Table, &str)> {
    let of_table = |table| bases_of(table);
    let mut bases: Vec<_> = tables.iter().flat_map(of_table).collect();
    bases.sort_by_key(|(base, ..)| (base.hook, base.priority));
    bases
}

fn bases_of(table: &Table) -> impl Iterator<Item = (Base, &Table, &str)> {
    table.chains.iter().filter_map(move |(name, Chain { base, .. })| Some(((*base)?, table, name.as_str())))
}

/// Goes through a chain. Returns how, and what has become of some on the way.
pub(super) fn chain<P: Packets>(packets: &mut P, table: &Table, name: &str, here: &P::Here) -> (End, Gone) {
    Walk { packets, table }.chain(name, here, 0)
}

struct Walk<'a, P> {
    packets: &'a mut P,
    table: &'a Table,
}

impl<P: Packets> Walk<'_, P> {
    fn chain(&mut self, name: &str, here: &P::Here, depth: u32) -> (End, Gone) {
        let (table, mut all) = (self.table, Gone::default());
        let Some(chain) = table.chains.get(name).filter(|_| depth < DEEPEST) else {
            return (End::Through, all);
        };
        let (mut here, mut some_returned) = (here.clone(), false);
        for rule in &chain.rules {
            let mut gone = Gone::default();
            let end = self.rule(rule, here.clone(), depth, &mut gone);
            all.add(gone);
            if let Some(end) = end {
                return (if some_returned { End::Through } else { end }, all);
            }
            some_returned |= gone.returned;
            if gone != Gone::NOWHERE {
                self.packets.part(&mut here, rule, gone);
            }
        }
        (End::Through, all)
    }

    /// Returns how the chain ends, if it does for all packets.
    fn rule(&mut self, rule: &Rule, mut here: P::Here, depth: u32, gone: &mut Gone) -> Option<End> {
        let mut fit = Fit::All;
        for step in &rule.steps {
            match step {
                Step::Test(test) => fit = fit.min(self.test(&mut here, test)),
                Step::Act(action) => {
                    if let Some(end) = self.act(rule, action, &here, fit, depth, gone) {
                        return Some(end);
                    }
                }
                Step::Choose(field, choices) => {
                    for (value, action) in choices {
                        let mut here = here.clone();
                        let test = Test::new(field.clone(), [value.clone()]);
                        let fit = fit.min(self.test(&mut here, &test));
                        if fit != Fit::None
                            && let Some(end) = self.act(rule, action, &here, fit, depth, gone)
                        {
                            return Some(end);
                        }
                    }
                }
                Step::OneOf(actions) => {
                    let mut here = here.clone();
                    self.test(&mut here, &Test::of_packet("numgen"));
                    let mut ends = Vec::new();
                    for action in actions {
                        ends.push(self.act(rule, action, &here, fit, depth, gone));
                    }
                    if let Some(ends) = ends.into_iter().collect::<Option<Vec<_>>>() {
                        let goes_on = ends.contains(&End::Through);
                        return Some(if goes_on { End::Through } else { End::Decided });
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

    fn act(
        &mut self,
        rule: &Rule,
        action: &Action,
        here: &P::Here,
        fit: Fit,
        depth: u32,
        gone: &mut Gone,
    ) -> Option<End> {
        self.packets.meet(rule, action, here);
        let end = match action {
            Action::Accept => (End::Decided, Gone::ACCEPTED),
            Action::Stop | Action::Reject => (End::Decided, Gone::STOPPED),
            Action::Translate(..) => (End::Decided, Gone::TRANSLATED),
            Action::Return => (End::Through, Gone::RETURNED),
            Action::Jump(chain) | Action::Goto(chain) => {
                let mut inside = here.clone();
                self.packets.enter(&mut inside, rule);
                let (end, went) = self.chain(chain, &inside, depth + 1);
                // Who returns from a chain that was entered by goto leaves this one as well.
                let returned = matches!(action, Action::Goto(_)) && end == End::Through;
                gone.add(Gone { returned, ..went });
                if matches!(action, Action::Jump(_)) && end == End::Through {
                    return None;
                }
                (end, Gone::NOWHERE)
            }
            Action::Show
            | Action::Help
            | Action::Change
            | Action::Unknown
            | Action::Mark(_)
            | Action::Untrack => return None,
        };
        gone.add(end.1);
        (fit == Fit::All).then_some(end.0)
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
