//! Rules by nft, in tables that are all ours: `flannel-ipv4` and `flannel-ipv6`. A table that is not as it was written
//! is replaced in one transaction, with whatever others put into it. A new agent replaces it once.

use std::collections::BTreeSet;

use serde_json::Value;

use super::rules::{Chain, Family, KUBE_PROXY_MARK, Place, Purpose, Rule, Verdict};
use super::tool::{ToolError, run};

/// What was written last, by family.
#[derive(Debug, Default)]
pub(super) struct Nftables {
    written: Vec<Written>,
}

#[derive(Debug)]
struct Written {
    family: Family,
    script: String,
    /// What the kernel made of it.
    objects: BTreeSet<String>,
}

impl Nftables {
    /// Makes these chains be as they should; returns what that changed, for people.
    pub(super) async fn apply(&mut self, family: Family, chains: &[Chain]) -> Result<Vec<String>, ToolError> {
        let Some(script) = script(family, chains) else { return remove(family).await };
        let table = table(family);
        if let Some(written) = self.written.iter().find(|written| written.family == family)
            && written.script == script
            // No listing means no table; where it means more, writing says so.
            && let Ok(listed) = run(&format!("nft -j list table {table}"), "").await
            && objects(&listed)? == written.objects
        {
            return Ok(Vec::new());
        }
        // Not by standard input, which nft -j takes for JSON.
        let objects = objects(&run(&format!("nft -j --echo {script}"), "").await?)?;
        self.written.retain(|written| written.family != family);
        self.written.push(Written { family, script, objects });
        Ok(vec![format!("wrote table {table} of nftables")])
    }
}

/// Chains and rules, with their numbers in the kernel, in what nft lists or echoes. As each version of nft has its own
/// way of writing a rule, its words are compared with its words, not with ours.
fn objects(json: &str) -> Result<BTreeSet<String>, ToolError> {
    let printed: Value = serde_json::from_str(json).map_err(ToolError::Output)?;
    let items = printed["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let added = items.iter().map(|item| item.get("add").unwrap_or(item));
    let objects = added.filter(|item| item.get("chain").or_else(|| item.get("rule")).is_some());
    Ok(objects.map(Value::to_string).collect())
}

/// Removes the table, if it is there; returns what that changed, for people.
pub(super) async fn remove(family: Family) -> Result<Vec<String>, ToolError> {
    let table = table(family);
    let tables = run(&format!("nft list tables {}", keyword(family)), "").await?;
    if !tables.lines().any(|line| line == format!("table {table}")) {
        return Ok(Vec::new());
    }
    run(&format!("nft delete table {table}"), "").await?;
    Ok(vec![format!("removed table {table} of nftables")])
}

/// What makes the table anew; none, if there is nothing to be in it.
fn script(family: Family, chains: &[Chain]) -> Option<String> {
    let chains: Vec<_> = chains.iter().filter(|chain| !chain.rules.is_empty()).collect();
    let table = table(family);
    // Adding what is there already does nothing, so that there is a table to delete.
    let mut script = format!("add table {table}\ndelete table {table}\n");
    script += &format!("add table {table} {{ comment \"rules for {}\" ; }}\n", name(family));
    for Chain { purpose, rules } in &chains {
        let (chain, options) = layout(*purpose);
        script += &format!("add chain {table} {chain} {{ {options} ; }}\n");
        for rule in rules {
            script += &format!("add rule {table} {chain} {}\n", text(family, rule));
        }
    }
    (!chains.is_empty()).then_some(script)
}

fn table(family: Family) -> String {
    format!("{} {}", keyword(family), name(family))
}

const fn keyword(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

const fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "flannel-ipv4",
        Family::V6 => "flannel-ipv6",
    }
}

/// Name, hook, priority and comment are flannel's. No policy: a chain that drops would cut the node off.
const fn layout(purpose: Purpose) -> (&'static str, &'static str) {
    match purpose {
        Purpose::Masquerade => (
            "postrtg",
            "type nat hook postrouting priority 100 ; comment \"chain to manage traffic masquerading by flannel\"",
        ),
        Purpose::Forward => {
            ("forward", "type filter hook forward priority 0 ; comment \"chain to accept flannel traffic\"")
        }
    }
}

fn text(family: Family, rule: &Rule) -> String {
    let mut words = Vec::new();
    if rule.marked {
        words.push(format!("meta mark & {KUBE_PROXY_MARK:#x} == {KUBE_PROXY_MARK:#x}"));
    }
    words.extend(rule.source.map(|place| side(family, "saddr", place)));
    words.extend(rule.destination.map(|place| side(family, "daddr", place)));
    words.push(verdict(rule.verdict).to_owned());
    words.join(" ")
}

fn side(family: Family, field: &str, place: Place) -> String {
    let keyword = keyword(family);
    match place {
        Place::In(net) => format!("{keyword} {field} {net}"),
        Place::NotIn(net) => format!("{keyword} {field} != {net}"),
    }
}

const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Return => "return",
        Verdict::Accept => "accept",
        Verdict::Masquerade { fully_random: false } => "masquerade",
        Verdict::Masquerade { fully_random: true } => "masquerade fully-random",
    }
}

#[cfg(test)]
mod tests;
