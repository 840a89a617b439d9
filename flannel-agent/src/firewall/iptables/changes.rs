//! Compares rules as `iptables -S` prints them with the wanted ones, and makes input for `iptables-restore --noflush`.
//! Pure.

use ipnet::IpNet;

use super::super::rules::{AddressMatch, KUBE_PROXY_MARK, Owner, Purpose, Rule, Target};

/// Table, chains and comment of the rules for one purpose, by flannel's names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) table: &'static str,
    /// The built-in chain that jumps to `chain`.
    pub(super) hook: &'static str,
    pub(super) chain: &'static str,
    /// Comment of each rule the agent writes. Together with the network's name in it, it identifies the rule.
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

    /// Returns the lines that turn the present rules of the owner into the wanted ones; empty if they are the same. Without
    /// rules, chain and jump are removed with the last network's.
    pub(super) fn changes(&self, present: &Present, rules: &[Rule], owner: Owner<'_>) -> Vec<String> {
        let current = present.chain.as_deref().unwrap_or_default();
        let has_others = current.iter().any(|rule| self.is_of_other(rule, owner));
        let wanted: Vec<_> = rules.iter().filter(|rule| !rule.marked).map(|rule| self.text(rule)).collect();
        let mut lines = Vec::new();
        if rules.is_empty() && !has_others {
            lines.extend(self.jumps(present, false));
            if present.chain.is_some() {
                lines.extend([format!("-F {}", self.chain), format!("-X {}", self.chain)]);
            }
            return lines;
        }
        if present.chain.is_none() {
            lines.push(format!(":{} - [0:0]", self.chain));
        }
        let mut editor = Editor::new(self.chain, current);
        editor.make(&wanted, |rule| self.has_comment(rule) && owner.owns(words(rule)));
        if let Some(shared) = rules.iter().find(|rule| rule.marked) {
            editor.put_first(&self.text(shared), |rule| self.has_comment(rule));
        }
        lines.append(&mut editor.lines);
        if !rules.is_empty() {
            lines.extend(self.jumps(present, true));
        }
        lines
    }

    /// Returns the lines that leave one jump to the chain, or none.
    fn jumps(&self, present: &Present, wanted: bool) -> Vec<String> {
        let target = format!("-j {}", self.chain);
        let jump = wanted.then(|| self.jump());
        let mut editor = Editor::new(self.hook, &present.hook);
        editor.make(jump.as_slice(), |rule| rule.ends_with(&target));
        editor.lines
    }

    fn has_comment(&self, rule: &str) -> bool {
        rule.contains(&format!("--comment \"{}\"", self.comment))
    }

    /// Returns whether this is flannel's rule of a network that is not the owner's. The rule for kube-proxy's mark names no
    /// network; it serves all of them.
    fn is_of_other(&self, rule: &str, owner: Owner<'_>) -> bool {
        let names_network = words(rule).any(|word| word.contains('/') && word.parse::<IpNet>().is_ok());
        self.has_comment(rule) && names_network && !owner.owns(words(rule))
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

fn words(rule: &str) -> impl Iterator<Item = &str> {
    rule.split(' ')
}

/// A chain, and the lines that change it.
struct Editor<'a> {
    chain: &'a str,
    /// The rules as they are after the lines.
    rules: Vec<String>,
    lines: Vec<String>,
}

impl<'a> Editor<'a> {
    fn new(chain: &'a str, present: &[String]) -> Self {
        Self { chain, rules: present.to_vec(), lines: Vec::new() }
    }

    /// Makes the agent's rules equal to `wanted`, in that order. `is_own` tells the agent's rules from others, which stay
    /// where they are. Right rules are not rewritten, so they keep their counters.
    fn make(&mut self, wanted: &[String], is_own: impl Fn(&str) -> bool) {
        // From the end, so that the last of equal rules stays.
        let mut rest = wanted;
        for n in (0..self.rules.len()).rev().filter(|n| is_own(&self.rules[*n])).collect::<Vec<_>>() {
            match rest.iter().rposition(|rule| *rule == self.rules[n]) {
                Some(position) => rest = &rest[..position],
                None => self.remove(n),
            }
        }
        let mut next = self.rules.len();
        for rule in wanted.iter().rev() {
            if let Some(position) = self.rules[..next].iter().rposition(|present| present == rule) {
                next = position;
            } else {
                self.insert(next, rule);
            }
        }
    }

    /// Leaves one rule of this text, before all rules that `is_later` accepts.
    fn put_first(&mut self, rule: &str, is_later: impl Fn(&str) -> bool) {
        let first = |rules: &[String]| rules.iter().position(|present| is_later(present));
        let copies = self.rules.iter().filter(|present| *present == rule).count();
        if copies == 1 && first(&self.rules).is_some_and(|first| self.rules[first] == rule) {
            return;
        }
        for n in (0..self.rules.len()).rev().filter(|n| self.rules[*n] == rule).collect::<Vec<_>>() {
            self.remove(n);
        }
        self.insert(first(&self.rules).unwrap_or(self.rules.len()), rule);
    }

    fn insert(&mut self, position: usize, rule: &str) {
        let chain = self.chain;
        self.lines.push(if position == self.rules.len() {
            format!("-A {chain} {rule}")
        } else {
            format!("-I {chain} {} {rule}", position + 1)
        });
        self.rules.insert(position, rule.to_owned());
    }

    /// Removes a rule by its text, for which iptables takes the first of equal rules: another program may have changed the
    /// numbers meanwhile.
    fn remove(&mut self, position: usize) {
        let rule = self.rules.remove(position);
        self.lines.push(format!("-D {} {rule}", self.chain));
    }
}

#[cfg(test)]
mod tests;
