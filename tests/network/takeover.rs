//! An agent takes over one node of a network of flanneld, and traffic with the other goes on.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use flannel_tests::subnet_env::Net;
use flannel_tests::traffic::{Steady, ping, tcp_transfer};
use flannel_tests::{Agent, Cluster, Etcd, Pod, TestResult, eventually, flanneld, kernel_vxlan};

use super::udp;
use crate::inspect::{self, DEVICE, Peer};

const CONFIG: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// Sets two nodes up as flanneld does: devices, entries, rules, subnet files, and leases in etcd.
fn flanneld_nodes(cluster: &Cluster) -> Result<(Etcd, [Peer; 2])> {
    let leases = cluster.nodes().iter().zip(1..).map(|(node, number)| {
        let subnet = Net { addr: Ipv4Addr::new(10, 244, number, 0), len: 24 };
        flanneld::start(node, kernel_vxlan::NETWORK, subnet, None)
    });
    let leases = leases.collect::<Result<Vec<_>>>()?;
    for (node, peer) in cluster.nodes().iter().zip(leases.iter().rev()) {
        flanneld::add(node, [peer])?;
    }
    let etcd = cluster.start_etcd()?;
    etcd.configure(CONFIG)?;
    let peer = |number: usize| {
        let node = &cluster.nodes()[number];
        let base = Ipv4Addr::new(10, 244, number as u8 + 1, 0);
        anyhow::Ok(Peer { base, public_ip: node.ip(), mac: inspect::link(node, DEVICE)?.mac })
    };
    let peers = [peer(0)?, peer(1)?];
    for peer in &peers {
        etcd.kv().put_for(&peer.key(), &peer.value(), 86_400)?;
    }
    Ok((etcd, peers))
}

fn ensure_works(one: &Pod, other: &Pod) -> Result<()> {
    for (from, to) in [(one, other), (other, one)] {
        ping(from, to.ip())?;
        udp::echo(from, to, [0, 1, 1400, 1422, 1423, 9000])?;
        tcp_transfer(from, to, 16 << 20)?;
    }
    Ok(())
}

#[test]
fn a_node_of_flanneld_is_taken_over_without_loss() -> TestResult {
    let cluster = Cluster::segment(2)?;
    let (etcd, [own, peer]) = flanneld_nodes(&cluster)?;
    let pods = cluster.one_pod_each()?;
    ensure_works(&pods[0], &pods[1])?;
    let steady = Steady::start(&pods[0], &pods[1], Duration::from_millis(2))?;
    let [node, _] = cluster.nodes() else { unreachable!("two nodes") };
    let mut agent = Agent::builder(node).etcd(&etcd).arg("--dataplane=bpf").start()?;
    let subnet = agent.wait_ready()?.subnet;
    assert_eq!(subnet.map(|subnet| subnet.to_string()), Some("10.244.1.1/24".to_owned()));
    eventually("the agent knows the other node", Duration::from_secs(5), || {
        inspect::ensure_knows(node, std::slice::from_ref(&peer))
    })?;
    assert_eq!(inspect::link(node, DEVICE)?.mac, own.mac, "the MAC that the other node knows");
    assert_eq!(etcd.get(&own.key())?, Some(own.value()), "the lease as flanneld wrote it");
    ensure_works(&pods[0], &pods[1])?;
    let report = steady.stop()?;
    assert_eq!(report.lost, [0; 0], "datagrams lost while one node changed its daemon");
    assert!(inspect::carried(node)?.0 > 0, "BPF carries nothing");
    Ok(())
}
