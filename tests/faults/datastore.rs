//! What happens to the datastore.

use std::thread;
use std::time::Duration;

use flannel_tests::TestResult;
use flannel_tests::etcd::PREFIX;

use super::Bound::{Moment, Nothing};
use super::endure;

/// Time for which it is away.
const AWAY: Duration = Duration::from_secs(2);

#[test]
fn killed() -> TestResult {
    endure("etcd killed and started again after 2 s", Nothing, |overlay| {
        overlay.etcd.kill()?;
        thread::sleep(AWAY);
        overlay.etcd.restart()
    })
}

#[test]
fn hanging() -> TestResult {
    endure("etcd hangs for 2 s", Nothing, |overlay| {
        overlay.etcd.stop()?;
        thread::sleep(AWAY);
        overlay.etcd.cont()
    })
}

#[test]
fn hanging_at_a_restart() -> TestResult {
    endure("etcd hangs for 2 s, and the agent restarts", Nothing, |overlay| {
        overlay.etcd.stop()?;
        overlay.agents[0].restart()?;
        thread::sleep(AWAY);
        overlay.etcd.cont()
    })
}

#[test]
fn wiped() -> TestResult {
    endure("all leases deleted", Nothing, |overlay| {
        overlay.etcd.kv().delete_prefix(&format!("{PREFIX}/subnets/")).map(drop)
    })
}

#[test]
fn own_lease_deleted() -> TestResult {
    // The peer removes its route at once, until the lease is back.
    endure("own lease deleted", Moment, |overlay| {
        let key = overlay.peer(0)?.key();
        overlay.etcd.delete(&key)
    })
}

#[test]
fn started_empty() -> TestResult {
    endure("etcd replaced by an empty one, and configured again after 2 s", Nothing, |overlay| {
        overlay.etcd.restart_empty()?;
        thread::sleep(AWAY);
        overlay.etcd.configure(crate::overlay::NETWORK)
    })
}
