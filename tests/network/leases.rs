//! Nodes come, change and go in etcd; the others follow.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use flannel_tests::{TestResult, Topology, eventually};

use crate::inspect::{self, Peer};
use crate::overlay::Overlay;

/// Within this every node has followed.
const FOLLOW: Duration = Duration::from_secs(1);

fn stranger() -> Peer {
    Peer {
        base: Ipv4Addr::new(10, 5, 77, 0),
        public_ip: Ipv4Addr::new(192, 168, 64, 77),
        mac: "c6:d2:32:6f:8f:44".to_owned(),
    }
}

/// Waits until both nodes know each other and the strangers, and nobody else.
fn ensure_followed(overlay: &Overlay, what: &str, strangers: &[&Peer]) -> Result<()> {
    for (node, other) in [(0, 1), (1, 0)] {
        let mut peers = vec![overlay.peer(other)?];
        peers.extend(strangers.iter().map(|peer| (*peer).clone()));
        eventually(what, FOLLOW, || inspect::ensure_knows(&overlay.nodes()[node], &peers))?;
    }
    Ok(())
}

#[test]
fn all_nodes_follow_a_lease_through_its_life() -> TestResult {
    let flags = ["--dataplane=bpf", "--dataplane=netlink"];
    let overlay = Overlay::start(Topology::segment(2), &flags, 1)?;
    let streams = overlay.streams()?;
    let etcd = &overlay.etcd;
    let new = stranger();
    etcd.put(&new.key(), &new.value())?;
    ensure_followed(&overlay, "a new node", &[&new])?;
    let moved = Peer { public_ip: Ipv4Addr::new(192, 168, 64, 78), ..new.clone() };
    etcd.put(&moved.key(), &moved.value())?;
    ensure_followed(&overlay, "another PublicIP", &[&moved])?;
    let renewed = Peer { mac: "c6:d2:32:6f:8f:45".to_owned(), ..moved };
    etcd.put(&renewed.key(), &renewed.value())?;
    ensure_followed(&overlay, "another VtepMAC", &[&renewed])?;
    let second = Peer { base: Ipv4Addr::new(10, 5, 78, 0), ..stranger() };
    etcd.put(&second.key(), &second.value())?;
    ensure_followed(&overlay, "one more node", &[&renewed, &second])?;
    etcd.delete(&renewed.key())?;
    ensure_followed(&overlay, "a node that is gone", &[&second])?;
    etcd.delete(&second.key())?;
    ensure_followed(&overlay, "nobody is left", &[])?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn a_lease_that_ends_is_followed_like_one_that_is_deleted() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let peer = stranger();
    let lease = overlay.etcd.kv().put_for(&peer.key(), &peer.value(), 3600)?;
    ensure_followed(&overlay, "a new node", &[&peer])?;
    overlay.etcd.kv().revoke(lease)?;
    ensure_followed(&overlay, "its lease has ended", &[])?;
    Ok(())
}

#[test]
fn what_went_while_the_agent_was_away_is_gone_after_its_start() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let (old, new) = (stranger(), Peer { base: Ipv4Addr::new(10, 5, 79, 0), ..stranger() });
    overlay.etcd.put(&old.key(), &old.value())?;
    ensure_followed(&overlay, "a new node", &[&old])?;
    overlay.agents.iter_mut().try_for_each(|agent| agent.term().map(drop))?;
    overlay.etcd.delete(&old.key())?;
    overlay.etcd.put(&new.key(), &new.value())?;
    overlay.agents.iter_mut().try_for_each(|agent| agent.restart().map(drop))?;
    ensure_followed(&overlay, "the agents are back", &[&new])?;
    Ok(())
}
