//! Rules by iptables and ip6tables, in their nft or legacy variant: a chain of ours in each of two tables, and a jump to
//! it. What is there is listed, compared ([`changes`]), and only what differs is written, in one transaction
//! for each table. iptables 1.6.2 (2018) or newer: `iptables-restore --wait`, `--random-fully`.
//!
//! As with flanneld between its starts, rules of others inside our chains stay. Unlike flanneld at its start, nothing
//! empties a chain that is in use (flannel issue 2237).

mod changes;

use super::rules::{Chain, Family, Purpose, Rule};
use super::tool::{ToolError, run};
use changes::{Layout, Present};

/// Makes these chains be as they should; returns what that changed, for people.
pub(super) async fn apply(family: Family, chains: &[Chain]) -> Result<Vec<String>, ToolError> {
    let mut changed = Vec::new();
    for Chain { purpose, rules } in chains {
        changed.extend(apply_one(family, *purpose, rules).await?);
    }
    Ok(changed)
}

async fn apply_one(family: Family, purpose: Purpose, rules: &[Rule]) -> Result<Option<String>, ToolError> {
    let layout = Layout::of(purpose);
    let present = match read(family, &layout).await {
        Err(error) if rules.is_empty() && error.is_no_table() => return Ok(None),
        present => present?,
    };
    let changes = layout.changes(&present, rules);
    if changes.is_empty() {
        return Ok(None);
    }
    let input = format!("*{}\n{}\nCOMMIT\n", layout.table, changes.join("\n"));
    run(&format!("{}-restore --noflush --wait=5", command(family)), &input).await?;
    let verb = if rules.is_empty() { "removed" } else { "wrote" };
    Ok(Some(format!("{verb} chain {} in table {} of {}", layout.chain, layout.table, command(family))))
}

async fn read(family: Family, layout: &Layout) -> Result<Present, ToolError> {
    let list = |chain| format!("{} --wait 5 -t {} -S {chain}", command(family), layout.table);
    let hook = run(&list(layout.hook), "").await?;
    let chain = match run(&list(layout.chain), "").await {
        Ok(listed) => Some(listed),
        // The table could just be read, so it is the chain that is not there.
        Err(ToolError::Failed { code: Some(1), .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(layout.parse(&hook, chain.as_deref()))
}

const fn command(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}
