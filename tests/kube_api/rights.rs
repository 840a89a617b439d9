//! Rights and tokens: those of the manifest suffice, a missing one is named, and none of it empties a dataplane.

use flannel_tests::{Agent, Cluster, Datastore as _, TestResult};

use super::bed::{Bed, NETLINK, NETWORK, ensure_not_logged, register};
use crate::inspect::{self, Peer};
use crate::overlay::wait_logged;

#[test]
fn the_rights_in_the_manifest_suffice() -> TestResult {
    let bed = Bed::start(2, NETLINK)?;
    // Needs the right to write Events.
    let twice = Peer { base: [10, 5, 1, 0].into(), ..Peer::fictional(80) };
    register(&bed.store, "twice", &twice)?;
    wait_logged(&bed.agents[0], "WARN", &["same podCIDR"])?;
    bed.store.delete_node("twice")?;
    bed.ensure_follows()?;
    for agent in &bed.agents {
        for level in ["WARN", "ERROR"] {
            ensure_not_logged(agent, level, "forbidden")?;
        }
    }
    Ok(())
}

#[test]
fn each_missing_right_is_named_with_its_remedy() -> TestResult {
    for (verb, resource) in
        [("get", "nodes"), ("list", "nodes"), ("watch", "nodes"), ("patch", "nodes/status")]
    {
        let cluster = Cluster::segment(1)?;
        let store = cluster.kube_store()?;
        store.configure(NETWORK)?;
        store.add_node("node1", &["10.5.1.0/24"])?;
        store.allow_without(verb, resource)?;
        let mut agent = Agent::builder(&cluster.nodes()[0]).store(&store).arg(NETLINK).start()?;
        let level = if matches!(verb, "list" | "watch") { "WARN" } else { "ERROR" };
        let remedy = format!(
            r#"add to the ClusterRole of flannel: apiGroups [""], resources ["{resource}"], verbs ["{verb}"]"#
        );
        wait_logged(&agent, level, &[&remedy])?;
        agent.ensure_running()?;
    }
    Ok(())
}

#[test]
fn nodes_stay_known_while_the_api_server_refuses_to_list_them() -> TestResult {
    let bed = Bed::start(2, NETLINK)?;
    let streams = bed.streams()?;
    bed.store.deny()?;
    bed.store.forwarder().reset();
    for agent in &bed.agents {
        wait_logged(agent, "WARN", &["add to the ClusterRole of flannel"])?;
    }
    let remote = Peer::of(&bed.nodes()[1])?;
    inspect::ensure_knows(&bed.nodes()[0], &[remote])?;
    bed.store.allow()?;
    bed.ensure_follows()?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn the_token_is_never_logged() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let store = cluster.kube_store()?;
    store.configure(NETWORK)?;
    store.add_node("node1", &["10.5.1.0/24"])?;
    let mut agent = Agent::builder(&cluster.nodes()[0]).store(&store).arg(NETLINK).arg("-v=6").start()?;
    agent.wait_ready()?;
    let old = store.token()?;
    store.revoke_token()?;
    store.forwarder().reset();
    wait_logged(&agent, "WARN", &["401"])?;
    store.renew_token()?;
    wait_logged(&agent, "INFO", &["again"])?;
    let log = agent.log();
    assert!(!log.contains(&old) && !log.contains(&store.token()?), "a token is in the log");
    Ok(())
}

#[test]
fn a_renewed_token_is_read_after_the_old_one_has_become_invalid() -> TestResult {
    let bed = Bed::start(2, NETLINK)?;
    let streams = bed.streams()?;
    bed.store.revoke_token()?;
    bed.store.forwarder().reset();
    for agent in &bed.agents {
        wait_logged(agent, "WARN", &["401"])?;
    }
    bed.store.renew_token()?;
    bed.ensure_follows()?;
    streams.ensure_whole()?;
    Ok(())
}
