//! Compares rules as `iptables -S` prints them with the wanted ones, and makes input for `iptables-restore --noflush`.
//! Pure.

use super::super::rules::{AddressMatch, KUBE_PROXY_MARK, Purpose, Rule, Target};

/// Table, chains and comment of the rules for one purpose, by flannel's names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) table: &'static str,
    /// The built-in chain that jumps to `chain`.
    pub(super) hook: &'static str,
    pub(super) chain: &'static str,
    /// Comment of each rule the agent writes; identifies these rules.
    comment: &'static str,
}

/// The rules found in the built-in chain and in flannel's, without the `-A CHAIN` before them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Present {
    hook: Vec<String>,
    /// `None` if the chain does not exist.
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

    /// Parses what `iptables -S` printed for the built-in chain and for flannel's.
    pub(super) fn parse(&self, hook: &str, chain: Option<&str>) -> Present {
        Present { hook: rules_of(self.hook, hook), chain: chain.map(|text| rules_of(self.chain, text)) }
    }

    /// Returns the lines that turn the present rules into the wanted ones; empty if they are the same.
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
        let current = present.chain.as_deref().unwrap_or_default();
        lines.extend(edits(self.chain, current, &wanted, |rule| rule.contains(&comment)));
        lines.append(&mut jumps);
        lines
    }

    /// Returns the rule that jumps to flannel's chain. Like flanneld's, it is appended behind existing rules.
    fn jump(&self) -> String {
        format!("-m comment --comment \"{}\" -j {}", self.comment, self.chain)
    }

    fn text(&self, rule: &Rule) -> String {
        let mut words = Vec::new();
        if rule.marked {
            words.push(format!("-m mark --mark {KUBE_PROXY_MARK:#x}/{KUBE_PROXY_MARK:#x}"));
        }
        words.extend(rule.source.map(|address| address_match("-s", address)));
        words.extend(rule.destination.map(|address| address_match("-d", address)));
        words.push(format!("-m comment --comment \"{}\"", self.comment));
        words.push(target(rule.target).to_owned());
        words.join(" ")
    }
}

fn address_match(flag: &str, address: AddressMatch) -> String {
    match address {
        AddressMatch::In(net) => format!("{flag} {net}"),
        AddressMatch::NotIn(net) => format!("! {flag} {net}"),
    }
}

const fn target(target: Target) -> &'static str {
    match target {
        Target::Return => "-j RETURN",
        Target::Accept => "-j ACCEPT",
        Target::Masquerade { fully_random: false } => "-j MASQUERADE",
        Target::Masquerade { fully_random: true } => "-j MASQUERADE --random-fully",
    }
}

fn rules_of(chain: &str, listed: &str) -> Vec<String> {
    let start = format!("-A {chain} ");
    listed.lines().filter_map(|line| line.strip_prefix(&start)).map(str::to_owned).collect()
}

/// Returns the lines that make the agent's rules in a chain equal to `wanted`, in that order. `is_own` tells the agent's
/// rules from others, which stay where they are. Right rules are not rewritten, so they keep their counters.
fn edits(chain: &str, present: &[String], wanted: &[String], is_own: impl Fn(&str) -> bool) -> Vec<String> {
    let mut rules = present.to_vec();
    let mut lines = Vec::new();
    // From the end, so that the last of equal rules stays: -D removes the first.
    let mut rest = wanted;
    for n in (0..rules.len()).rev().filter(|n| is_own(&present[*n])) {
        match rest.iter().rposition(|rule| *rule == present[n]) {
            Some(position) => rest = &rest[..position],
            None => lines.push(format!("-D {chain} {}", rules.remove(n))),
        }
    }
    let mut next = rules.len();
    for rule in wanted.iter().rev() {
        if let Some(position) = rules[..next].iter().rposition(|present| present == rule) {
            next = position;
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
