//! Source ports that are used again: toward several services, and after a connection has ended.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use flannel_tests::TestResult;
use flannel_tests::kube_proxy::{Mode, Service};
use flannel_tests::traffic::{At, Connection, Responder, UdpAsker};

use super::shortcut::ensure_shortcut;
use super::{Bed, Family, ensure_by, serve};

const REQUESTS: usize = 40;
/// Connections from one port, one after the other.
const CONNECTIONS: usize = 10;

/// Services with the servers behind them: two services have the same server.
type Served<'a> = [(SocketAddr, &'a Responder); 3];

/// Asks all services by turns from one port, over UDP, and over TCP with a connection to each.
fn at_once(client: &At<'_>, served: &Served<'_>) -> Result<()> {
    let mut asker = UdpAsker::open(client, 0)?;
    let mut connections = Vec::new();
    let mut port = 0;
    for (service, _) in served {
        let connection = Connection::open(client, port, *service)?;
        port = connection.port()?;
        connections.push(connection);
    }
    for _ in 0..REQUESTS {
        for ((service, server), connection) in served.iter().zip(&mut connections) {
            ensure_by(asker.ask(*service, 100)?, server)?;
            ensure_by(connection.ask(100)?, server)?;
        }
    }
    Ok(())
}

/// Asks one service, then another: with the first flow still known as one that takes the shortcut.
fn one_after_the_other(bed: &Bed, client: &At<'_>, served: &Served<'_>) -> Result<()> {
    let node = &bed.overlay.nodes()[0];
    let mut asker = UdpAsker::open(client, 0)?;
    for (service, server) in served {
        ensure_shortcut(node, || ensure_by(asker.ask(*service, 100)?, server))?;
    }
    let mut port = 0;
    for (service, server) in served.iter().cycle().take(CONNECTIONS) {
        let mut connection = Connection::open(client, port, *service)?;
        port = connection.port()?;
        (0..REQUESTS).try_for_each(|_| ensure_by(connection.ask(100)?, server))?;
        connection.end_by_server()?;
    }
    Ok(())
}

/// Connects to one service again and again from one port. The server's end is in TIME_WAIT, and conntrack's entry.
fn again(bed: &Bed, client: &At<'_>, (service, server): (SocketAddr, &Responder)) -> Result<()> {
    let mut port = 0;
    for number in 0..CONNECTIONS {
        let mut connection = Connection::open(client, port, service)?;
        port = connection.port()?;
        let mut ask = || ensure_by(connection.ask(100)?, server);
        ensure_shortcut(&bed.overlay.nodes()[0], &mut ask).with_context(|| format!("connection {number}"))?;
        connection.end_by_server()?;
    }
    Ok(())
}

#[test]
fn a_port_is_used_for_several_services_and_several_times() -> TestResult {
    let bed = Bed::new(3)?;
    let proxies = bed.kube_proxies(Mode::Iptables, false)?;
    for family in Family::BOTH {
        let client = bed.pod(0, family);
        let servers = [serve(&bed.pod(1, family))?, serve(&bed.pod(2, family))?];
        let services = [1, 2, 3].map(|number| family.service(number));
        let served = [(services[0], &servers[0]), (services[1], &servers[1]), (services[2], &servers[0])];
        let rules = served.iter().enumerate().flat_map(|(number, (service, server))| {
            Service::both(&format!("web-{number}"), *service, &[server.address()])
        });
        proxies.sync(&rules.collect::<Vec<_>>())?;
        at_once(&client, &served).with_context(|| format!("{family:?}, at once"))?;
        one_after_the_other(&bed, &client, &served)
            .with_context(|| format!("{family:?}, one after the other"))?;
        again(&bed, &client, served[0]).with_context(|| format!("{family:?}, one service again"))?;
    }
    Ok(())
}
