//! What happens to the datastore.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use flannel_tests::etcd::PREFIX;

use super::{AWAY, on};
use crate::inspect::{DEVICE, Peer};
use crate::overlay::{NETWORK, Overlay};

/// How late a slow datastore answers, and for how long it answers in between.
const LATE: Duration = Duration::from_millis(900);
const AWAKE: Duration = Duration::from_millis(50);

/// Lets nothing reach etcd, by this target of iptables, while something happens and for some time after.
fn partition(overlay: &Overlay, target: &str, meanwhile: impl FnOnce(&Overlay) -> Result<()>) -> Result<()> {
    let rule = format!("INPUT -p tcp --dport 2379 -j {target}");
    let mgmt = overlay.cluster.mgmt();
    mgmt.exec(&format!("iptables -w -I {rule}"))?;
    let happened = meanwhile(overlay);
    thread::sleep(AWAY);
    mgmt.exec(&format!("iptables -w -D {rule}"))?;
    happened
}

/// Lets etcd refuse all writes, as one whose disk is full, while something happens and for some time after.
fn fill(overlay: &mut Overlay, meanwhile: impl FnOnce(&Overlay) -> Result<()>) -> Result<()> {
    overlay.etcd.fill()?;
    let happened = meanwhile(overlay);
    thread::sleep(AWAY);
    overlay.etcd.make_room()?;
    happened
}

faults! {
    killed: "etcd killed and started again after 2 s", Nothing, |overlay, _| {
        overlay.etcd.kill()?;
        thread::sleep(AWAY);
        overlay.etcd.restart()
    };

    hanging: "etcd hangs for 2 s", Nothing, |overlay, _| {
        overlay.etcd.stop()?;
        thread::sleep(AWAY);
        overlay.etcd.cont()
    };

    hanging_at_a_restart: "etcd hangs for 2 s, and the agent restarts", Nothing, |overlay, node| {
        overlay.etcd.stop()?;
        overlay.agents[node].restart()?;
        thread::sleep(AWAY);
        overlay.etcd.cont()
    };

    slow: "etcd answers a second late for 4 s", Nothing, |overlay, _| {
        let start = Instant::now();
        while start.elapsed() < 2 * AWAY {
            overlay.etcd.stop()?;
            thread::sleep(LATE);
            overlay.etcd.cont()?;
            thread::sleep(AWAKE);
        }
        Ok(())
    };

    partitioned: "etcd out of reach for 2 s, packets dropped", Nothing, |overlay, _| {
        partition(overlay, "DROP", |_| Ok(()))
    };

    refused: "etcd out of reach for 2 s, connections refused", Nothing, |overlay, _| {
        partition(overlay, "REJECT --reject-with tcp-reset", |_| Ok(()))
    };

    partitioned_and_damaged: "etcd out of reach for 2 s, and routes to peers removed", Second, |overlay, node| {
        partition(overlay, "DROP", |overlay| on(overlay, node, &format!("ip route flush dev {DEVICE}")))
    };

    compacted: "etcd's history compacted while it hangs up on its clients", Nothing, |overlay, _| {
        overlay.etcd.kill()?;
        overlay.etcd.restart()?;
        let peer = Peer::fictional(92);
        overlay.etcd.put(&peer.key(), &peer.value())?;
        overlay.etcd.delete(&peer.key())?;
        overlay.etcd.compact()
    };

    full: "etcd full for 2 s", Nothing, |overlay, _| fill(overlay, |_| Ok(()));

    full_and_damaged: "etcd full for 2 s, and routes to peers removed", Second, |overlay, node| {
        fill(overlay, |overlay| on(overlay, node, &format!("ip route flush dev {DEVICE}")))
    };

    wiped: "all leases deleted", Nothing, |overlay, _| {
        overlay.etcd.kv().delete_prefix(&format!("{PREFIX}/subnets/")).map(drop)
    };

    // Peers remove the route at once, until the lease is back.
    own_lease_deleted: "own lease deleted", Moment, |overlay, node| {
        let key = overlay.peer(node)?.key();
        overlay.etcd.delete(&key)
    };

    started_empty: "etcd replaced by an empty one, and configured again after 2 s", Nothing, |overlay, _| {
        overlay.etcd.restart_empty()?;
        thread::sleep(AWAY);
        overlay.etcd.configure(NETWORK)
    };
}
