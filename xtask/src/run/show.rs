//! Prints what the cluster is and does.

use anyhow::Result;
use flannel_tests::agent::agent_binary;
use flannel_tests::{Agent, Cluster, Datastore, Pod, metrics};

/// The VNI of the cluster's network: the default.
const VNI: u32 = 1;

/// Prints the nodes, and the status of their agents.
pub(crate) fn nodes(cluster: &Cluster, agents: &[Agent]) -> Result<()> {
    println!("\n{:<8} {:<18} {:<16} {:<6} dataplane", "node", "subnet", "public IP", "MTU");
    for (node, agent) in cluster.nodes().iter().zip(agents) {
        let (subnet, dataplane) = agent.status().split_once(" on ").unwrap_or_default();
        println!(
            "{:<8} {subnet:<18} {:<16} {:<6} {dataplane}",
            node.name(),
            node.ip(),
            node.subnet_env()?.mtu
        );
    }
    println!();
    Ok(())
}

/// Prints what was measured between two pods on different nodes.
pub(crate) fn speed(tcp_bits: f64, payload: usize, udp_packets: f64) {
    println!("\nbetween two pods on different nodes, all on this machine's CPUs:");
    println!("  TCP bulk              {:>8.2} Gbit/s", tcp_bits / 1e9);
    println!("  UDP, {payload} bytes         {udp_packets:>8.0} packets/s received");
}

/// Prints the outcomes of program runs, by node.
pub(crate) fn metrics(cluster: &Cluster) -> Result<()> {
    println!("\n{:<8} {:<16} {:<16} {:>12} {:>16}", "node", "hook", "outcome", "packets", "bytes");
    for node in cluster.nodes() {
        for metric in metrics::read(node.bpffs()?, VNI)? {
            let metrics::Metric { hook, outcome, packets, bytes } = metric;
            println!("{:<8} {hook:<16} {outcome:<16} {packets:>12} {bytes:>16}", node.name());
        }
    }
    println!("(an aggregate of segments counts as one packet)\n");
    Ok(())
}

/// Prints commands that show the cluster from inside.
pub(crate) fn hints(cluster: &Cluster, store: &dyn Datastore, pods: &[Vec<Pod>]) -> Result<()> {
    let [node, peer, ..] = cluster.nodes() else { return Ok(()) };
    let [Some(pod), Some(target)] = [0, 1].map(|index| pods.get(index).and_then(|pods| pods.first())) else {
        return Ok(());
    };
    let [node_ns, peer_ns] = [node, peer].map(|node| node.netns().name());
    let (pod, target) = (pod.netns().name(), target.addresses()[0]);
    let agent = agent_binary()?.display().to_string();
    let maps = node.bpffs()?.join(format!("flannel/{VNI}"));
    let maps = maps.display();
    println!("look around (every node and pod is a network namespace: `ip netns`):");
    println!("  enter a pod        ip netns exec {pod} bash");
    println!("  reach another      ip netns exec {pod} ping {target}");
    println!("  leases             bpftool map dump pinned {maps}/LEASES");
    let files = format!("--subnet-file {} --bpffs {}", node.subnet_file().display(), node.bpffs()?.display());
    println!("  does it work       ip netns exec {node_ns} {agent} status {files}");
    println!("  counters           {agent} counters --bpffs {}", node.bpffs()?.display());
    println!("  packets            ip netns exec {peer_ns} tcpdump -ni eth0 udp port 8472");
    println!("  kernel entries     ip -n {node_ns} route; bridge -n {node_ns} fdb show dev flannel.1");
    println!("  agent logs         {}/*/agent.log", cluster.dir().display());
    println!("  datastore          {}", store.show());
    println!("Ctrl-C removes everything.");
    Ok(())
}
