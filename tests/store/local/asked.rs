//! A lease that no inotify event has announced is read when a packet needs it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::time::Duration;

use flannel_tests::{Cluster, Datastore as _, TestResult, eventually};

use super::Bed;
use crate::endpoint::Figures;
use crate::inspect::{self, Peer};

/// Any subnet can be leased, the peer's too: only of such a one do the programs ask.
const NETWORK: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
/// Shorter than the interval in which the folder is read anyway (10 s).
const BEFORE_THE_NEXT_READ: Duration = Duration::from_secs(4);

#[test]
fn a_packet_to_an_unknown_subnet_makes_the_agent_read_the_folder() -> TestResult {
    let peer = Peer::fictional(70);
    let bed = Bed::start(Cluster::segment(1)?, 1, |store, _| {
        store.configure(NETWORK)?;
        fs::create_dir_all(store.subnets())?;
        store.put(&peer.name(), "yet to be written")
    })?;
    // inotify reports the change when the file is closed.
    let mut file = OpenOptions::new().append(true).open(bed.store().file(&peer.name()))?;
    file.set_len(0)?;
    file.write_all(peer.value().as_bytes())?;
    let (node, pod) = (bed.node(0), &bed.pods[0]);
    inspect::wait_plugged(node, pod)?;
    let socket = pod.netns().udp_bind(pod.ip(), 0)?;
    let remote = std::net::Ipv4Addr::from(peer.base.to_bits() + 9);
    eventually("the lease is read", BEFORE_THE_NEXT_READ, || {
        // Fails while there is no route.
        let _ = socket.send_to(b"anybody?", (remote, 9));
        inspect::ensure_knows(node, std::slice::from_ref(&peer))
    })?;
    let requests = r#"flannel_datastore_request_duration_seconds_count{result="answered"}"#;
    assert!(Figures::of(node)?.get(requests)? > 2.0, "the folder was read, and a lease written");
    let answered = Figures::of(node)?.get("flannel_misses_total{kind=\"lease\",answer=\"lease\"}")?;
    assert_eq!(answered, 1.0, "misses that were resolved");
    drop(file);
    Ok(())
}
