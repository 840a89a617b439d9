//! Checksums of translated packets: complete, left to the card, or none. Receivers verify them.

use std::mem::size_of;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::kube_proxy::{Mode, Service};
use flannel_tests::traffic::{At, Connection, Responder, UdpAsker};
use flannel_tests::{Capture, Host, NetNs, TestResult};

use super::shortcut::ensure_shortcut;
use super::{Bed, Family, SIZES, ensure_by, serve};
use crate::inspect::UPLINK;

/// Bytes of a long request over TCP, and of its answer: aggregates in both directions.
const BULK: usize = 2 << 20;
/// Datagrams without a checksum.
const BARE: usize = 50;
/// Counters of /proc/net/snmp and snmp6 that count wrong checksums.
const ERRORS: &str = "InCsumErrors";

/// Asks over UDP and TCP, through the stack and past it.
fn traffic(bed: &Bed, client: &At<'_>, server: &Responder, service: SocketAddr) -> Result<()> {
    let node = &bed.overlay.nodes()[0];
    let mut asker = UdpAsker::open(client, 0)?;
    ensure_shortcut(node, || ensure_by(asker.ask(service, 100)?, server))?;
    SIZES.into_iter().try_for_each(|size| ensure_by(asker.ask(service, size)?, server))?;
    let mut connection = Connection::open(client, 0, service)?;
    ensure_shortcut(node, || ensure_by(connection.ask(100)?, server))?;
    ensure_by(connection.ask(BULK)?, server)
}

/// Returns the numbers of packets with wrong checksums that a pod has received, of all protocols and families.
fn wrong_checksums(pod: &At<'_>) -> Result<u64> {
    let snmp = pod.netns.exec("cat /proc/net/snmp")?;
    let lines: Vec<_> = snmp.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    let pairs = lines.chunks_exact(2).flat_map(|pair| pair[0].iter().zip(&pair[1]));
    let v4 = pairs.filter(|(name, _)| **name == ERRORS).map(|(_, count)| count.parse::<u64>());
    let snmp6 = pod.netns.exec("cat /proc/net/snmp6")?;
    let v6 = snmp6.lines().filter_map(|line| line.split_once(ERRORS)).map(|(_, count)| count.trim().parse());
    let counts = v4.chain(v6).collect::<Result<Vec<_>, _>>()?;
    ensure!(counts.len() >= 4, "{} counters of wrong checksums", counts.len());
    Ok(counts.iter().sum())
}

#[test]
fn whatever_computes_them_they_are_right() -> TestResult {
    let bed = Bed::new(2)?;
    let proxies = bed.kube_proxies(Mode::Iptables, false)?;
    let servers = Family::BOTH.map(|family| serve(&bed.pod(1, family)).unwrap());
    let services = Family::BOTH.into_iter().zip(&servers).flat_map(|(family, server)| {
        Service::both(&format!("web-{family:?}"), family.service(10), &[server.address()])
    });
    proxies.sync(&services.collect::<Vec<_>>())?;
    let pods: Vec<_> = bed.overlay.pods.iter().flatten().collect();
    let mut settings: Vec<(&NetNs, _, _)> = vec![(pods[0].netns(), "eth0", "tx on")];
    // One after the other is added: at the pods, then at the uplinks, which complete what the pods leave to them.
    for features in ["gro on", "tx off", "tso off gso off gro off rx off"] {
        settings.extend(pods.iter().map(|pod| (pod.netns(), "eth0", features)));
    }
    settings.extend(pods.iter().map(|pod| (pod.netns(), "eth0", "rx on tx on tso on gso on")));
    settings.extend(bed.overlay.nodes().iter().map(|node| (&**node.netns(), UPLINK, "tx off")));
    for (netns, interface, features) in settings {
        netns.exec(&format!("ethtool -K {interface} {features}"))?;
        for (family, server) in Family::BOTH.into_iter().zip(&servers) {
            traffic(&bed, &bed.pod(0, family), server, family.service(10))
                .with_context(|| format!("{family:?}, {features} at {interface} of {}", netns.name()))?;
        }
    }
    for node in [0, 1] {
        assert_eq!(wrong_checksums(&bed.pod(node, Family::V4))?, 0, "wrong checksums at pod {node}");
    }
    Ok(())
}

/// Makes a socket send datagrams without checksums.
fn without_checksums(asker: &UdpAsker) -> Result<()> {
    let (on, length) = (1i32, size_of::<i32>() as u32);
    let socket = asker.socket().as_raw_fd();
    // SAFETY: the kernel reads an integer of this length, which lives through the call.
    let set = unsafe {
        libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, (&raw const on).cast(), length)
    };
    ensure!(set == 0, "switch checksums off: {}", std::io::Error::last_os_error());
    Ok(())
}

#[test]
fn a_datagram_without_a_checksum_stays_without() -> TestResult {
    let bed = Bed::new(2)?;
    let proxies = bed.kube_proxies(Mode::Iptables, false)?;
    let (client, pod) = (bed.pod(0, Family::V4), bed.pod(1, Family::V4));
    let (server, service) = (serve(&pod)?, Family::V4.service(10));
    proxies.sync(&Service::both("web", service, &[server.address()]))?;
    let mut asker = UdpAsker::open(&client, 0)?;
    without_checksums(&asker)?;
    ensure_shortcut(&bed.overlay.nodes()[0], || ensure_by(asker.ask(service, 100)?, &server))?;
    let capture = Capture::start(pod.netns, "eth0")?;
    (0..BARE).try_for_each(|size| ensure_by(asker.ask(service, size)?, &server))?;
    let packets = capture.stop()?.fields(&format!("udp && ip.dst == {}", pod.ip()), &["udp.checksum"])?;
    assert_eq!(packets, vec![vec!["0x0000".to_owned()]; BARE]);
    Ok(())
}
