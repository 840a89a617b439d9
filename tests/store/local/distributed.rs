//! Nodes with a folder each, whose files another program copies between them.

use std::cell::RefCell;
use std::fs;

use anyhow::{Context as _, Result};
use flannel_tests::traffic::ping;
use flannel_tests::{Cluster, Datastore as _, LocalStore, TestResult, eventually};

use super::{Bed, SOON, mode};
use crate::inspect::{self, Peer};
use crate::overlay::lines_of;

/// Copies a node's own lease to all other folders as rsync does: to a hidden name, then renamed, with mode and time.
fn copy_lease(bed: &Bed, from: usize) -> Result<()> {
    let name = bed.peer(from)?.name();
    let file = bed.stores[from].file(&name);
    let time = fs::metadata(&file)?.modified()?;
    for to in bed.stores.iter().filter(|to| to.dir() != bed.stores[from].dir()) {
        let hidden = to.file(&format!(".{name}.Xq3fZa"));
        fs::copy(&file, &hidden)?;
        fs::File::open(&hidden)?.set_modified(time)?;
        fs::rename(&hidden, to.file(&name))?;
    }
    Ok(())
}

/// Reserves a subnet for each node, as an administrator does.
fn reserve(store: &LocalStore, cluster: &Cluster) -> Result<()> {
    for (number, node) in (1..).zip(cluster.nodes()) {
        store.put(&format!("10.5.{number}.0-24"), &format!(r#"{{"PublicIP":"{}"}}"#, node.ip()))?;
    }
    Ok(())
}

/// Writes another range of subnets to each folder, since nodes that do not see each other could take the same subnet.
fn halves() -> impl Fn(&LocalStore, &Cluster) -> Result<()> {
    let halves = RefCell::new([("10.5.1.0", "10.5.31.0"), ("10.5.32.0", "10.5.63.0")].into_iter());
    move |store, _| {
        let (min, max) = halves.borrow_mut().next().context("a folder too many")?;
        store.configure(&format!(
            r#"{{"Network":"10.5.0.0/16","SubnetMin":"{min}","SubnetMax":"{max}","Backend":{{"Type":"vxlan"}}}}"#
        ))
    }
}

#[test]
fn copied_leases_join_nodes_and_copying_them_again_changes_nothing() -> TestResult {
    let bed = Bed::separate(2, halves())?;
    let lonely = ping(&bed.pods[0], bed.pods[1].ip());
    assert!(lonely.is_err(), "the nodes know each other without the other's lease");
    (0..2).try_for_each(|node| copy_lease(&bed, node))?;
    bed.ensure_known(&[])?;
    assert_eq!(mode(&bed.stores[1].file(&bed.peer(0)?.name()))?, 0o444, "a copy is a lease, too");
    let streams = bed.streams()?;
    for _ in 0..5 {
        (0..2).try_for_each(|node| copy_lease(&bed, node))?;
        // A new lease, followed after the copies, shows that the copies were read.
        let new = Peer::fictional(150);
        bed.stores.iter().try_for_each(|store| store.put_whole(&new.name(), &new.value()))?;
        bed.ensure_known(std::slice::from_ref(&new))?;
        bed.stores.iter().try_for_each(|store| store.delete(&new.name()))?;
        bed.ensure_known(&[])?;
    }
    streams.ensure_whole()?;
    for agent in &bed.agents {
        assert_eq!(lines_of(&agent.log(), "WARN"), [""; 0]);
        assert_eq!(lines_of(&agent.log(), "ERROR"), [""; 0]);
    }
    // A lease removed from one folder is gone for that node only.
    bed.stores[0].delete(&bed.peer(1)?.name())?;
    eventually("the first node forgets the second", SOON, || inspect::ensure_knows(bed.node(0), &[]))?;
    inspect::ensure_knows(bed.node(1), &[bed.peer(0)?])?;
    Ok(())
}

#[test]
fn nodes_take_the_subnets_reserved_for_them() -> TestResult {
    let bed = Bed::separate(2, reserve)?;
    for (number, node) in (1..).zip(0..2) {
        let own = bed.peer(node)?;
        assert_eq!(own.name(), format!("10.5.{number}.0-24"));
        assert_eq!(fs::read_to_string(bed.stores[node].file(&own.name()))?, own.value());
        assert_eq!(mode(&bed.stores[node].file(&own.name()))?, 0o644, "it is still a reservation");
        // The other node's reservation has no MAC yet.
        inspect::ensure_knows(bed.node(node), &[])?;
    }
    (0..2).try_for_each(|node| copy_lease(&bed, node))?;
    bed.ensure_known(&[])?;
    ping(&bed.pods[0], bed.pods[1].ip())?;
    for agent in &bed.agents {
        let warnings = lines_of(&agent.log(), "WARN");
        assert!(matches!(&warnings[..], [one] if one.contains("not used: its backend is")), "{warnings:?}");
    }
    Ok(())
}
