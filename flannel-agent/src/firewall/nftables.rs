//! Writes rules with nft, in two tables that belong to flannel alone: `flannel-ipv4` and `flannel-ipv6`. A table that
//! differs from what was written is replaced in one transaction; foreign rules in it are lost. An agent that starts
//! replaces each table once.

use std::collections::BTreeSet;

use serde_json::Value;

use super::rules::{AddressMatch, Chain, IpVersion, KUBE_PROXY_MARK, Purpose, Rule, Target};
use super::tool::{ToolError, run};

/// The tables written last.
#[derive(Debug, Default)]
pub(super) struct Nftables {
    written: Vec<Written>,
}

#[derive(Debug)]
struct Written {
    version: IpVersion,
    script: String,
    /// The chains and rules as nft echoed them.
    objects: BTreeSet<String>,
}

impl Nftables {
    /// Replaces the table if it differs from these chains. Returns a line of text for each change.
    pub(super) async fn apply(
        &mut self,
        version: IpVersion,
        chains: &[Chain],
    ) -> Result<Vec<String>, ToolError> {
        let Some(script) = script(version, chains) else { return remove(version).await };
        let table = table(version);
        if let Some(written) = self.written.iter().find(|written| written.version == version)
            && written.script == script
            // A failed listing usually means that there is no table; any other problem shows when it is written.
            && let Ok(listed) = run(&format!("nft -j list table {table}"), "").await
            && objects(&listed)? == written.objects
        {
            return Ok(Vec::new());
        }
        // As an argument: with -j, nft expects JSON on standard input.
        let objects = objects(&run(&format!("nft -j --echo {script}"), "").await?)?;
        self.written.retain(|written| written.version != version);
        self.written.push(Written { version, script, objects });
        Ok(vec![format!("wrote table {table} of nftables")])
    }
}

/// Returns the chains and rules, with their handles, from what nft lists or echoes. Versions of nft print rules
/// differently. So a listing is compared with an echo of the same nft, not with the script.
fn objects(json: &str) -> Result<BTreeSet<String>, ToolError> {
    let printed: Value = serde_json::from_str(json).map_err(ToolError::Output)?;
    let items = printed["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let added = items.iter().map(|item| item.get("add").unwrap_or(item));
    let objects = added.filter(|item| item.get("chain").or_else(|| item.get("rule")).is_some());
    Ok(objects.map(Value::to_string).collect())
}

/// Removes the table if it exists. Returns a line of text for each change.
pub(super) async fn remove(version: IpVersion) -> Result<Vec<String>, ToolError> {
    let table = table(version);
    let tables = run(&format!("nft list tables {}", keyword(version)), "").await?;
    if !tables.lines().any(|line| line == format!("table {table}")) {
        return Ok(Vec::new());
    }
    run(&format!("nft delete table {table}"), "").await?;
    Ok(vec![format!("removed table {table} of nftables")])
}

/// Returns the nft script that replaces the table; `None` without rules.
fn script(version: IpVersion, chains: &[Chain]) -> Option<String> {
    let chains: Vec<_> = chains.iter().filter(|chain| !chain.rules.is_empty()).collect();
    let table = table(version);
    // Deleting a missing table would fail, and adding an existing one does nothing: so add it first.
    let mut script = format!("add table {table}\ndelete table {table}\n");
    script += &format!("add table {table} {{ comment \"rules for {}\" ; }}\n", name(version));
    for Chain { purpose, rules } in &chains {
        let (chain, options) = layout(*purpose);
        script += &format!("add chain {table} {chain} {{ {options} ; }}\n");
        for rule in rules {
            script += &format!("add rule {table} {chain} {}\n", text(version, rule));
        }
    }
    (!chains.is_empty()).then_some(script)
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

/// Returns name and options of a chain, which are flannel's. Sets no policy: a policy of drop would cut the node off.
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
