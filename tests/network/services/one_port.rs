//! A client that talks from one port to a service and to the address of the server behind it. To the server's node both
//! would be one flow; the client's node gives one of them another source port.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use flannel_tests::kube_proxy::{Mode, Service};
use flannel_tests::traffic::{At, Connection, Responder, UdpAsker};
use flannel_tests::{Node, TestResult};

use super::{Bed, Family, ensure_by, serve};

/// Requests to each of the two addresses.
const REQUESTS: usize = 40;

/// Asks two addresses in this order. Returns what was wrong.
fn ask_in_turn(
    addresses: impl IntoIterator<Item = SocketAddr>,
    mut ask: impl FnMut(SocketAddr) -> Result<()>,
) -> Vec<String> {
    let failed = addresses.into_iter().map(|to| ask(to).map_err(|error| format!("{error:#}")));
    failed.filter_map(Result::err).collect()
}

/// Returns two addresses by turns, and one after the other.
fn orders([one, other]: [SocketAddr; 2]) -> [Vec<SocketAddr>; 2] {
    let by_turns = [one, other].into_iter().cycle().take(2 * REQUESTS).collect();
    let first = std::iter::repeat_n(one, REQUESTS);
    [by_turns, first.chain(std::iter::repeat_n(other, REQUESTS)).collect()]
}

fn ensure_none(wrong: &[String], what: &str) -> Result<()> {
    ensure!(wrong.is_empty(), "{what}: {} of {} are wrong: {:?}", wrong.len(), 2 * REQUESTS, wrong.first());
    Ok(())
}

fn datagrams(client: &At<'_>, server: &Responder, pair: [SocketAddr; 2]) -> Result<()> {
    for order in orders(pair) {
        let mut asker = UdpAsker::open(client, 0)?;
        let what = format!("UDP, {:?} ...", &order[..3]);
        let wrong = ask_in_turn(order, |to| ensure_by(asker.ask(to, 100)?, server));
        ensure_none(&wrong, &what)?;
    }
    Ok(())
}

fn connections(client: &At<'_>, server: &Responder, pair: [SocketAddr; 2]) -> Result<()> {
    let mut first = Connection::open(client, 0, pair[0])?;
    let mut second = Connection::open(client, first.port()?, pair[1])?;
    let mut both = || {
        ensure_by(first.ask(100)?, server)?;
        ensure_by(second.ask(100)?, server)
    };
    (0..REQUESTS).try_for_each(|_| both())?;
    let port = first.port()?;
    // The server closes connections, so that the client may connect again at once.
    first.end_by_server()?;
    second.end_by_server()?;
    for to in pair.into_iter().cycle().take(6) {
        let mut connection = Connection::open(client, port, to)?;
        (0..REQUESTS).try_for_each(|_| ensure_by(connection.ask(100)?, server))?;
        connection.end_by_server()?;
    }
    Ok(())
}

/// Asks an address, lets conntrack forget that, and asks both: now the other address's flow may keep the port.
fn after_conntrack_has_forgotten(
    node: &Node,
    client: &At<'_>,
    server: &Responder,
    pair: [SocketAddr; 2],
) -> Result<()> {
    let mut asker = UdpAsker::open(client, 0)?;
    (0..REQUESTS).try_for_each(|_| ensure_by(asker.ask(pair[0], 100)?, server))?;
    let family = if client.ip.is_ipv4() { "ipv4" } else { "ipv6" };
    node.exec(&format!("conntrack -D -f {family} -p udp --orig-src {}", client.ip))?;
    let order = [pair[1], pair[0]].into_iter().cycle().take(2 * REQUESTS);
    let wrong = ask_in_turn(order, |to| ensure_by(asker.ask(to, 100)?, server));
    ensure_none(&wrong, &format!("UDP, first to {}, which conntrack has forgotten", pair[0]))
}

#[test]
fn every_answer_comes_from_the_address_that_was_asked() -> TestResult {
    let bed = Bed::new(2)?;
    for mode in [Mode::Iptables, Mode::Nftables] {
        let proxies = bed.kube_proxies(mode, false)?;
        let mut wrong = Vec::new();
        for family in Family::BOTH {
            let (client, server) = (bed.pod(0, family), serve(&bed.pod(1, family))?);
            let (service, direct) = (family.service(10), server.address());
            proxies.sync(&Service::both("web", service, &[direct]))?;
            for pair in [[service, direct], [direct, service]] {
                let results = [
                    datagrams(&client, &server, pair),
                    connections(&client, &server, pair),
                    after_conntrack_has_forgotten(&bed.overlay.nodes()[0], &client, &server, pair),
                ];
                wrong.extend(results.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")));
            }
        }
        assert_eq!(wrong, [""; 0], "{mode:?}");
        proxies.remove()?;
    }
    Ok(())
}

#[test]
fn also_if_the_flow_to_the_server_began_before_there_were_services() -> TestResult {
    let bed = Bed::new(2)?;
    let servers = Family::BOTH.map(|family| serve(&bed.pod(1, family)).unwrap());
    let mut askers = Family::BOTH.map(|family| UdpAsker::open(&bed.pod(0, family), 0).unwrap());
    // Without rules that translate, the kernel does not track connections.
    for (asker, server) in askers.iter_mut().zip(&servers) {
        (0..REQUESTS).try_for_each(|_| ensure_by(asker.ask(server.address(), 100)?, server))?;
    }
    let proxies = bed.kube_proxies(Mode::Iptables, false)?;
    let services = Family::BOTH.into_iter().zip(&servers).flat_map(|(family, server)| {
        Service::both(&format!("web-{family:?}"), family.service(10), &[server.address()])
    });
    proxies.sync(&services.collect::<Vec<_>>())?;
    for ((asker, server), family) in askers.iter_mut().zip(&servers).zip(Family::BOTH) {
        let order = [family.service(10), server.address()].into_iter().cycle().take(2 * REQUESTS);
        let wrong = ask_in_turn(order, |to| ensure_by(asker.ask(to, 100)?, server));
        ensure_none(&wrong, &format!("{family:?}"))?;
    }
    Ok(())
}
