//! Traffic to a pod of another node, in every mode of kube-proxy: it is right, and it takes the shortcut.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::kube_proxy::{Mode, Service};
use flannel_tests::traffic::{Answer, Connection, Responder, UdpAsker};
use flannel_tests::{Host, Node, TestResult};

use super::{Bed, Family, SIZES, ensure_by, serve};
use crate::inspect::{self, Round};

/// Time limit for a flow to be proven.
pub(super) const SOON: Duration = Duration::from_secs(5);
/// Bytes of a long request over TCP, and of its answer.
const BULK: usize = 4 << 20;

/// Returns how many packets a node has sent and received past its host stack, in both families, aggregates included.
pub(in crate::network) fn past_stack(node: &Node) -> Result<(u64, u64)> {
    let count = |hook, outcome| inspect::packets(node, hook, outcome);
    Ok((
        count(Hook::PodEgress, Outcome::Encapsulated)? + count(Hook::PodEgress, Outcome::Forwarded)?,
        count(Hook::UnderlayIngress, Outcome::Delivered)? + count(Hook::OverlayIngress, Outcome::Delivered)?,
    ))
}

/// Waits until nearly all exchanges of a round take the shortcut on a node, in both directions. An exchange that fails ends
/// the waiting.
pub(super) fn ensure_shortcut(node: &Node, exchange: impl FnMut() -> Result<()>) -> Result<()> {
    // A packet a second renews the proof.
    let round = Round { exchanges: 20, least: 15, within: SOON };
    inspect::ensure_shortcut(round, || past_stack(node), exchange)
}

/// A client's and a server's side of a service.
struct Flow<'a> {
    node: &'a Node,
    client: flannel_tests::traffic::At<'a>,
    server: &'a Responder,
    service: std::net::SocketAddr,
    masqueraded: bool,
}

impl Flow<'_> {
    /// Fails unless the server has answered, and has seen the pod's address or, if that is translated, another one.
    fn ensure_right(&self, answer: Answer) -> Result<()> {
        ensure_by(answer, self.server)?;
        let pod_seen = answer.client.ip() == self.client.ip();
        ensure!(pod_seen != self.masqueraded, "{} asks, says the server", answer.client);
        Ok(())
    }

    fn udp(&self) -> Result<()> {
        let mut asker = UdpAsker::open(&self.client, 0)?;
        let mut ask = |size| self.ensure_right(asker.ask(self.service, size)?);
        SIZES.into_iter().try_for_each(&mut ask)?;
        ensure_shortcut(self.node, || ask(100))?;
        SIZES.into_iter().try_for_each(&mut ask)
    }

    fn tcp(&self) -> Result<()> {
        let mut connection = Connection::open(&self.client, 0, self.service)?;
        let mut ask = |size| self.ensure_right(connection.ask(size)?);
        SIZES.into_iter().try_for_each(&mut ask)?;
        ensure_shortcut(self.node, || ask(100))?;
        SIZES.into_iter().chain([BULK]).try_for_each(&mut ask)?;
        connection.end_by_server()
    }
}

fn ensure_right_in(mode: Mode) -> TestResult {
    let bed = Bed::new(2)?;
    let node = &bed.overlay.nodes()[0];
    let servers = Family::BOTH.map(|family| serve(&bed.pod(1, family)).unwrap());
    for masqueraded in [false, true] {
        let proxies = bed.kube_proxies(mode, masqueraded)?;
        let services: Vec<_> = Family::BOTH
            .into_iter()
            .zip(&servers)
            .flat_map(|(family, server)| {
                Service::both(&format!("web-{family:?}"), family.service(10), &[server.address()])
            })
            .collect();
        proxies.sync(&services)?;
        for (family, server) in Family::BOTH.into_iter().zip(&servers) {
            let (client, service) = (bed.pod(0, family), family.service(10));
            let flow = Flow { node, client, server, service, masqueraded };
            let what = |protocol| format!("{protocol} over {family:?}, masqueraded: {masqueraded}");
            flow.udp().with_context(|| what("UDP"))?;
            flow.tcp().with_context(|| what("TCP"))?;
        }
        proxies.remove()?;
    }
    Ok(())
}

#[test]
fn in_iptables_mode() -> TestResult {
    ensure_right_in(Mode::Iptables)
}

#[test]
fn in_iptables_mode_with_legacy_iptables() -> TestResult {
    ensure_right_in(Mode::LegacyIptables)
}

#[test]
#[ignore = "needs the kernel module ip_vs, which `cargo xtask vm` has"]
fn in_ipvs_mode() -> TestResult {
    ensure_right_in(Mode::Ipvs)
}

#[test]
fn in_nftables_mode() -> TestResult {
    ensure_right_in(Mode::Nftables)
}
