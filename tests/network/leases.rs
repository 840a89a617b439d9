//! Leases appear, change and end in etcd, and all nodes follow.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::lpm_trie::Key as LpmKey;
use aya::maps::{LpmTrie, Map, MapData};
use flannel_common::abi;
use flannel_common::address::V4;
use flannel_common::lease::{Lease, OWN};
use flannel_tests::wait::patiently;
use flannel_tests::{TestResult, Topology, eventually};

use crate::inspect::{self, DEVICE, Peer};
use crate::overlay::{Overlay, lines_of};

/// Time limit for all nodes to follow a change.
const FOLLOW: Duration = Duration::from_secs(1);

/// Time limit until what has failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// Waits until both nodes know each other and these other nodes, and no more.
fn ensure_followed(overlay: &Overlay, what: &str, others: &[&Peer]) -> Result<()> {
    for (node, other) in [(0, 1), (1, 0)] {
        let mut peers = vec![overlay.peer(other)?];
        peers.extend(others.iter().map(|peer| (*peer).clone()));
        eventually(what, FOLLOW, || inspect::ensure_knows(&overlay.nodes()[node], &peers))?;
    }
    Ok(())
}

#[test]
fn all_nodes_follow_each_change_of_a_lease() -> TestResult {
    let flags = ["--dataplane=bpf", "--dataplane=netlink"];
    let overlay = Overlay::start(Topology::segment(2), &flags, 1)?;
    let streams = overlay.streams()?;
    let etcd = &overlay.etcd;
    let new = Peer::fictional(77);
    etcd.put(&new.key(), &new.value())?;
    ensure_followed(&overlay, "a new node", &[&new])?;
    let moved = Peer { public_ip: Ipv4Addr::new(192, 168, 64, 78), ..new.clone() };
    etcd.put(&moved.key(), &moved.value())?;
    ensure_followed(&overlay, "another PublicIP", &[&moved])?;
    let renewed = Peer { mac: "c6:d2:32:6f:8f:45".to_owned(), ..moved };
    etcd.put(&renewed.key(), &renewed.value())?;
    ensure_followed(&overlay, "another VtepMAC", &[&renewed])?;
    let second = Peer { base: Ipv4Addr::new(10, 5, 78, 0), ..Peer::fictional(77) };
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
fn a_full_map_leaves_a_new_peer_to_the_kernel_until_there_is_room() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let node = &overlay.nodes()[0];
    let pin = inspect::pins(node)?.path(abi::LEASES);
    let mut leases = LpmTrie::<_, V4, Lease<V4>>::try_from(Map::from_map_data(MapData::from_pin(pin)?)?)?;
    let streams = overlay.streams()?;
    // Entries of nobody, from 11.0.0.0 on.
    let key = |address: u32| LpmKey::new(32, address.to_be_bytes());
    let nobody = Lease { public_ip: [0; 4], vtep_mac: [0; 6], flags: OWN, route_mtu: 0 };
    let first_without_room =
        (0x0b00_0000..0x0c00_0000).find(|address| leases.insert(&key(*address), nobody, 0).is_err());
    let first_without_room = first_without_room.context("the map is not full")?;
    let new = Peer::fictional(77);
    overlay.etcd.put(&new.key(), &new.value())?;
    eventually("the kernel has a route", FOLLOW, || {
        let routes = node.exec(&format!("ip route show dev {DEVICE}"))?;
        ensure!(routes.contains(&new.base.to_string()), "{routes}");
        Ok(())
    })?;
    let said = || {
        let errors = lines_of(&overlay.agents[0].log(), "ERROR");
        errors.iter().filter(|line| line.contains("10.5.77.0/24 into LEASES")).count()
    };
    patiently("the agent has found no room", AGAIN, || {
        ensure!(said() == 1, "not yet");
        Ok(())
    })?;
    // The agent removes foreign entries too, where it comes first.
    (0x0b00_0000..first_without_room).for_each(|address| drop(leases.remove(&key(address))));
    eventually("the node knows the peer", AGAIN, || {
        inspect::ensure_knows(node, &[overlay.peer(1)?, new.clone()])
    })?;
    assert_eq!(said(), 1);
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn an_expired_lease_is_removed_like_a_deleted_one() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let peer = Peer::fictional(77);
    let lease = overlay.etcd.kv().put_for(&peer.key(), &peer.value(), 3600)?;
    ensure_followed(&overlay, "a new node", &[&peer])?;
    overlay.etcd.kv().revoke(lease)?;
    ensure_followed(&overlay, "its lease has ended", &[])?;
    Ok(())
}

#[test]
fn changes_made_while_the_agents_were_stopped_are_followed_at_start() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let (old, new) = (Peer::fictional(77), Peer { base: Ipv4Addr::new(10, 5, 79, 0), ..Peer::fictional(77) });
    overlay.etcd.put(&old.key(), &old.value())?;
    ensure_followed(&overlay, "a new node", &[&old])?;
    overlay.agents.iter_mut().try_for_each(|agent| agent.term().map(drop))?;
    overlay.etcd.delete(&old.key())?;
    overlay.etcd.put(&new.key(), &new.value())?;
    overlay.agents.iter_mut().try_for_each(|agent| agent.restart().map(drop))?;
    ensure_followed(&overlay, "the agents are back", &[&new])?;
    Ok(())
}
