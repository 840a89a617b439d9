//! Clients and servers of one node: two pods, a pod and itself, and processes of the node that ask services. Their traffic
//! stays in the stack.

use anyhow::{Context as _, Result, ensure};
use flannel_tests::TestResult;
use flannel_tests::kube_proxy::{Mode, Service};
use flannel_tests::traffic::{At, Connection, Responder, UdpAsker};

use super::shortcut::past_stack;
use super::{Bed, Family, SIZES, ensure_by, serve};

/// Asks many times. `masqueraded`: the server sees another address than the client's.
fn ask_all(client: &At<'_>, family: Family, server: &Responder, masqueraded: bool) -> Result<()> {
    let service = family.service(10);
    let mut asker = UdpAsker::open(client, 0)?;
    let mut connection = Connection::open(client, 0, service)?;
    for size in SIZES.into_iter().chain([100; 20]) {
        for answer in [asker.ask(service, size)?, connection.ask(size)?] {
            ensure_by(answer, server)?;
            ensure!((answer.client.ip() != client.ip) == masqueraded, "{} asks", answer.client);
        }
    }
    connection.end_by_server()
}

#[test]
fn a_pod_of_the_same_node_and_the_client_itself_answer() -> TestResult {
    let bed = Bed::new(2)?;
    let neighbour = bed.add_pod(0)?;
    // Without br_netfilter, answers of a pod reach another one on the same bridge untranslated, as Kubernetes warns.
    for tables in ["iptables", "ip6tables"] {
        bed.overlay.nodes()[0].netns().set(&[(&format!("net.bridge.bridge-nf-call-{tables}"), "1")])?;
    }
    for mode in Mode::ALL {
        let proxies = bed.kube_proxies(mode, false)?;
        for family in Family::BOTH {
            let client = bed.pod(0, family);
            for (pod, masqueraded) in [(family.of(&neighbour), false), (client, true)] {
                let server = serve(&pod)?;
                proxies.sync(&Service::both("web", family.service(10), &[server.address()]))?;
                let before = past_stack(&bed.overlay.nodes()[0])?;
                ask_all(&client, family, &server, masqueraded)
                    .with_context(|| format!("{mode:?}, {family:?}, by itself: {masqueraded}"))?;
                assert_eq!(past_stack(&bed.overlay.nodes()[0])?, before, "packets past the stack");
            }
        }
        proxies.remove()?;
    }
    Ok(())
}

#[test]
fn processes_of_the_node_are_answered() -> TestResult {
    let bed = Bed::new(2)?;
    let node = &bed.overlay.nodes()[0];
    for mode in [Mode::Iptables, Mode::Nftables] {
        let proxies = bed.kube_proxies(mode, false)?;
        for (family, ip) in [(Family::V4, node.ip().into()), (Family::V6, node.ip6().into())] {
            let client = At { netns: node.netns(), ip };
            // On the same node, and on the other one.
            for server_node in [0, 1] {
                let server = serve(&bed.pod(server_node, family))?;
                proxies.sync(&Service::both("web", family.service(10), &[server.address()]))?;
                let before = past_stack(node)?;
                ask_all(&client, family, &server, true)
                    .with_context(|| format!("{mode:?}, {family:?}, to node {server_node}"))?;
                assert_eq!(
                    past_stack(node)?.0,
                    before.0,
                    "packets of the node that were sent past its stack"
                );
            }
        }
        proxies.remove()?;
    }
    Ok(())
}
