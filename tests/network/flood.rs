//! Floods of packets to subnets without a lease: their cost, and their effect on other traffic.

use std::net::{IpAddr, Ipv4Addr};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::Result;
use flannel_common::event;
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::{TestResult, Topology, eventually};

use crate::endpoint::{Figures, with_endpoint};
use crate::inspect;
use crate::overlay::Overlay;

const FLOOD: Duration = Duration::from_secs(4);
const SOON: Duration = Duration::from_secs(10);
/// Number of subnets, from 10.5.0.0 on, of which two have a lease.
const SUBNETS: u32 = 64;

/// Sends to addresses in subnets without a lease until `stop` returns true.
fn flood(overlay: &Overlay, stop: impl Fn() -> bool) -> Result<()> {
    let pod = &overlay.pods[0][0];
    let socket = pod.netns().udp_bind(pod.ip(), 0)?;
    let leased = [overlay.base(0)?, overlay.base(1)?].map(Ipv4Addr::to_bits);
    for n in 0.. {
        if stop() {
            break;
        }
        let subnet = u32::from_be_bytes([10, 5, 0, 0]) + (n % SUBNETS) * 256;
        if leased.contains(&subnet) {
            continue;
        }
        let unleased = Ipv4Addr::from(subnet + 1 + n / SUBNETS % 200);
        // The host answers "unreachable", which the socket may report as an error.
        let _ = socket.send_to(b"anybody?", (IpAddr::from(unleased), 9));
    }
    Ok(())
}

#[test]
fn packets_to_unleased_subnets_rarely_query_the_datastore() -> TestResult {
    let overlay = Overlay::start_with(Topology::segment(2), &["--dataplane=bpf"; 2], 1, with_endpoint)?;
    let node = &overlay.nodes()[0];
    let unleased = || inspect::packets(node, Hook::PodEgress, Outcome::Unleased);
    eventually("the pod's program is attached", SOON, || {
        flood(&overlay, || unleased().is_ok_and(|seen| seen > 0))
    })?;
    let events = || Figures::of(node)?.get("flannel_events_total{outcome=\"unleased\"}");
    let asked = || overlay.etcd.kv().served("Range");
    let (packets_before, events_before, asked_before) = (unleased()?, events()?, asked()?);
    let streams = overlay.streams()?;
    let start = Instant::now();
    flood(&overlay, || start.elapsed() >= FLOOD)?;
    streams.ensure_whole()?;
    let seconds = start.elapsed().as_secs_f64();
    let (packets, told, asked) =
        (unleased()? - packets_before, events()? - events_before, asked()? - asked_before);
    let most = (seconds + 2.0) * f64::from(event::BUDGET) * available_parallelism()?.get() as f64;
    println!("{packets} packets, {told} events, {asked} queries of etcd in {seconds:.1} s");
    assert!(told > 0.0 && told <= most, "{told} events in {seconds} s");
    assert!(packets as f64 > 10.0 * most, "{packets} packets are no flood");
    // At 0, 1, 3 and 7 s at most; the agent's periodic queries are a minute apart.
    assert!((1..=4).contains(&asked), "etcd was queried {asked} times");
    Ok(())
}
