//! `cargo xtask run`: a cluster on this machine, or the agent on the machine itself.

mod machine;
mod show;
mod store;

use std::time::Duration;

use anyhow::{Result, bail};
use flannel_tests::agent::named_agent;
use flannel_tests::tools::Part;
use flannel_tests::{Cluster, Pod, eventually, failure, interrupt, traffic};

use crate::phase;
use crate::workspace::cargo;
use store::Store;

/// The parts of the work whose tools it needs.
pub(crate) const NEEDS: [Part; 4] = [Part::Build, Part::Cluster, Part::Run, Part::Etcd];

const CONFIG: &str = r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}"#;
const PODS_PER_NODE: usize = 2;
/// Seconds of TCP.
const BULK: Duration = Duration::from_secs(2);
/// Limit until a pod answers.
const PATIENCE: Duration = Duration::from_secs(3);
const FLOOD: Duration = Duration::from_secs(2);
/// Bytes of UDP payload.
const SMALL: usize = 64;

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// End after the measurements, with status 0 or 1
    #[arg(long)]
    once: bool,
    /// Number of nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=100))]
    nodes: u8,
    /// Datastore of the leases [default: etcd, or local if etcd cannot be installed]
    #[arg(long)]
    store: Option<Store>,
    /// Run the agent on this machine instead of a cluster, with these flags
    #[arg(last = true, value_name = "FLAGS")]
    flags: Option<Vec<String>>,
}

/// Builds the agent, unless `$FLANNEL_AGENT` names one, and runs it, in a cluster or on this machine.
pub(crate) fn run(args: &Args) -> Result<()> {
    let named = named_agent()?.is_some();
    let is_needed = |part: &Part| match part {
        Part::Build => !named,
        // Whoever reads the hints uses these tools.
        Part::Run => !args.once,
        _ => true,
    };
    let parts: Vec<_> = NEEDS.into_iter().filter(is_needed).collect();
    let store = store::choose(args.store, &parts)?;
    if !named {
        phase::run("build of the agent", &mut cargo(["build", "--package", "flannel-agent"]))?;
    }
    if let Some(flags) = &args.flags {
        return machine::run(flags);
    }
    interrupt::catch()?;
    cluster(args, store).inspect_err(|_| failure::declare())
}

fn cluster(args: &Args, store: Store) -> Result<()> {
    let cluster = phase::measured("nodes on one underlay", || Cluster::segment(args.nodes.into()))?;
    let store = phase::measured("datastore", || store.start(&cluster))?;
    store.configure(CONFIG)?;
    let agents = phase::measured("agents", || cluster.start_agents(&*store))?;
    let pods = phase::measured("pods", || cluster.pods_each(PODS_PER_NODE))?;
    show::nodes(&cluster, &agents)?;
    let proof = prove(&cluster, &pods);
    if proof.is_ok() && !args.once && !interrupt::came() {
        show::hints(&cluster, &*store, &pods)?;
        interrupt::wait()?;
    }
    phase::measured("removal of everything", || {
        drop((pods, agents, store, cluster));
        Ok(())
    })?;
    proof
}

/// Checks that every pod reaches every other, and shows how fast and by which outcomes.
fn prove(cluster: &Cluster, pods: &[Vec<Pod>]) -> Result<()> {
    let all: Vec<&Pod> = pods.iter().flatten().collect();
    phase::measured("every pod reaches every other", || reach_each_other(&all))?;
    let [Some(from), Some(to)] = [0, 1].map(|node| pods.get(node).and_then(|pods| pods.first())) else {
        bail!("fewer than two nodes have pods");
    };
    if !interrupt::came() {
        let tcp = phase::measured("TCP between two nodes", || traffic::tcp_bulk(from, to, BULK))?;
        let udp = phase::measured("UDP between two nodes", || traffic::udp_flood(from, to, SMALL, FLOOD))?;
        show::speed(tcp.bits_per_second(), SMALL, udp.per_second());
    }
    show::metrics(cluster)
}

fn reach_each_other(pods: &[&Pod]) -> Result<()> {
    let pairs = pods.iter().flat_map(|from| pods.iter().map(move |to| (*from, *to)));
    let pairs: Vec<_> = pairs.filter(|(from, to)| from.ip() != to.ip()).collect();
    let mut failed = Vec::new();
    for (from, to) in &pairs {
        if interrupt::came() {
            bail!("interrupted");
        }
        // An agent that is ready has its own subnet, but may not have the others' yet.
        let reached = eventually("an answer", PATIENCE, || traffic::ping(*from, to.ip()));
        if let Err(error) = reached {
            failed.push(format!("{} -> {}: {error:#}", from.ip(), to.ip()));
        }
    }
    phase::note(&format!("{} of {} pairs", pairs.len() - failed.len(), pairs.len()));
    if failed.is_empty() { Ok(()) } else { bail!("no answer: {}", failed.join("; ")) }
}
