//! `flannel-agent cleanup`: removes from the node what the agent, or flanneld, has set up.

mod routes;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use flannel_common::abi;
use ipnet::IpNet;

use crate::dataplane::bpf::{self, pins, pins::Pins};
use crate::dataplane::kernel::Kernel;
use crate::lease::SubnetKey;
use crate::netlink::link::{self, Link};
use crate::paths::Paths;
use crate::{firewall, subnet_file};

/// Removes from this node what the agent, or flanneld, has set up: devices with their routes, neighbours and FDB
/// entries, BPF programs and maps, firewall rules, blackhole routes, the subnet file and the file beside it with what the agent knew.
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
/// An agent is running, or something could not be removed. A failure does not stop the other removals.
pub async fn run(options: &Cleanup) -> Result<()> {
    if let Some(pid) = running_agent()? {
        bail!("a flannel daemon is running in this network namespace (pid {pid}): stop it first");
    }
    let results = remove_all(options).await;
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
async fn remove_all(options: &Cleanup) -> Results {
    let kernel = match Kernel::new() {
        Ok(kernel) => kernel,
        Err(error) => return vec![Err(error)],
    };
    let subnet = subnet_file::read_previous(&options.paths.subnet_file);
    let subnets: Vec<IpNet> = subnet.iter().flat_map(SubnetKey::nets).collect();
    let networks = subnet_file::read_networks(&options.paths.subnet_file);
    let mut results = remove_programs(&options.paths.bpffs);
    results.extend(flat(remove_devices(&kernel).await));
    results.extend(flat(routes::remove_direct(&kernel, &networks, &subnets).await));
    results.extend(flat(routes::remove_unreachable(&kernel).await));
    results.extend(firewall::remove(&subnets).await);
    // Last, and only without failures: the next attempt needs the subnet that this file has.
    if results.iter().all(Result::is_ok) {
        results.extend(remove_file(&options.paths.last_known()).transpose());
        results.extend(remove_file(&options.paths.subnet_file).transpose());
    }
    results
}

fn flat(results: Result<Results>) -> Results {
    results.unwrap_or_else(|error| vec![Err(error)])
}

/// Returns the pid of a process in this network namespace that has the name of the agent or of flanneld.
fn running_agent() -> Result<Option<u32>> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
    let own = namespace("self").context("reading /proc/self/ns/net")?;
    let is_daemon = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        *pid != std::process::id()
            && ["flannel-agent", "flanneld"].contains(&name.trim_end())
            && namespace(&pid.to_string()).is_ok_and(|other| other == own)
    };
    let processes = fs::read_dir("/proc").context("listing /proc")?.flatten();
    Ok(processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_daemon))
}

/// Detaches the programs of each VNI, and removes their pins, maps and links.
fn remove_programs(bpffs: &Path) -> Results {
    let dir = bpffs.join(abi::PIN_DIR);
    if !dir.exists() {
        return Vec::new();
    }
    let mut results: Results = pins::vnis(bpffs)
        .unwrap_or_default()
        .into_iter()
        .map(|vni| {
            bpf::detach(&Pins::new(bpffs, vni))?;
            Ok(format!("removed BPF programs and maps of VNI {vni}"))
        })
        .collect();
    if results.iter().all(Result::is_ok) {
        let removed = fs::remove_dir(&dir).with_context(|| format!("removing {}", dir.display()));
        results.push(removed.map(|()| format!("removed {}", dir.display())));
    }
    results
}

async fn remove_devices(kernel: &Kernel) -> Result<Results> {
    let links = links(kernel).await?;
    let mut results = Vec::new();
    for Link { index, name, .. } in links.iter().filter(|link| link.is_flannel_device()) {
        let removed = kernel.handle().link().del(*index).execute().await;
        let removed = removed.with_context(|| format!("removing device {name}"));
        results.push(
            removed.map(|()| format!("removed device {name} with its routes, neighbours and FDB entries")),
        );
    }
    Ok(results)
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
