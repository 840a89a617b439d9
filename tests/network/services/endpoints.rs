//! Endpoints that come and go: datagrams of an old flow follow as soon as those of a new one, but for what a proof holds.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::kube_proxy::{Mode, Service};
use flannel_tests::traffic::{Connection, Responder, UdpAsker};
use flannel_tests::wait::scaled;
use flannel_tests::{TestResult, eventually};

use super::shortcut::ensure_shortcut;
use super::{Bed, Family, Proxies, ensure_by, serve};

/// Longest time until a flow follows a change.
const FOLLOWS: Duration = Duration::from_secs(2);

/// A service with a client on the first node, and a server on each of the others.
struct Change<'a> {
    bed: &'a Bed,
    proxies: Proxies<'a>,
    family: Family,
    servers: [Responder; 2],
}

impl<'a> Change<'a> {
    fn new(bed: &'a Bed, mode: Mode, family: Family) -> Result<Self> {
        let proxies = bed.kube_proxies(mode, false)?;
        let servers = [serve(&bed.pod(1, family))?, serve(&bed.pod(2, family))?];
        Ok(Self { bed, proxies, family, servers })
    }

    fn service(&self) -> SocketAddr {
        self.family.service(10)
    }

    /// Writes the service with these of the servers.
    fn services(&self, servers: &[&Responder]) -> Vec<Service> {
        let endpoints: Vec<_> = servers.iter().map(|server| server.address()).collect();
        Service::both("web", self.service(), &endpoints).into()
    }

    /// Lets a flow of datagrams, which takes the shortcut, lose its endpoint to another one.
    fn replace(&self, asker: &mut UdpAsker) -> Result<()> {
        let [old, new] = &self.servers;
        self.proxies.sync(&self.services(&[old]))?;
        ensure_shortcut(&self.bed.overlay.nodes()[0], || ensure_by(asker.ask(self.service(), 100)?, old))?;
        self.proxies.sync_without(&self.services(&[new]), old.address())?;
        let start = Instant::now();
        // Each request is answered: the old server still runs.
        while asker.ask(self.service(), 100)?.server != new.address() {
            ensure!(
                start.elapsed() < scaled(FOLLOWS),
                "it goes to the old server after {:?}",
                start.elapsed()
            );
        }
        ensure_shortcut(&self.bed.overlay.nodes()[0], || ensure_by(asker.ask(self.service(), 100)?, new))
    }

    /// Takes the last endpoint away and brings it back.
    fn interrupt(&self, asker: &mut UdpAsker) -> Result<()> {
        let server = &self.servers[1];
        self.proxies.sync_without(&self.services(&[]), server.address())?;
        let start = Instant::now();
        while asker.ask(self.service(), 100).is_ok() {
            ensure!(start.elapsed() < scaled(FOLLOWS), "it is answered after {:?}", start.elapsed());
        }
        ensure!(asker.ask(self.service(), 100).is_err(), "it is answered again, without an endpoint");
        self.proxies.sync(&self.services(&[server]))?;
        eventually("it is answered", FOLLOWS, || ensure_by(asker.ask(self.service(), 100)?, server))
    }

    /// Takes the endpoint of a connection away: the connection goes on, and a new one goes elsewhere.
    fn keep_connection(&self) -> Result<()> {
        let [old, new] = &self.servers;
        self.proxies.sync(&self.services(&[old]))?;
        let client = self.bed.pod(0, self.family);
        let mut connection = Connection::open(&client, 0, self.service())?;
        let mut ask = || ensure_by(connection.ask(100)?, old);
        ensure_shortcut(&self.bed.overlay.nodes()[0], &mut ask)?;
        self.proxies.sync_without(&self.services(&[new]), old.address())?;
        let start = Instant::now();
        while start.elapsed() < FOLLOWS {
            ask()?;
        }
        ensure_by(Connection::open(&client, 0, self.service())?.ask(100)?, new)
    }
}

fn ensure_followed_in(mode: Mode, families: &[Family]) -> TestResult {
    let bed = Bed::new(3)?;
    for family in families.iter().copied() {
        let change = Change::new(&bed, mode, family)?;
        let mut asker = UdpAsker::open(&bed.pod(0, family), 0)?;
        change.replace(&mut asker).with_context(|| format!("{family:?}, another endpoint"))?;
        change.interrupt(&mut asker).with_context(|| format!("{family:?}, no endpoint"))?;
        change.keep_connection().with_context(|| format!("{family:?}, a connection"))?;
        change.proxies.remove()?;
    }
    Ok(())
}

#[test]
fn in_iptables_mode() -> TestResult {
    ensure_followed_in(Mode::Iptables, &Family::BOTH)
}

#[test]
#[ignore = "needs the kernel module ip_vs, which `cargo xtask vm` has"]
fn in_ipvs_mode() -> TestResult {
    let bed = Bed::new(3)?;
    let change = Change::new(&bed, Mode::Ipvs, Family::V4)?;
    change.replace(&mut UdpAsker::open(&bed.pod(0, Family::V4), 0)?).map_err(Into::into)
}

#[test]
fn in_nftables_mode() -> TestResult {
    ensure_followed_in(Mode::Nftables, &[Family::V4])
}
