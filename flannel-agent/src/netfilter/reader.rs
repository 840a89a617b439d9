//! Reads the rules that packets meet which the host sends or forwards. Tables that translate addresses are left out unless they are
//! asked for: they see the first packet of a connection, and of what the host sends itself they change nothing, as a rule.

use serde_json::Value as Json;

use super::rules::Table;
use super::tool::{ToolError, run};
use super::{iptables, legacy, nft};

/// The tables of iptables that count, and the one that translates addresses.
const TABLES: [&str; 4] = ["raw", "mangle", "filter", "nat"];

/// iptables of both families: nft's name of the family, and the tool.
const FAMILIES: [(&str, &str); 2] = [("ip", "iptables"), ("ip6", "ip6tables")];

/// Returns the rules of iptables, legacy and nft, and of nftables; `None` without a tool to list them.
///
/// # Errors
/// A tool does not end in time, or prints what cannot be read.
pub(crate) async fn read() -> Result<Option<Vec<Table>>, ToolError> {
    read_tables(false).await
}

/// Returns the rules as [`read`], and those that translate addresses.
///
/// # Errors
/// As of [`read`].
pub(crate) async fn read_all() -> Result<Option<Vec<Table>>, ToolError> {
    read_tables(true).await
}

async fn read_tables(translating: bool) -> Result<Option<Vec<Table>>, ToolError> {
    let wanted = if translating { &TABLES[..] } else { &TABLES[..3] };
    let mut tables = Vec::new();
    let mut is_complete = true;
    for (tool, table) in legacy::tables().into_iter().filter(|(_, table)| wanted.contains(&table.as_str())) {
        is_complete &= saved(tool, "legacy", &table).await?.add_to(&mut tables);
    }
    let chains = list("chains").await?;
    let listed = match &chains {
        Listed::Known(chains) => nft::tables(chains, translating),
        // Without nft there may be iptables.
        _ => wanted.iter().map(|table| ("ip".to_owned(), (*table).to_owned())).collect(),
    };
    for (family, name) in listed {
        // nft cannot read all rules of iptables, nor iptables those of nft.
        let of_iptables =
            FAMILIES.iter().find(|(known, _)| *known == family && wanted.contains(&name.as_str()));
        if let Some((_, tool)) = of_iptables {
            match saved(tool, "nft", &name).await? {
                Listed::Known(saved) => {
                    tables.extend(saved);
                    continue;
                }
                // Neither of both.
                Listed::Missing => is_complete &= chains != Listed::Missing,
                Listed::Refused => {}
            }
        }
        if let Listed::Known(listing) = list(&format!("table {family} {name}")).await? {
            tables.push(nft::parse(&listing, &family, &name));
        }
    }
    Ok(is_complete.then_some(tables))
}

/// Returns a rule as its tool writes it, with table and chain. `text`: how an operator finds it, as [`Rule::text`] has it.
///
/// [`Rule::text`]: super::rules::Rule::text
pub(crate) async fn wording(text: &str) -> String {
    // Rules of nft are found by a command and a number.
    let Some((command, handle)) = text.split_once(", handle ") else { return text.to_owned() };
    let listed = run(command, "").await.unwrap_or_default();
    let end = format!("# handle {handle}");
    let line = listed.lines().find_map(|line| line.trim_end().strip_suffix(&end));
    line.map_or_else(|| text.to_owned(), |line| format!("{text}: {}", line.trim()))
}

/// What a tool has listed.
#[derive(PartialEq, Eq)]
enum Listed<T> {
    Known(T),
    /// The tool is not installed.
    Missing,
    /// It cannot list this: there is nothing of the kind, or it is of another tool.
    Refused,
}

impl Listed<Vec<Table>> {
    /// Adds what is listed. Returns false if the tool is missing.
    fn add_to(self, tables: &mut Vec<Table>) -> bool {
        let is_missing = self == Self::Missing;
        if let Self::Known(listed) = self {
            tables.extend(listed);
        }
        !is_missing
    }
}

/// Lists a table by this variant of the tool, or by the only one that is installed.
async fn saved(tool: &str, variant: &str, table: &str) -> Result<Listed<Vec<Table>>, ToolError> {
    for command in [&format!("{tool}-{variant}"), tool] {
        match output(&format!("{command}-save -t {table}")).await? {
            Listed::Known(saved) if saved.contains("is incompatible, use 'nft' tool") => {
                return Ok(Listed::Refused);
            }
            Listed::Known(saved) => return Ok(Listed::Known(iptables::parse(&saved, command))),
            Listed::Refused => return Ok(Listed::Refused),
            Listed::Missing => {}
        }
    }
    Ok(Listed::Missing)
}

/// Lists by nft.
async fn list(what: &str) -> Result<Listed<Json>, ToolError> {
    Ok(match output(&format!("nft -j list {what}")).await? {
        Listed::Known(listing) => Listed::Known(serde_json::from_str(&listing).map_err(ToolError::Output)?),
        Listed::Missing => Listed::Missing,
        Listed::Refused => Listed::Refused,
    })
}

async fn output(line: &str) -> Result<Listed<String>, ToolError> {
    match run(line, "").await {
        Ok(output) => Ok(Listed::Known(output)),
        Err(error) if error.is_missing() => Ok(Listed::Missing),
        Err(error) if error.is_late() => Err(error),
        Err(_) => Ok(Listed::Refused),
    }
}
