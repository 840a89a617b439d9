//! What stands in the way of pods' packets and is not the agent's to change: said once, with a remedy that helps, and the end
//! too.

use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::traffic::{Ping, ping, ping_with};
use flannel_tests::wait::throughout;
use flannel_tests::{Agent, TestResult, eventually};

use super::{Bed, IPTABLES, LOOKS, SOON};
use crate::endpoint::{LOCALHOST, get};
use crate::overlay::lines_of;

/// The rules of Docker 28 for a container on the bridge that pods have here (`integration/network/bridge/iptablesdoc` of its
/// source), without those about other packets.
const DOCKER: &str = "*raw\n\
    -A PREROUTING -d 10.5.1.2/32 ! -i cni0 -j DROP\n\
    COMMIT\n\
    *filter\n\
    :DOCKER - [0:0]\n\
    :DOCKER-BRIDGE - [0:0]\n\
    :DOCKER-CT - [0:0]\n\
    :DOCKER-FORWARD - [0:0]\n\
    :DOCKER-USER - [0:0]\n\
    -I FORWARD -j DOCKER-FORWARD\n\
    -I FORWARD -j DOCKER-USER\n\
    -A DOCKER ! -i cni0 -o cni0 -j DROP\n\
    -A DOCKER-BRIDGE -o cni0 -j DOCKER\n\
    -A DOCKER-CT -o cni0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
    -A DOCKER-FORWARD -j DOCKER-CT\n\
    -A DOCKER-FORWARD -j DOCKER-BRIDGE\n\
    -A DOCKER-FORWARD -i cni0 -j ACCEPT\n\
    COMMIT\n";

/// Returns the warnings about Docker.
fn said(agent: &Agent) -> Vec<String> {
    lines_of(&agent.log(), "WARN").into_iter().filter(|line| line.contains("Docker drops")).collect()
}

/// Returns how many problems with the node's set-up last, as the metric has it.
fn lasting(bed: &Bed) -> Result<String> {
    let metrics = get(bed.node(0), LOCALHOST, "/metrics")?.1;
    let line = metrics.lines().find(|line| line.starts_with(r#"flannel_problems{kind="node-setup"}"#));
    Ok(line.and_then(|line| line.split(' ').nth(1)).unwrap_or("0").to_owned())
}

#[test]
fn rules_of_docker_28_are_named_with_their_remedies() -> TestResult {
    let mut bed = Bed::started(2, IPTABLES, &["-healthz-port=300"])?;
    bed.add_pods()?;
    let [local, remote] = &bed.pods[..] else { panic!("not two pods") };
    let (node, agent) = (bed.node(0), &bed.agents[0]);
    let once = Ping { timeout: Duration::from_millis(500), ..Ping::default() };
    ping(remote, local.ip())?;
    assert_eq!(local.ip().to_string(), "10.5.1.2", "Docker's rules are for another address");

    node.netns().exec_with("iptables-restore --noflush", DOCKER)?;
    assert!(ping_with(remote, local.ip(), &once).is_err(), "Docker's rules drop nothing");
    eventually("both obstacles are named", SOON, || {
        let said = said(agent);
        ensure!(said.len() == 2, "{said:#?}");
        Ok(())
    })?;
    let said_first = said(agent);
    throughout("each is named once", LOOKS, || {
        ensure!(said(agent) == said_first && lasting(&bed)? == "1", "{:#?}", said(agent));
        Ok(())
    })?;

    // The first remedy, as Docker writes it for trusted_host_interfaces=flannel.1, helps alone against the first obstacle.
    assert!(
        said_first[0].contains("trusted_host_interfaces") && said_first[0].contains("--allow-direct-routing")
    );
    node.exec("iptables -t raw -I PREROUTING -d 10.5.1.2/32 -i flannel.1 -j ACCEPT")?;
    assert!(ping_with(remote, local.ip(), &once).is_err(), "the second obstacle is none");
    // The second one, as it stands in the text.
    let (_, remedy) = said_first[1].split_once('`').unwrap_or_default();
    let (remedy, _) = remedy.split_once('`').unwrap_or_default();
    assert_eq!(remedy, "iptables -I DOCKER-USER -s 10.5.0.0/16 -d 10.5.1.0/24 -j ACCEPT");
    node.exec(remedy)?;
    ping(remote, local.ip())?;
    eventually("the end is said", SOON, || {
        let over =
            lines_of(&agent.log(), "INFO").into_iter().filter(|line| line.contains("nothing on this node"));
        ensure!(over.count() == 1 && lasting(&bed)? == "0");
        Ok(())
    })?;
    Ok(())
}
