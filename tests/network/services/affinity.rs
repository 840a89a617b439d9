//! Services with several endpoints: chosen at random, or one for all connections of a client.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::Result;
use flannel_tests::TestResult;
use flannel_tests::kube_proxy::{Mode, Service};
use flannel_tests::traffic::{At, Connection, Responder, UdpAsker};

use super::{Bed, Family, serve};

/// Flows of each protocol. That one of two endpoints is never chosen among so many has a probability of 2^-31.
const FLOWS: usize = 32;
/// Requests of a flow: the first ones go through the stack, the others past it.
const REQUESTS: usize = 5;

/// Returns the servers that have answered over UDP and over TCP. All answers of a flow have to come from one.
fn servers(client: &At<'_>, service: SocketAddr) -> Result<[BTreeSet<SocketAddr>; 2]> {
    let mut servers = [BTreeSet::new(), BTreeSet::new()];
    for _ in 0..FLOWS {
        let (mut asker, mut connection) = (UdpAsker::open(client, 0)?, Connection::open(client, 0, service)?);
        let mut of_flow = [BTreeSet::new(), BTreeSet::new()];
        for _ in 0..REQUESTS {
            of_flow[0].insert(asker.ask(service, 100)?.server);
            of_flow[1].insert(connection.ask(100)?.server);
        }
        for (all, of_flow) in servers.iter_mut().zip(of_flow) {
            assert_eq!(of_flow.len(), 1, "one flow was answered by {of_flow:?}");
            all.extend(of_flow);
        }
        connection.end_by_server()?;
    }
    Ok(servers)
}

#[test]
fn a_client_keeps_its_endpoint_if_the_service_wants_it() -> TestResult {
    let bed = Bed::new(3)?;
    for (number, mode) in (1..).zip(Mode::ALL) {
        let proxies = bed.kube_proxies(mode, false)?;
        for family in Family::BOTH {
            let servers_of = [serve(&bed.pod(1, family))?, serve(&bed.pod(2, family))?];
            let (client, endpoints) = (bed.pod(0, family), servers_of.each_ref().map(Responder::address));
            // Not those of the last mode: a port that is used again would lead to that mode's endpoint.
            let [random, sticky] = [number, 100 + number].map(|number| family.service(number));
            let mut services = Service::both("random", random, &endpoints).to_vec();
            services.extend(
                Service::both("sticky", sticky, &endpoints)
                    .map(|service| Service { affinity: true, ..service }),
            );
            proxies.sync(&services)?;
            let count = |service| anyhow::Ok(servers(&client, service)?.map(|servers| servers.len()));
            assert_eq!(
                count(random)?,
                [2, 2],
                "{mode:?}, {family:?}: servers of the service without affinity"
            );
            let first = servers(&client, sticky)?;
            // Rules that are written again keep the clients.
            proxies.sync(&services)?;
            assert_eq!(servers(&client, sticky)?, first);
            assert_eq!(first.map(|servers| servers.len()), [1, 1], "{mode:?}, {family:?}: with affinity");
        }
        proxies.remove()?;
    }
    Ok(())
}
