//! Writes rules with iptables and ip6tables, nft or legacy variant: one chain in each of two tables, and a jump to it.
//! Lists the rules, compares them ([`changes`]) and writes only the differences, in one transaction for each table.
//! Needs iptables 1.6.2 (2018) or newer for `iptables-restore --wait` and `--random-fully`.
//!
//! Rules that other programs add to these chains stay, as with a running flanneld. Unlike a starting flanneld, the agent
//! never empties a chain that is in use (flannel issue 2237). So do rules of other networks of the node, which have an
//! agent of their own.

mod changes;
mod variant;

use super::rules::{Chain, IpVersion, Owner, Purpose, Rule};
use crate::netfilter::tool::{ToolError, run};
use changes::{Layout, Present};
pub(super) use variant::Variant;

/// Writes what is missing of these chains and removes what is not wanted of the owner's rules. Returns a line of text for
/// each change.
pub(super) async fn apply(
    variant: Variant,
    version: IpVersion,
    chains: &[Chain],
    owner: Owner<'_>,
) -> Result<Vec<String>, ToolError> {
    let command = variant.command(version);
    let mut changed = Vec::new();
    for Chain { purpose, rules } in chains {
        changed.extend(apply_one(command, *purpose, rules, owner).await?);
    }
    Ok(changed)
}

async fn apply_one(
    command: &str,
    purpose: Purpose,
    rules: &[Rule],
    owner: Owner<'_>,
) -> Result<Option<String>, ToolError> {
    let layout = Layout::of(purpose);
    let present = match read(command, &layout).await {
        Err(error) if rules.is_empty() && error.is_no_table() => return Ok(None),
        present => present?,
    };
    let changes = layout.changes(&present, rules, owner);
    if changes.is_empty() {
        return Ok(None);
    }
    let input = format!("*{}\n{}\nCOMMIT\n", layout.table, changes.join("\n"));
    run(&format!("{command}-restore --noflush --wait=5"), &input).await?;
    let what = match (rules.is_empty(), changes.iter().any(|change| change.starts_with("-X "))) {
        (true, true) => "removed",
        (true, false) => "removed this network's rules from",
        (false, _) => "wrote",
    };
    Ok(Some(format!("{what} chain {} in table {} of {command}", layout.chain, layout.table)))
}

async fn read(command: &str, layout: &Layout) -> Result<Present, ToolError> {
    let hook = run(&listing(command, layout.table, layout.hook), "").await?;
    // The table can be read, so the chain does not exist if listing it fails.
    let chain = list_one(command, layout.table, layout.chain).await?;
    Ok(layout.parse(&hook, chain.as_deref()))
}

/// Lists a chain; `None` if it does not exist, or iptables does not.
pub(super) async fn list(
    variant: Variant,
    version: IpVersion,
    table: &str,
    chain: &str,
) -> Result<Option<String>, ToolError> {
    match list_one(variant.command(version), table, chain).await {
        Err(error) if error.is_missing() || error.is_no_table() => Ok(None),
        listed => listed,
    }
}

async fn list_one(command: &str, table: &str, chain: &str) -> Result<Option<String>, ToolError> {
    match run(&listing(command, table, chain), "").await {
        Ok(listed) => Ok(Some(listed)),
        Err(ToolError::Failed { code: Some(1), .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn listing(command: &str, table: &str, chain: &str) -> String {
    format!("{command} --wait 5 -t {table} -S {chain}")
}
