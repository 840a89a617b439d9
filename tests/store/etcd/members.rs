//! An etcd cluster that loses members, its leader and its majority, under traffic.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use flannel_tests::{Agent, Cluster, Etcd, Node, Pod, TestResult, eventually};
use serde_json::json;

use super::routes::RouteLog;
use crate::inspect::{self, Peer};
use crate::overlay::{NETWORK, Streams};

/// Time limit for an election and the longest pause between an agent's attempts.
const SOON: Duration = Duration::from_secs(15);
const MEMBERS: u16 = 3;

/// Two nodes with a pod each, and three members. Fields are in the order of their drops.
struct Bed {
    pods: Vec<Pod>,
    agents: Vec<Agent>,
    members: Vec<Etcd>,
    cluster: Cluster,
}

impl Bed {
    fn start() -> Result<Self> {
        let cluster = Cluster::segment(2)?;
        let members = cluster.start_etcd_members(MEMBERS)?;
        members[0].configure(NETWORK)?;
        let endpoints: Vec<_> = members.iter().map(Etcd::endpoint).collect();
        let flag = format!("--etcd-endpoints={}", endpoints.join(","));
        let start = |node: &Node| Agent::builder(node).arg("--dataplane=netlink").arg(&flag).start();
        let mut agents = cluster.nodes().iter().map(start).collect::<Result<Vec<_>>>()?;
        agents.iter_mut().try_for_each(|agent| agent.wait_ready().map(drop))?;
        let pods = cluster.one_pod_each()?;
        let bed = Self { pods, agents, members, cluster };
        bed.ensure_known(&[])?;
        Ok(bed)
    }

    /// Waits until both nodes know each other and these other nodes.
    fn ensure_known(&self, others: &[Peer]) -> Result<()> {
        for (node, other) in self.cluster.nodes().iter().zip(self.cluster.nodes().iter().rev()) {
            let peers = [&[Peer::of(other)?], others].concat();
            eventually("the leases are followed", SOON, || inspect::ensure_knows(node, &peers))?;
        }
        Ok(())
    }

    /// Writes a lease to this member, as soon as it accepts writes.
    fn put(&self, member: usize, peer: &Peer) -> Result<()> {
        eventually("a member writes", SOON, || self.members[member].put(&peer.key(), &peer.value()))
    }

    fn leader(&self) -> Result<usize> {
        let leads = |member: &Etcd| -> Result<bool> {
            let status = member.kv().post("maintenance/status", &json!({}))?;
            Ok(status["leader"] == status["header"]["member_id"])
        };
        for (number, member) in self.members.iter().enumerate() {
            if leads(member)? {
                return Ok(number);
            }
        }
        bail!("no member leads")
    }
}

#[test]
fn leases_are_followed_while_each_member_fails_in_turn() -> TestResult {
    let mut bed = Bed::start()?;
    let (streams, routes) =
        (Streams::between(&bed.pods[0], &bed.pods[1])?, RouteLog::start(bed.cluster.nodes())?);
    let new: Vec<_> = (90..93).map(Peer::fictional).collect();
    // The agents first connect to the first member, so each lost member is the one they are connected to.
    for lost in 0..usize::from(MEMBERS) {
        bed.members[lost].kill()?;
        bed.put((lost + 1) % 3, &new[lost])?;
        bed.ensure_known(&new[..=lost])?;
        bed.members[lost].restart()?;
    }
    streams.ensure_whole()?;
    routes.ensure_only_new(&new)?;
    Ok(())
}

#[test]
fn leases_are_followed_when_the_leader_hangs() -> TestResult {
    let mut bed = Bed::start()?;
    let (streams, routes) =
        (Streams::between(&bed.pods[0], &bed.pods[1])?, RouteLog::start(bed.cluster.nodes())?);
    let old = bed.leader()?;
    bed.members[old].stop()?;
    let new = Peer::fictional(90);
    bed.put((old + 1) % 3, &new)?;
    bed.ensure_known(std::slice::from_ref(&new))?;
    bed.members[old].cont()?;
    assert_ne!(bed.leader()?, old, "the leader is the same");
    streams.ensure_whole()?;
    routes.ensure_only_new(&[new])?;
    Ok(())
}

#[test]
fn without_a_majority_nothing_changes() -> TestResult {
    let mut bed = Bed::start()?;
    let (streams, routes) =
        (Streams::between(&bed.pods[0], &bed.pods[1])?, RouteLog::start(bed.cluster.nodes())?);
    bed.members[0].kill()?;
    bed.members[1].kill()?;
    for agent in &bed.agents {
        eventually("the agents notice", SOON, || {
            ensure!(agent.log().contains("lost the watch on the leases"), "{}", agent.log());
            Ok(())
        })?;
    }
    bed.ensure_known(&[])?;
    bed.members[0].restart()?;
    let new = Peer::fictional(90);
    bed.put(2, &new)?;
    bed.ensure_known(std::slice::from_ref(&new))?;
    bed.agents.iter_mut().try_for_each(Agent::ensure_running)?;
    streams.ensure_whole()?;
    routes.ensure_only_new(&[new])?;
    Ok(())
}
