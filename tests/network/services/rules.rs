//! Rules of others on the way of a service's traffic.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::kube_proxy::{Mode, Service};
use flannel_tests::traffic::{At, Responder, UdpAsker};
use flannel_tests::wait::scaled;
use flannel_tests::{Capture, Node, TestResult, eventually};

use super::shortcut::{ensure_shortcut, past_stack};
use super::{Bed, Family, Proxies, ensure_by, serve};

/// Longest time until a rule takes effect.
const FOLLOWS: Duration = Duration::from_secs(2);
const REQUESTS: usize = 100;

/// A client, a server of another node behind a service, and the client's node.
struct Path<'a> {
    node: &'a Node,
    client: At<'a>,
    pod: At<'a>,
    server: Responder,
    service: SocketAddr,
}

impl<'a> Path<'a> {
    fn new(bed: &'a Bed, proxies: &Proxies<'_>, family: Family) -> Result<Self> {
        let (client, pod, service) = (bed.pod(0, family), bed.pod(1, family), family.service(10));
        let server = serve(&pod)?;
        proxies.sync(&Service::both("web", service, &[server.address()]))?;
        Ok(Self { node: &bed.overlay.nodes()[0], client, pod, server, service })
    }

    fn ask(&self, asker: &mut UdpAsker) -> Result<()> {
        ensure_by(asker.ask(self.service, 100)?, &self.server)
    }

    fn iptables(&self, line: &str) -> Result<()> {
        let program = if self.service.is_ipv4() { "iptables" } else { "ip6tables" };
        self.node.exec(&format!("{program} -w {line}")).map(drop)
    }

    /// Fails unless all requests of a round arrive with DSCP 46.
    fn ensure_expedited(&self, asker: &mut UdpAsker) -> Result<()> {
        let capture = Capture::start(self.pod.netns, "eth0")?;
        (0..REQUESTS).try_for_each(|_| self.ask(asker))?;
        let to = self.pod.ip;
        let (filter, field) = match self.service {
            SocketAddr::V4(_) => (format!("udp && ip.dst == {to}"), "ip.dsfield"),
            SocketAddr::V6(_) => (format!("udp && ipv6.dst == {to}"), "ipv6.tclass"),
        };
        let packets = capture.stop()?.fields(&filter, &[field])?;
        let is_marked = |packet: &&Vec<String>| {
            u32::from_str_radix(packet[0].trim_start_matches("0x"), 16) == Ok(46 << 2)
        };
        let marked = packets.iter().filter(is_marked).count();
        ensure!(marked == REQUESTS && packets.len() == REQUESTS, "{marked} of {} are marked", packets.len());
        Ok(())
    }
}

#[test]
fn what_a_rule_writes_into_packets_is_in_every_packet() -> TestResult {
    let bed = Bed::new(2)?;
    let proxies = bed.kube_proxies(Mode::Iptables, false)?;
    for family in Family::BOTH {
        let path = Path::new(&bed, &proxies, family)?;
        // By the service's address, before it is translated, and by the server's.
        let rules = [
            format!("PREROUTING -p udp -d {} -j DSCP --set-dscp 46", path.service.ip()),
            format!("POSTROUTING -p udp -d {} -j DSCP --set-dscp 46", path.pod.ip),
        ];
        for rule in rules {
            path.iptables(&format!("-t mangle -A {rule}"))?;
            let before = past_stack(path.node)?;
            path.ensure_expedited(&mut UdpAsker::open(&path.client, 0)?).with_context(|| rule.clone())?;
            let sent = past_stack(path.node)?.0 - before.0;
            assert_eq!(sent, 0, "{rule}: packets that were sent past the rule");
            path.iptables(&format!("-t mangle -D {rule}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_rule_that_comes_later_drops_the_flow_and_its_removal_brings_it_back() -> TestResult {
    let bed = Bed::new(2)?;
    let proxies = bed.kube_proxies(Mode::Iptables, false)?;
    for family in Family::BOTH {
        let path = Path::new(&bed, &proxies, family)?;
        let rules = [
            format!("-t raw {{}} PREROUTING -d {} -j DROP", path.service.ip()),
            format!("{{}} FORWARD -m conntrack --ctorigdst {} -j DROP", path.service.ip()),
            format!("{{}} FORWARD -p udp -s {} -j DROP", path.pod.ip),
        ];
        for rule in rules {
            let mut asker = UdpAsker::open(&path.client, 0)?;
            ensure_shortcut(path.node, || path.ask(&mut asker))?;
            path.iptables(&rule.replace("{}", "-I"))?;
            let start = Instant::now();
            while path.ask(&mut asker).is_ok() {
                assert!(start.elapsed() < scaled(FOLLOWS), "{rule}: answers after {:?}", start.elapsed());
            }
            assert!(path.ask(&mut asker).is_err(), "{rule}: the flow is back");
            path.iptables(&rule.replace("{}", "-D"))?;
            eventually("the flow is back", FOLLOWS, || path.ask(&mut asker)).with_context(|| rule.clone())?;
            ensure_shortcut(path.node, || path.ask(&mut asker)).with_context(|| rule.clone())?;
        }
    }
    Ok(())
}
