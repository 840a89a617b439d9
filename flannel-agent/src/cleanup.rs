//! `flannel-agent cleanup`: removes from the node what the agent, or flanneld, has set up.

pub(crate) mod others;
mod routes;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use flannel_common::abi;
use ipnet::IpNet;

use crate::dataplane::bpf::inspect::Inspection;
use crate::dataplane::bpf::{self, pins, pins::Pins};
use crate::dataplane::kernel::Kernel;
use crate::lease::SubnetKey;
use crate::netlink::errno;
use crate::netlink::link::{self, Link};
use crate::paths::Paths;
use crate::{firewall, subnet_file};
use others::Others;

/// Removes from this node what the agent, or flanneld, has set up: devices with their routes, neighbours and FDB
/// entries, BPF programs and maps, firewall rules, blackhole routes, the subnet file, and beside it the file with what the agent knew and the agent's socket.
///
/// If the node belongs to another network too, whose daemon runs or whose device is there, then only things of the network in
/// the subnet file are removed.
///
/// Stop the agent first. The datastore is not changed; the lease of this node expires there after 24 h. It is safe to
/// run this command again.
#[derive(Clone, Debug, clap::Args)]
pub struct Cleanup {
    /// Where this node's things are.
    #[command(flatten)]
    pub paths: Paths,
}

/// A line of text for each removed thing, an error for each failure.
type Results = Vec<Result<String>>;

/// Removes everything and prints what was removed.
///
/// # Errors
/// An agent of this network is running, or something could not be removed. A failure does not stop the other removals.
pub async fn run(options: &Cleanup) -> Result<()> {
    let kernel = Kernel::new()?;
    let links = links(&kernel).await?;
    let others = Others::find(&options.paths, &kernel, &links).await?;
    let results = remove_all(options, &kernel, &links, &others).await;
    let removed: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    removed.iter().for_each(|line| println!("{line}"));
    let problems: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    if problems.is_empty() && removed.is_empty() {
        println!("nothing to remove");
    }
    if problems.is_empty() {
        return Ok(());
    }
    let problems: Vec<_> = problems.iter().map(|problem| format!("{problem:#}")).collect();
    bail!("not everything could be removed:\n{}", problems.join("\n"))
}

/// Removes programs before the devices they are attached to. Deleting a device also deletes the routes through it.
async fn remove_all(options: &Cleanup, kernel: &Kernel, links: &[Link], others: &Others) -> Results {
    let staying = match others.devices(kernel, links).await {
        Ok(staying) => staying,
        Err(error) => return vec![Err(error)],
    };
    for Link { name, .. } in &staying {
        println!("left device {name}, which belongs to another network");
    }
    let subnet = subnet_file::read_previous(&options.paths.subnet_file);
    let subnets: Vec<IpNet> = subnet.iter().flat_map(SubnetKey::nets).collect();
    let networks = subnet_file::read_networks(&options.paths.subnet_file);
    let mut results = remove_programs(&options.paths.bpffs, &staying, kernel, others).await;
    results.extend(remove_devices(kernel, links, &staying).await);
    results.extend(flat(routes::remove_direct(kernel, &networks, &subnets).await));
    results.extend(flat(routes::remove_unreachable(kernel, others).await));
    results.extend(firewall::remove(others.own(), &subnets).await);
    // Last, and only without failures: the next attempt needs the subnet that this file has.
    if results.iter().all(Result::is_ok) {
        results.extend(remove_file(&options.paths.last_known()).transpose());
        // An agent that was killed has left it.
        results.extend(remove_file(&options.paths.report()).transpose());
        results.extend(remove_file(&options.paths.subnet_file).transpose());
    }
    results
}

fn flat(results: Result<Results>) -> Results {
    results.unwrap_or_else(|error| vec![Err(error)])
}

/// Detaches the programs of each VNI without a device that stays, and of each network without tunnels that is not another one. Removes their
/// pins, maps and links.
async fn remove_programs(bpffs: &Path, staying: &[Link], kernel: &Kernel, others: &Others) -> Results {
    let dir = bpffs.join(abi::PIN_DIR);
    if !dir.exists() {
        return Vec::new();
    }
    let mut results = Results::new();
    let mut all_go = true;
    for vni in pins::vnis(bpffs).unwrap_or_default() {
        let pins = Pins::new(bpffs, vni);
        let has_device = staying.iter().any(|link| link.vxlan().is_some_and(|vxlan| vxlan.vni == vni));
        if has_device || pins::is_routed(vni) && others.own().is_some() && serves(&pins, kernel, others).await
        {
            all_go = false;
            continue;
        }
        let detached = bpf::detach(&pins);
        results.push(detached.map(|()| format!("removed BPF programs and maps of {}", pins::title(vni))));
    }
    if all_go && results.iter().all(Result::is_ok) {
        let removed = fs::remove_dir(&dir).with_context(|| format!("removing {}", dir.display()));
        results.push(removed.map(|()| format!("removed {}", dir.display())));
    }
    results
}

/// Returns whether the maps there are of another network than the one to remove.
async fn serves(pins: &Pins, kernel: &Kernel, others: &Others) -> bool {
    let found = Inspection::of(pins, kernel).await;
    found.is_ok_and(|found| found.own_subnets().any(|subnet| others.has(subnet)))
}

async fn remove_devices(kernel: &Kernel, links: &[Link], staying: &[Link]) -> Results {
    let mut results = Vec::new();
    let removed = links.iter().filter(|link| link.is_flannel_device() && !staying.contains(link));
    for Link { index, name, .. } in removed {
        let removed = kernel.handle().link().del(*index).execute().await;
        // The kernel has removed it with the device below it.
        if removed.as_ref().is_err_and(|error| errno(error) == libc::ENODEV) {
            continue;
        }
        let removed = removed.with_context(|| format!("removing device {name}"));
        results.push(
            removed.map(|()| format!("removed device {name} with its routes, neighbours and FDB entries")),
        );
    }
    results
}

async fn links(kernel: &Kernel) -> Result<Vec<Link>> {
    link::list(kernel.handle()).await.context("listing interfaces")
}

fn remove_file(path: &Path) -> Result<Option<String>> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        removed => removed
            .map(|()| Some(format!("removed {}", path.display())))
            .with_context(|| format!("removing {}", path.display())),
    }
}
