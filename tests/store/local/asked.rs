//! A lease that nothing has told of, until a packet needs it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::time::Duration;

use flannel_tests::{Cluster, TestResult, eventually};

use super::{Bed, stranger};
use crate::endpoint::Figures;
use crate::inspect;

/// Unasked the folder is read every 10 s.
const BEFORE_THE_NEXT_LOOK: Duration = Duration::from_secs(4);

#[test]
fn a_packet_to_a_pod_without_a_lease_has_the_folder_read() -> TestResult {
    let peer = stranger(70);
    let bed = Bed::start(Cluster::segment(1)?, 1, |store, _| {
        fs::create_dir_all(store.subnets())?;
        store.put(&peer.name(), "yet to be written")
    })?;
    // inotify reports the change when the file is closed.
    let mut file = OpenOptions::new().append(true).open(bed.store().file(&peer.name()))?;
    file.set_len(0)?;
    file.write_all(peer.value().as_bytes())?;
    let (node, pod) = (bed.node(0), &bed.pods[0]);
    let socket = pod.netns().udp_bind(pod.ip(), 0)?;
    let nobodys_yet = std::net::Ipv4Addr::from(peer.base.to_bits() + 9);
    eventually("the lease is asked for", BEFORE_THE_NEXT_LOOK, || {
        // There is no way there until then.
        let _ = socket.send_to(b"anybody?", (nobodys_yet, 9));
        inspect::ensure_knows(node, std::slice::from_ref(&peer))
    })?;
    let answered = Figures::of(node)?.get("flannel_misses_total{kind=\"lease\",answer=\"lease\"}")?;
    assert_eq!(answered, 1.0, "questions that were answered");
    drop(file);
    Ok(())
}
