//! `flannel-agent status` and `flannel-agent peers`: whether the node works, how, and if not why. Reads what is on the node, and
//! asks the running agent for what it alone knows. Changes nothing.

pub mod agent;
mod collect;
mod judge;
pub mod model;
mod peers;
mod sources;
mod text;
mod traffic;

#[cfg(test)]
mod tests;

use std::env;
use std::io::{self, IsTerminal as _};

use anyhow::{Result, ensure};

use crate::output::{print, print_json, show};
use crate::paths::Paths;
pub(crate) use collect::collect;
use model::{SCHEMA, State, Status};
use peers::PeerList;
use text::Text;

/// Shows whether this node works, how, and if not why. The agent need not run: then what is on the node is shown, and that it
/// does not run.
///
/// Exit status: 0 if all is well, 1 if packets are carried and something is not as it should be, 2 if they are not carried.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowStatus {
    /// Print the state as JSON.
    #[arg(long)]
    pub json: bool,
    /// Where this node's things are.
    #[command(flatten)]
    pub paths: Paths,
}

/// Lists the other nodes by their subnets, each with public address, MAC of its vxlan device, and the way of packets to it:
/// vxlan (BPF), floor (the kernel's vxlan device), on-link (a route without a tunnel), udp, other, or missing (no route).
#[derive(Clone, Debug, clap::Args)]
pub struct ShowPeers {
    /// Print the list as JSON.
    #[arg(long)]
    pub json: bool,
    /// Where this node's things are.
    #[command(flatten)]
    pub paths: Paths,
}

/// Prints the state of the node, and returns it.
///
/// # Errors
/// The kernel does not answer, or the output cannot be written.
pub async fn run(options: &ShowStatus) -> Result<State> {
    let status = collect(&options.paths).await?;
    if options.json {
        print_json(&status)?;
    } else {
        let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        print(&Text { status: &status, colour: !no_colour && io::stdout().is_terminal() })?;
    }
    Ok(status.state)
}

/// Prints the other nodes.
///
/// # Errors
/// As of [`run`], or not everything can be read. What can be is printed.
pub async fn run_peers(options: &ShowPeers) -> Result<()> {
    let Status { networks, .. } = collect(&options.paths).await?;
    let unread: Vec<_> = networks.iter().flat_map(|network| network.unread.clone()).collect();
    let list = PeerList::of(SCHEMA, networks);
    show(&list, options.json)?;
    ensure!(unread.is_empty(), "not everything can be read: {}", unread.join("; "));
    Ok(())
}
