//! What happens to the datastore.

use std::thread;
use std::time::Duration;

use flannel_tests::etcd::PREFIX;

use crate::overlay::NETWORK;

/// Time for which it is away.
const AWAY: Duration = Duration::from_secs(2);

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
