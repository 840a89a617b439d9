//! Aggregates and checksums: for all pairs of dataplanes, both address families, TCP and all kinds of datagrams. Offloads
//! of pods and uplinks are on or off. Every byte is checked.

use std::panic::resume_unwind;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::traffic::{Datagrams, Host, datagram_transfer, ping, tcp_transfer};
use flannel_tests::{NetNs, TestResult, Topology, eventually};

use super::flow_cache::SOON;
use crate::inspect::{self, UPLINK};
use crate::overlay::Overlay;

const NETWORK: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.63.0","EnableIPv6":true,
    "IPv6Network":"fd44::/48","IPv6SubnetMax":"fd44:0:0:fff::","Backend":{"Type":"vxlan"}}"#;
const DATAPLANES: [&str; 4] =
    ["--dataplane=bpf", "--dataplane=bpf", "--dataplane=netlink", "--dataplane=netlink"];
/// BPF to BPF and kernel to kernel at the same time, then BPF to kernel and kernel to BPF.
const ROUNDS: [[(usize, usize); 2]; 2] = [[(0, 1), (2, 3)], [(0, 2), (3, 1)]];

const BULK: usize = 4 << 20;
const BURSTS: u64 = 20;
/// The pods' MTU.
const MTU: usize = 1430;
/// Payload of a UDP datagram over IPv6 that fills a packet.
const LARGEST: usize = MTU - 48;

const ON: &str = "tx on tso on gso on gro off";
const GRO: &str = "tx on tso on gso on gro on";
const OFF: &str = "tx off tso off gso off gro off";

/// Offloads for both ends of the pods' and the uplinks' veths, with ethtool's names.
struct Offloads {
    pods: &'static str,
    uplinks: &'static str,
}

impl Offloads {
    fn apply(&self, overlay: &Overlay) -> Result<()> {
        let set = |netns: &NetNs, interface: &str, offloads| {
            netns.exec(&format!("ethtool -K {interface} {offloads}")).map(drop)
        };
        let fabric = overlay.cluster.fabric().context("no fabric")?;
        for (number, (node, pods)) in overlay.nodes().iter().zip(&overlay.pods).enumerate() {
            set(node.netns(), UPLINK, self.uplinks)?;
            set(fabric, &format!("n{number}"), self.uplinks)?;
            for pod in pods {
                set(node.netns(), pod.port(), self.pods)?;
                set(pod.netns(), "eth0", self.pods)?;
            }
        }
        Ok(())
    }

    /// Returns whether pods, and whether uplinks, send aggregates.
    fn aggregate(&self) -> [bool; 2] {
        [self.pods != OFF, self.pods != OFF && self.uplinks != OFF]
    }
}

fn overlay() -> Result<Overlay> {
    let overlay = Overlay::start_in(NETWORK, Topology::segment(4), &DATAPLANES, 1, |agent| agent)?;
    for (node, pods) in overlay.nodes().iter().zip(&overlay.pods).take(2) {
        inspect::wait_plugged(node, &pods[0])?;
    }
    for (from, to) in ROUNDS.into_iter().flatten() {
        let [from, to] = [from, to].map(|node| overlay.pods[node][0].v6());
        let (from, to) = (from?, to?);
        eventually("pods reach each other over IPv6", SOON, || ping(&from, to.ip).map(drop))?;
    }
    Ok(overlay)
}

/// Returns how many packets an interface has sent.
fn sent(netns: &NetNs, interface: &str) -> Result<u64> {
    let links = netns.exec_json(&format!("ip -j -s link show dev {interface}"))?;
    links[0]["stats64"]["tx"]["packets"].as_u64().context("no counter")
}

/// Sends from one node's pod to another's, in both families.
fn pass(overlay: &Overlay, (from, to): (usize, usize), offloads: &Offloads) -> Result<()> {
    let (node, pod, remote) = (&overlay.nodes()[from], &overlay.pods[from][0], &overlay.pods[to][0]);
    let v6 = [pod.v6()?, remote.v6()?];
    let ends: [[&dyn Host; 2]; 2] = [[pod, remote], [&v6[0], &v6[1]]];
    for [from, to] in ends {
        let counters = || Ok::<_, anyhow::Error>([sent(pod.netns(), "eth0")?, sent(node.netns(), UPLINK)?]);
        let before = counters()?;
        let segments = send_aggregates(from, to)?;
        for ((before, after), aggregate) in before.into_iter().zip(counters()?).zip(offloads.aggregate()) {
            let packets = after - before;
            let as_wanted = if aggregate { packets * 2 < segments } else { packets >= segments };
            ensure!(as_wanted, "{packets} packets for {segments} segments from {}; {aggregate}", from.ip());
        }
        for made in [Datagrams::Single, Datagrams::Lite] {
            if !made.are_supported() {
                eprintln!("this kernel has no UDP-Lite: not tested");
                continue;
            }
            datagram_transfer(from, to, made, LARGEST, BURSTS)?;
            datagram_transfer(from, to, made, 333, 1)?;
        }
    }
    Ok(())
}

/// Sends TCP and segmented datagrams. Returns the minimum number of their segments.
fn send_aggregates(from: &dyn Host, to: &dyn Host) -> Result<u64> {
    tcp_transfer(from, to, BULK)?.ensure_few_lost()?;
    let mut segments = (BULK / MTU) as u64;
    for size in [LARGEST, LARGEST - 1, 777] {
        let datagrams = datagram_transfer(from, to, Datagrams::Segmented, size, BURSTS / 2)?;
        if datagrams == 0 {
            eprintln!("this kernel segments no datagrams without checksum offload: not tested");
        }
        segments += datagrams;
    }
    Ok(segments)
}

fn check(offloads: &Offloads) -> TestResult {
    let overlay = overlay()?;
    offloads.apply(&overlay)?;
    for round in ROUNDS {
        thread::scope(|scope| {
            let passes = round.map(|pair| {
                let overlay = &overlay;
                (pair, scope.spawn(move || pass(overlay, pair, offloads)))
            });
            for ((from, to), pass) in passes {
                let passed = pass.join().unwrap_or_else(|panic| resume_unwind(panic));
                passed.with_context(|| format!("{} to {}", DATAPLANES[from], DATAPLANES[to]))?;
            }
            Ok::<_, anyhow::Error>(())
        })?;
    }
    Ok(())
}

#[test]
fn aggregates_arrive_unchanged() -> TestResult {
    check(&Offloads { pods: ON, uplinks: ON })
}

#[test]
fn aggregates_of_gro_arrive_unchanged() -> TestResult {
    check(&Offloads { pods: GRO, uplinks: GRO })
}

#[test]
fn aggregates_are_segmented_at_an_uplink_without_offloads() -> TestResult {
    check(&Offloads { pods: ON, uplinks: OFF })
}

#[test]
fn pods_without_offloads_send_complete_packets() -> TestResult {
    check(&Offloads { pods: OFF, uplinks: ON })
}

#[test]
fn traffic_passes_without_any_offload() -> TestResult {
    check(&Offloads { pods: OFF, uplinks: OFF })
}
