//! `flannel-agent check`: what is wrong around the agent on this node, and what to do. Looks at the node, and probes the other nodes through
//! the tunnel. Changes nothing. The agent need not run.

mod facts;
mod judge;
mod local;
pub mod model;
mod probe;
mod text;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use tokio::net::lookup_host;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::output::{colours, print, print_json};
use crate::paths::Paths;
use crate::status::model::PeerStatus;
use facts::Facts;
use judge::peers;
use model::{Check, Finding, Level, ProbedPeer, Report};
use text::Text;

/// Time limit for all probes of other nodes.
const PROBING: Duration = Duration::from_secs(5);
/// So many other nodes of a network are probed unless some are chosen: the kernel's table of neighbours has room for 1024, by default.
const PROBED: usize = 800;
/// A prober that does not end at its deadline is given up so much later.
const MARGIN: Duration = Duration::from_secs(1);
/// Time limit for the address of a node's name.
const NAMING: Duration = Duration::from_secs(2);

/// Finds what is wrong around the agent on this node, and says what to do. The agent need not run. Needs root; changes nothing, and sends some
/// dozens of echo requests to each other node.
///
/// Exit status: 0 if there is nothing worse than a note, 1 with warnings, 2 with errors.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckNode {
    /// Probe this node alone, by its name, public address or subnet. Default: all other nodes. Repeat for several.
    #[arg(long, value_name = "NODE")]
    pub peer: Vec<String>,
    /// Print the findings as JSON.
    #[arg(long)]
    pub json: bool,
    /// Folder of the node's CNI configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Where this node's things are.
    #[command(flatten)]
    pub paths: Paths,
}

/// Prints what was found, and returns the worst level.
///
/// # Errors
/// The kernel does not answer, no node is called as `--peer` says, or the output cannot be written.
pub async fn run(options: &CheckNode) -> Result<Level> {
    let report = check(options).await?;
    if options.json {
        print_json(&report)?;
    } else {
        print(&Text { report: &report, colour: colours() })?;
    }
    Ok(report.level)
}

async fn check(options: &CheckNode) -> Result<Report> {
    let facts = Facts::collect(&options.paths).await?;
    let chosen = chosen(options, &facts).await?;
    let (node, tables, (mut found, probed)) =
        tokio::join!(facts.node(options), facts::rules(), probe_all(&facts, &chosen));
    found.append(&mut match node {
        Ok(node) => local::findings(&facts, &node, &tables, &options.cni_conf_dir.display().to_string()),
        Err(error) => local::without_node(&facts, &error),
    });
    Ok(Report::of(found, probed))
}

/// Returns the subnets of the nodes that `--peer` names; none for all nodes.
///
/// # Errors
/// No other node has such a name, address or subnet.
async fn chosen(options: &CheckNode, facts: &Facts) -> Result<Vec<String>> {
    let mut chosen = Vec::new();
    for name in &options.peer {
        let addresses = addresses_of(name).await;
        let peers = facts.networks.iter().flat_map(|network| &network.status.peers);
        let found: Vec<_> =
            peers.filter(|peer| is_called(peer, name, &addresses)).map(|peer| peer.subnet.clone()).collect();
        if found.is_empty() {
            bail!(
                "--peer {name}: no other node has this name, public address or subnet; `flannel-agent peers` lists them"
            );
        }
        chosen.extend(found);
    }
    Ok(chosen)
}

/// Returns the addresses of a node's name, which the agent does not know: the resolver may.
async fn addresses_of(name: &str) -> Vec<IpAddr> {
    if name.parse::<IpAddr>().is_ok() || name.contains('/') {
        return Vec::new();
    }
    match timeout(NAMING, lookup_host((name, 0))).await {
        Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

fn is_called(peer: &PeerStatus, name: &str, addresses: &[IpAddr]) -> bool {
    let subnet = name.parse::<IpNet>().map(|subnet| subnet.trunc().to_string());
    name.parse() == Ok(peer.public_ip)
        || subnet.is_ok_and(|subnet| subnet == peer.subnet)
        || addresses.contains(&peer.public_ip)
}

/// Probes the other nodes of all networks, and judges the answers.
async fn probe_all(facts: &Facts, chosen: &[String]) -> (Vec<Finding>, Vec<ProbedPeer>) {
    let (mut findings, mut all) = (Vec::new(), Vec::new());
    let deadline = Instant::now() + PROBING;
    for network in &facts.networks {
        let mut targets = network.targets(&facts.host);
        targets.retain(|target| chosen.is_empty() || chosen.contains(&target.subnet.to_string()));
        let left_out = if chosen.is_empty() { targets.len().saturating_sub(PROBED) } else { 0 };
        targets.truncate(targets.len() - left_out);
        let probing = timeout(PROBING + MARGIN, spawn_blocking(move || probe::probe(&targets, deadline)));
        let probed = match probing.await {
            Ok(Ok(probed)) => probed,
            Ok(Err(error)) => Err(error).context("probing"),
            Err(late) => Err(late).context("probing"),
        };
        let mut found = match probed {
            Ok(mut probed) => {
                let found = peers::judge(&probed, network.paths(&facts.host));
                all.append(&mut probed);
                found
            }
            Err(error) => vec![Check::Peers.warning(
                format!("they cannot be probed: {error:#}"),
                "run this command as root on the node itself, with CAP_NET_RAW",
            )],
        };
        if left_out > 0 {
            let remedy = "--peer NODE probes one of them";
            found.push(Check::Peers.note(format!("{left_out} more nodes are not probed"), remedy));
        }
        local::name(&mut found, network, facts.networks.len());
        findings.append(&mut found);
    }
    (findings, all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::model::Way;

    #[test]
    fn a_node_is_called_by_its_address_its_subnet_or_what_its_name_stands_for() {
        let public_ip: IpAddr = [192, 168, 64, 2].into();
        let peer = PeerStatus { subnet: "10.5.2.0/24".to_owned(), public_ip, mac: None, way: Way::Vxlan };
        for (name, addresses, expected) in [
            ("192.168.64.2", &[][..], true),
            ("192.168.64.3", &[], false),
            ("10.5.2.0/24", &[], true),
            ("10.5.2.1/24", &[], true),
            ("10.5.3.0/24", &[], false),
            ("worker-2", &[public_ip], true),
            ("worker-3", &[], false),
        ] {
            assert_eq!(is_called(&peer, name, addresses), expected, "{name}");
        }
    }
}
