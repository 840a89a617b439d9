//! `cargo xtask dashboard`: draws the dashboard of `deploy/grafana` from what a real Prometheus has read of a cluster on this
//! machine. It is no screenshot of Grafana: panels, queries, units and legends are those of the dashboard, the drawing is ours.

mod draw;
mod panel;
mod unit;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aya::sys::{Stats, enable_stats};
use flannel_tests::agent::named_agent;
use flannel_tests::prometheus::Prometheus;
use flannel_tests::tools::Part;
use flannel_tests::traffic::{ping, tcp_bulk, udp_flood, udp_round_trips};
use flannel_tests::{Agent, AgentBuilder, Cluster, Pod, eventually, failure, interrupt};

use crate::workspace::{cargo, root};
use crate::{phase, setup};

/// The parts of the work whose tools it needs.
pub(crate) const NEEDS: [Part; 4] = [Part::Build, Part::Cluster, Part::Etcd, Part::Suite];

const CONFIG: &str = r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}"#;
const NODES: usize = 2;
/// Port of the agents' metrics.
const PORT: u16 = 8081;
/// Time limit for pods to reach each other.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long pods send in one way.
const TURN: Duration = Duration::from_secs(2);
/// UDP port of VXLAN.
const VXLAN: u16 = 8472;
/// Packets with a false sender, in each round.
const FORGED: u32 = 20;
/// Bytes of UDP payload.
const SMALL: usize = 64;

/// How long to watch, and where to draw.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds of traffic, which the picture shows
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(20..=3600))]
    seconds: u32,
    /// The picture [default: docs/images/dashboard.svg]
    #[arg(long, value_name = "FILE.svg")]
    output: Option<PathBuf>,
}

/// Builds the agent, unless `$FLANNEL_AGENT` names one, and draws what Prometheus reads of it.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&NEEDS)?;
    if named_agent()?.is_none() {
        phase::run("build of the agent", &mut cargo(["build", "--package", "flannel-agent"]))?;
    }
    interrupt::catch()?;
    let picture = watch(args.seconds).inspect_err(|_| failure::declare())?;
    let file = args.output.clone().unwrap_or_else(|| root().join("docs/images/dashboard.svg"));
    fs::write(&file, picture).with_context(|| format!("cannot write {}", file.display()))?;
    phase::note(&format!("drew {}", file.display()));
    Ok(())
}

/// Runs a cluster with traffic and Prometheus, and draws its data.
fn watch(seconds: u32) -> Result<String> {
    // As `kernel.bpf_stats_enabled`, but no longer than this run.
    let _stats = enable_stats(Stats::RunTime).context("cannot have the kernel measure programs")?;
    let cluster = phase::measured("nodes on one underlay", || Cluster::segment(NODES))?;
    let etcd = phase::measured("etcd", || cluster.start_etcd())?;
    etcd.configure(CONFIG)?;
    let flags = |agent: AgentBuilder| {
        let flags = ["--dataplane=bpf", "--ip-masq", "--probe-interval=5"];
        flags.into_iter().fold(agent, AgentBuilder::arg).arg(format!("--healthz-port={PORT}"))
    };
    let _agents: Vec<Agent> = phase::measured("agents", || cluster.start_agents_with(&etcd, flags))?;
    let pods = phase::measured("pods", || cluster.one_pod_each())?;
    let [own, other] = &pods[..] else { bail!("{} pods", pods.len()) };
    eventually("pods reach each other", PATIENCE, || ping(own, other.ip()))?;
    let targets: Vec<_> =
        cluster.nodes().iter().map(|node| SocketAddr::new(node.ip().into(), PORT)).collect();
    let [node, _] = cluster.nodes() else { bail!("not {NODES} nodes") };
    let rules = root().join("deploy/prometheus/alerts.yml");
    let prometheus = phase::measured("Prometheus", || Prometheus::start(node, &targets, &rules))?;
    phase::measured("traffic", || traffic(&cluster, own, other, seconds))?;
    let panels = phase::measured("data of each panel", || panel::read(&prometheus, seconds))?;
    let about = format!(
        "Drawn by cargo xtask dashboard from what Prometheus read of {NODES} agents in {seconds} s of traffic; \
         panels, queries and units are those of deploy/grafana/flannel.json."
    );
    Ok(draw::svg(&panels, seconds, &about))
}

/// Lets pods talk in turns: single packets, many small ones, and bulk. Now and then routes are removed, a packet goes to nobody, and
/// some come from nobody.
fn traffic(cluster: &Cluster, own: &Pod, other: &Pod, seconds: u32) -> Result<()> {
    let start = Instant::now();
    let nobody = [10, 5, 250, 7].into();
    while start.elapsed() < Duration::from_secs(seconds.into()) {
        ensure!(!interrupt::came(), "interrupted");
        udp_round_trips(own, other, TURN)?;
        udp_flood(own, other, SMALL, TURN)?;
        tcp_bulk(own, other, TURN)?;
        ensure!(ping(own, nobody).is_err(), "somebody has {nobody}");
        forge(cluster)?;
        cluster.nodes().iter().try_for_each(|node| node.exec("ip route flush dev flannel.1").map(drop))?;
        eventually("routes are repaired", PATIENCE, || ping(own, other.ip()))?;
    }
    Ok(())
}

/// Sends packets in VXLAN from the second node to the first, with an inner source that no node has leased.
fn forge(cluster: &Cluster) -> Result<()> {
    let [victim, sender] = cluster.nodes() else { bail!("not {NODES} nodes") };
    let link = victim.netns().exec_json("ip -j link show dev flannel.1")?;
    let mac = link[0]["address"].as_str().context("flannel.1 has no MAC")?;
    let mac = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
    let vxlan = [8, 0, 0, 0, 0, 0, 1, 0];
    let ethernet = [&mac[..], &[2, 0, 0, 0, 0, 1, 8, 0]].concat();
    let ip = [0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 5, 250, 7, 10, 5, 1, 2];
    let udp = [0, 53, 0, 53, 0, 8, 0, 0];
    let packet = [&vxlan[..], &ethernet, &ip, &udp].concat();
    let socket = sender.netns().udp_bind(sender.ip().into(), 0)?;
    (0..FORGED).try_for_each(|_| {
        socket.send_to(&packet, (victim.ip(), VXLAN))?;
        Ok(())
    })
}
