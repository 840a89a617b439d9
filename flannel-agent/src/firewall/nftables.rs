//! Writes rules with nft, in two tables that belong to flannel alone: `flannel-ipv4` and `flannel-ipv6`. Each rule has its
//! network as a comment, since a node can belong to several networks. Rules of other networks stay; all others in the tables
//! are the agent's. Once they differ from what was written, they are replaced in one transaction; foreign rules are lost. An
//! agent that starts replaces its rules once.

mod listing;

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::rules::{AddressMatch, Chain, IpVersion, KUBE_PROXY_MARK, Owner, Purpose, Rule, Target};
use crate::netfilter::tool::{ToolError, run};
use listing::Listing;

/// The rules written last.
#[derive(Debug, Default)]
pub(super) struct Nftables {
    written: Vec<Written>,
}

#[derive(Debug)]
struct Written {
    version: IpVersion,
    lines: Vec<String>,
    /// The rules as nft echoed them.
    rules: BTreeSet<String>,
}

impl Nftables {
    /// Replaces the rules of `network` if they differ from these chains. Returns a line of text for each change.
    pub(super) async fn apply(
        &mut self,
        version: IpVersion,
        chains: &[Chain],
        network: IpNet,
        owner: Owner<'_>,
    ) -> Result<Vec<String>, ToolError> {
        let (with_rules, without): (Vec<_>, Vec<_>) =
            chains.iter().partition(|chain| !chain.rules.is_empty());
        if with_rules.is_empty() {
            return remove(version, owner).await;
        }
        let table = table(version);
        let lines = lines(version, &with_rules, network);
        // A failed listing usually means that there is no table; any other problem shows when it is written.
        let listed = run(&format!("nft -j list table {table}"), "").await;
        let present = listed.map_or_else(|_| Ok(Listing::default()), |listed| Listing::parse(&listed))?;
        let is_written = |written: &Written| {
            written.version == version && written.lines == lines && written.rules == present.own(owner)
        };
        if self.written.iter().any(is_written)
            && !present.has_wrong_chain()
            && with_rules.iter().all(|chain| present.has_chain(chain.purpose))
            && (present.has_others(owner) || without.iter().all(|chain| !present.has_chain(chain.purpose)))
        {
            return Ok(Vec::new());
        }
        // Deleting a missing table would fail, and adding an existing one does nothing: so add it first.
        let mut script = vec![format!("add table {table}")];
        if present.has_wrong_chain() || !present.has_others(owner) {
            script.push(format!("delete table {table}"));
        } else {
            script.extend(present.removals(&table, owner));
        }
        script.extend(lines.iter().cloned());
        // As an argument: with -j, nft expects JSON on standard input.
        let echoed = run(&format!("nft -j --echo {}\n", script.join("\n")), "").await?;
        let rules = Listing::parse(&echoed)?.own(owner);
        self.written.retain(|written| written.version != version);
        self.written.push(Written { version, lines, rules });
        Ok(vec![format!("wrote table {table} of nftables")])
    }
}

/// Removes the owner's rules, and the table if no others are in it. Returns a line of text for each change.
pub(super) async fn remove(version: IpVersion, owner: Owner<'_>) -> Result<Vec<String>, ToolError> {
    let table = table(version);
    let tables = run(&format!("nft list tables {}", keyword(version)), "").await?;
    if !tables.lines().any(|line| line == format!("table {table}")) {
        return Ok(Vec::new());
    }
    let present = Listing::parse(&run(&format!("nft -j list table {table}"), "").await?)?;
    if !present.has_others(owner) {
        run(&format!("nft delete table {table}"), "").await?;
        return Ok(vec![format!("removed table {table} of nftables")]);
    }
    let removals = present.removals(&table, owner);
    if removals.is_empty() {
        return Ok(Vec::new());
    }
    run(&format!("nft {}", removals.join("\n")), "").await?;
    Ok(vec![format!("removed this network's rules from table {table} of nftables")])
}

/// Returns the lines that add the table and these chains with their rules, where they are missing.
fn lines(version: IpVersion, chains: &[&Chain], network: IpNet) -> Vec<String> {
    let table = table(version);
    let mut lines = vec![format!("add table {table} {{ comment \"rules for {}\" ; }}", name(version))];
    for Chain { purpose, rules } in chains {
        let Layout { name, kind, hook, priority, comment } = layout(*purpose);
        lines.push(format!(
            "add chain {table} {name} {{ type {kind} hook {hook} priority {priority} ; comment \"{comment}\" ; }}"
        ));
        let rules = rules.iter().map(|rule| text(version, rule));
        lines.extend(rules.map(|rule| format!("add rule {table} {name} {rule} comment \"{network}\"")));
    }
    lines
}

fn table(version: IpVersion) -> String {
    format!("{} {}", keyword(version), name(version))
}

const fn keyword(version: IpVersion) -> &'static str {
    match version {
        IpVersion::V4 => "ip",
        IpVersion::V6 => "ip6",
    }
}

const fn name(version: IpVersion) -> &'static str {
    match version {
        IpVersion::V4 => "flannel-ipv4",
        IpVersion::V6 => "flannel-ipv6",
    }
}

/// A chain of flannel's.
struct Layout {
    name: &'static str,
    kind: &'static str,
    hook: &'static str,
    priority: i32,
    comment: &'static str,
}

/// Returns the chain for a purpose, which is flannel's. Sets no policy: a policy of drop would cut the node off.
const fn layout(purpose: Purpose) -> Layout {
    match purpose {
        Purpose::Masquerade => Layout {
            name: "postrtg",
            kind: "nat",
            hook: "postrouting",
            priority: 100,
            comment: "chain to manage traffic masquerading by flannel",
        },
        Purpose::Forward => Layout {
            name: "forward",
            kind: "filter",
            hook: "forward",
            priority: 0,
            comment: "chain to accept flannel traffic",
        },
    }
}

fn text(version: IpVersion, rule: &Rule) -> String {
    let mut words = Vec::new();
    if rule.marked {
        words.push(format!("meta mark & {KUBE_PROXY_MARK:#x} == {KUBE_PROXY_MARK:#x}"));
    }
    words.extend(rule.source.map(|address| address_match(version, "saddr", address)));
    words.extend(rule.destination.map(|address| address_match(version, "daddr", address)));
    words.push(target(rule.target).to_owned());
    words.join(" ")
}

fn address_match(version: IpVersion, field: &str, address: AddressMatch) -> String {
    let keyword = keyword(version);
    match address {
        AddressMatch::In(net) => format!("{keyword} {field} {net}"),
        AddressMatch::NotIn(net) => format!("{keyword} {field} != {net}"),
    }
}

const fn target(target: Target) -> &'static str {
    match target {
        Target::Return => "return",
        Target::Accept => "accept",
        Target::Masquerade { fully_random: false } => "masquerade",
        Target::Masquerade { fully_random: true } => "masquerade fully-random",
    }
}

#[cfg(test)]
mod tests;
