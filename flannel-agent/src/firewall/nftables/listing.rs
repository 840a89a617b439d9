//! The chains and rules of a table, as nft lists them in JSON.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde_json::Value;

use super::super::rules::{Owner, Purpose};
use super::layout;
use crate::netfilter::tool::ToolError;

/// Chains and rules of a table. Versions of nft print rules differently, so a listing is compared with what the same nft
/// has echoed.
#[derive(Debug, Default)]
pub(super) struct Listing {
    chains: Vec<Value>,
    rules: Vec<Value>,
}

impl Listing {
    /// Parses what nft has listed, or echoed of a script that it ran.
    ///
    /// # Errors
    /// It is not JSON.
    pub(super) fn parse(json: &str) -> Result<Self, ToolError> {
        let printed: Value = serde_json::from_str(json).map_err(ToolError::Output)?;
        let items = printed["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut listing = Self::default();
        for item in items.iter().map(|item| item.get("add").unwrap_or(item)) {
            listing.chains.extend(item.get("chain").cloned());
            listing.rules.extend(item.get("rule").cloned());
        }
        Ok(listing)
    }

    /// Returns the rules, with their handles, that are not another network's.
    pub(super) fn own(&self, owner: Owner<'_>) -> BTreeSet<String> {
        self.rules.iter().filter(|rule| !is_of_other(rule, owner)).map(Value::to_string).collect()
    }

    /// Returns whether there are rules of other networks.
    pub(super) fn has_others(&self, owner: Owner<'_>) -> bool {
        self.rules.iter().any(|rule| is_of_other(rule, owner))
    }

    /// Returns whether the table has a chain for this purpose.
    pub(super) fn has_chain(&self, purpose: Purpose) -> bool {
        self.chains.iter().any(|chain| chain["name"] == layout(purpose).name)
    }

    /// Returns whether a chain has flannel's name but not its place or policy.
    pub(super) fn has_wrong_chain(&self) -> bool {
        Purpose::ALL.into_iter().map(layout).any(|wanted| {
            let is_right = |chain: &Value| {
                chain["type"] == wanted.kind
                    && chain["hook"] == wanted.hook
                    && chain["prio"] == wanted.priority
                    && chain["policy"] == "accept"
            };
            self.chains.iter().any(|chain| chain["name"] == wanted.name && !is_right(chain))
        })
    }

    /// Returns the lines that remove the owner's rules, and then the chains without rules.
    pub(super) fn removals(&self, table: &str, owner: Owner<'_>) -> Vec<String> {
        let (others, own): (Vec<_>, Vec<_>) = self.rules.iter().partition(|rule| is_of_other(rule, owner));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rules = own
            .iter()
            .map(|rule| format!("delete rule {table} {} handle {}", text(&rule["chain"]), rule["handle"]));
        let is_empty = |chain: &&Value| others.iter().all(|rule| rule["chain"] != chain["name"]);
        let chains = self.chains.iter().filter(is_empty);
        rules.chain(chains.map(|chain| format!("delete chain {table} {}", text(&chain["name"])))).collect()
    }
}

/// Returns whether the rule's comment is a network that is not the owner's.
fn is_of_other(rule: &Value, owner: Owner<'_>) -> bool {
    let comment = rule["comment"].as_str();
    comment.is_some_and(|comment| comment.parse::<IpNet>().is_ok() && !owner.owns([comment].into_iter()))
}
