//! What `nft -j list` prints, as rules (libnftables-json(5)). Pure.

mod statement;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value as Json;

use super::rules::{Action, Base, Chain, Family, Hook, Rule, Table, Value};
pub(super) use value::number;
use value::values;

/// The sets and verdict maps of a table, by name.
#[derive(Default)]
struct Named {
    sets: BTreeMap<String, Arc<[Value]>>,
    maps: BTreeMap<String, Vec<(Value, Action)>>,
}

/// Returns family and name of each table with a chain for packets that the host sends or forwards. Chains that translate addresses
/// count with `translating` alone.
pub(super) fn tables(chains: &Json, translating: bool) -> BTreeSet<(String, String)> {
    let counts = |base: Base| translating || !base.translates;
    items(chains, "chain")
        .filter(|chain| base(chain).is_some_and(counts) && Family::of(text(&chain["family"])).is_some())
        .map(|chain| (text(&chain["family"]).to_owned(), text(&chain["table"]).to_owned()))
        .collect()
}

/// Returns a table.
pub(super) fn parse(listing: &Json, family: &str, name: &str) -> Table {
    let mut named = Named::default();
    for set in items(listing, "set") {
        // Packets fill it, and nothing reports it.
        let is_dynamic =
            set["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "dynamic"));
        if let Some(values) = values(&set["elem"], &named).filter(|_| !is_dynamic) {
            named.sets.insert(text(&set["name"]).to_owned(), values);
        }
    }
    for map in items(listing, "map") {
        named.maps.insert(text(&map["name"]).to_owned(), statement::choices(&map["elem"]));
    }
    let of = Family::of(family).unwrap_or_default();
    let mut table = Table { name: format!("nft table {family} {name}"), family: of, ..Table::default() };
    for chain in items(listing, "chain") {
        let rules = Vec::new();
        table.chains.insert(text(&chain["name"]).to_owned(), Chain { base: base(chain), rules });
    }
    for rule in items(listing, "rule") {
        let chain = text(&rule["chain"]);
        let text = format!("nft -a list chain {family} {name} {chain}, handle {}", rule["handle"]);
        let expressions = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
        let steps = expressions.iter().flat_map(|expression| statement::steps(expression, &named)).collect();
        table.chains.entry(chain.to_owned()).or_default().rules.push(Rule { text, steps });
    }
    table
}

fn base(chain: &Json) -> Option<Base> {
    let hook = Hook::of(text(&chain["hook"]))?;
    let kind = text(&chain["type"]);
    Some(Base {
        hook,
        priority: chain["prio"].as_i64().unwrap_or_default(),
        drops: chain["policy"] == "drop",
        reroutes: kind == "route" && hook == Hook::Output,
        translates: kind == "nat",
    })
}

fn items<'a>(listing: &'a Json, kind: &'static str) -> impl Iterator<Item = &'a Json> {
    let items = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(move |item| item.get(kind))
}

fn text(value: &Json) -> &str {
    value.as_str().unwrap_or_default()
}
