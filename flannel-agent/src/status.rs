//! `flannel-agent status`, `peers` and `leases`: whether the node works, how, and if not why. Reads what is on the node, and
//! asks the running agent for what it alone knows. Changes nothing.

pub mod agent;
mod collect;
mod judge;
mod leases;
pub mod model;
mod peers;
mod sources;
mod text;
mod traffic;

#[cfg(test)]
mod tests;

use std::time::SystemTime;

use anyhow::{Result, ensure};

use crate::dataplane::kernel::Kernel;
use crate::output::{colours, print, print_json};
use crate::paths::Paths;
use crate::watch::{Form, show_all};
pub(crate) use collect::collect;
use leases::LeaseList;
use model::{SCHEMA, State, Status};
use peers::PeerList;
use sources::find;
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
    /// How it is shown.
    #[command(flatten)]
    pub form: Form,
    /// Where this node's things are.
    #[command(flatten)]
    pub paths: Paths,
}

/// Lists the leases that this node knows, as the datastore has them: subnet, public address, backend with its data, and when each ends
/// unless it is renewed.
///
/// `own` is this node's. `held` is no longer in the datastore: it vanished together with others, and its node stays reachable for
/// a while (--lease-hold). How packets get to the nodes is shown by `flannel-agent peers`.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowLeases {
    /// How it is shown.
    #[command(flatten)]
    pub form: Form,
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
        print(&Text { status: &status, colour: colours() })?;
    }
    Ok(status.state)
}

/// Prints the other nodes.
///
/// # Errors
/// As of [`run`], or not everything can be read. What can be is printed.
pub async fn run_peers(options: &ShowPeers) -> Result<()> {
    let mut unread = Vec::new();
    let peers = async || {
        let Status { networks, .. } = collect(&options.paths).await?;
        unread = networks.iter().flat_map(|network| network.unread.clone()).collect();
        Ok(PeerList::of(SCHEMA, networks))
    };
    show_all(options.form, peers).await?;
    ensure_read(&unread)
}

fn ensure_read(unread: &[String]) -> Result<()> {
    ensure!(unread.is_empty(), "not everything can be read: {}", unread.join("; "));
    Ok(())
}

/// Prints the leases.
///
/// # Errors
/// As of [`run_peers`].
pub async fn run_leases(options: &ShowLeases) -> Result<()> {
    let kernel = Kernel::new()?;
    let mut unread = Vec::new();
    let leases = async || {
        let networks = find(&options.paths, &kernel).await;
        unread = networks.iter().flat_map(|network| network.unread.clone()).collect();
        Ok(LeaseList::of(SCHEMA, &networks, SystemTime::now()))
    };
    show_all(options.form, leases).await?;
    ensure_read(&unread)
}
