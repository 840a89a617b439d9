//! Rules as `iptables -S` prints them, and what to feed to `iptables-restore --noflush` so that they come to be. Pure.

use super::super::rules::{KUBE_PROXY_MARK, Place, Purpose, Rule, Verdict};

/// Where rules of one purpose are, by flannel's names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) table: &'static str,
    /// The kernel's chain that jumps to ours.
    pub(super) hook: &'static str,
    pub(super) chain: &'static str,
    /// On every rule of ours, and what we know them by.
    comment: &'static str,
}

/// The rules that are there, without the `-A CHAIN` before them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Present {
    hook: Vec<String>,
    /// If there is one.
    chain: Option<Vec<String>>,
}

impl Layout {
    pub(super) const fn of(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Masquerade => {
                Self { table: "nat", hook: "POSTROUTING", chain: "FLANNEL-POSTRTG", comment: "flanneld masq" }
            }
            Purpose::Forward => {
                Self { table: "filter", hook: "FORWARD", chain: "FLANNEL-FWD", comment: "flanneld forward" }
            }
        }
    }

    /// Reads what `iptables -S` printed for the kernel's chain and for ours.
    pub(super) fn parse(&self, hook: &str, chain: Option<&str>) -> Present {
        Present { hook: rules_of(self.hook, hook), chain: chain.map(|text| rules_of(self.chain, text)) }
    }

    /// The lines that make of what is there what should be; none, if it is so already.
    pub(super) fn changes(&self, present: &Present, rules: &[Rule]) -> Vec<String> {
        let jump = if rules.is_empty() { Vec::new() } else { vec![self.jump()] };
        let target = format!("-j {}", self.chain);
        let mut jumps = edits(self.hook, &present.hook, &jump, |rule| rule.ends_with(&target));
        if rules.is_empty() {
            if present.chain.is_some() {
                jumps.extend([format!("-F {}", self.chain), format!("-X {}", self.chain)]);
            }
            return jumps;
        }
        let mut lines = Vec::new();
        if present.chain.is_none() {
            lines.push(format!(":{} - [0:0]", self.chain));
        }
        let wanted: Vec<_> = rules.iter().map(|rule| self.text(rule)).collect();
        let comment = format!("--comment \"{}\"", self.comment);
        let there = present.chain.as_deref().unwrap_or_default();
        lines.extend(edits(self.chain, there, &wanted, |rule| rule.contains(&comment)));
        lines.append(&mut jumps);
        lines
    }

    /// What sends packets to our chain. flanneld appends it, behind what others have put there.
    fn jump(&self) -> String {
        format!("-m comment --comment \"{}\" -j {}", self.comment, self.chain)
    }

    fn text(&self, rule: &Rule) -> String {
        let mut words = Vec::new();
        if rule.marked {
            words.push(format!("-m mark --mark {KUBE_PROXY_MARK:#x}/{KUBE_PROXY_MARK:#x}"));
        }
        words.extend(rule.source.map(|place| side("-s", place)));
        words.extend(rule.destination.map(|place| side("-d", place)));
        words.push(format!("-m comment --comment \"{}\"", self.comment));
        words.push(verdict(rule.verdict).to_owned());
        words.join(" ")
    }
}

fn side(flag: &str, place: Place) -> String {
    match place {
        Place::In(net) => format!("{flag} {net}"),
        Place::NotIn(net) => format!("! {flag} {net}"),
    }
}

const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Return => "-j RETURN",
        Verdict::Accept => "-j ACCEPT",
        Verdict::Masquerade { fully_random: false } => "-j MASQUERADE",
        Verdict::Masquerade { fully_random: true } => "-j MASQUERADE --random-fully",
    }
}

fn rules_of(chain: &str, listed: &str) -> Vec<String> {
    let start = format!("-A {chain} ");
    listed.lines().filter_map(|line| line.strip_prefix(&start)).map(str::to_owned).collect()
}

/// Has those rules of a chain that are `ours` be exactly the `wanted` ones, in that order, and leaves the others
/// where they are. Rules that can stay do, with their counters.
fn edits(chain: &str, present: &[String], wanted: &[String], ours: impl Fn(&str) -> bool) -> Vec<String> {
    let mut rules = present.to_vec();
    let mut lines = Vec::new();
    // From the end, so that the last of equal rules stays: -D removes the first.
    let mut rest = wanted;
    for n in (0..rules.len()).rev().filter(|n| ours(&present[*n])) {
        match rest.iter().rposition(|rule| *rule == present[n]) {
            Some(place) => rest = &rest[..place],
            None => lines.push(format!("-D {chain} {}", rules.remove(n))),
        }
    }
    let mut next = rules.len();
    for rule in wanted.iter().rev() {
        if let Some(place) = rules[..next].iter().rposition(|there| there == rule) {
            next = place;
        } else if next == rules.len() {
            rules.push(rule.clone());
            lines.push(format!("-A {chain} {rule}"));
        } else {
            rules.insert(next, rule.clone());
            lines.push(format!("-I {chain} {} {rule}", next + 1));
        }
    }
    lines
}

#[cfg(test)]
mod tests;
