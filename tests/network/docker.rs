//! Docker with the agent: dockerd runs with the options that `docker-opts` makes from subnet.env.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::agent::agent_binary;
use flannel_tests::docker::Container;
use flannel_tests::process::{LIMIT, finish};
use flannel_tests::traffic::{At, TcpSession};
use flannel_tests::{Docker, Host, Node, SubnetEnv, TestResult, Topology, eventually};
use ipnet::{IpNet, Ipv4Net};

use crate::inspect;
use crate::overlay::{Overlay, Streams};

/// Time limit for traffic to take the shortcut past the host stack.
const SOON: Duration = Duration::from_secs(5);

/// Two nodes with a dockerd and a container each. Fields are in the order of their drops.
struct Bed {
    containers: Vec<Container>,
    dockers: Vec<Docker>,
    overlay: Overlay,
}

impl Bed {
    /// Starts agents that masquerade, so that Docker does not.
    fn start() -> Result<Self> {
        let overlay = Overlay::start(Topology::segment(2), &["--ip-masq"; 2], 0)?;
        let dockers = overlay.nodes().iter().map(start_docker).collect::<Result<Vec<_>>>()?;
        let containers = dockers.iter().map(Docker::start_web_server).collect::<Result<_>>()?;
        Ok(Self { containers, dockers, overlay })
    }

    fn containers(&self) -> (&Container, &Container) {
        (&self.containers[0], &self.containers[1])
    }

    /// Checks that a new container on each node can ping the other node's container and fetch a file from it unchanged.
    fn ensure_reached(&self) -> Result<()> {
        for (docker, remote) in self.dockers.iter().zip(self.containers.iter().rev()) {
            let ip = remote.ip();
            docker.run(&format!(
                "$BUSYBOX ping -c 1 -W 5 {ip} && $BUSYBOX wget -q -O - http://{ip}$BUSYBOX | $BUSYBOX cmp - $BUSYBOX"
            ))?;
        }
        Ok(())
    }
}

/// Makes dockerd's options from subnet.env, as a unit's ExecStartPost does for `$DOCKER_NETWORK_OPTIONS`.
pub(crate) fn docker_options(node: &Node) -> Result<String> {
    let file = node.dir().join("docker_opts.env");
    let mut command = node.netns().command(agent_binary()?);
    command.env_clear().args(["docker-opts", "-c", "-k", "DOCKER_NETWORK_OPTIONS", "-f"]);
    finish(command.arg(node.subnet_file()).arg("-d").arg(&file), "", LIMIT)?;
    let text = fs::read_to_string(file)?;
    let value = text.strip_prefix("DOCKER_NETWORK_OPTIONS=\"").and_then(|text| text.strip_suffix("\"\n"));
    value.map(str::to_owned).with_context(|| format!("not one variable: {text}"))
}

/// Starts dockerd on a node that does not forward, as after a boot.
///
/// A dockerd that turns forwarding on sets the policy of the FORWARD chain to DROP. Then containers depend on the agent's
/// forward rules, which are on by default.
pub(crate) fn start_docker(node: &Node) -> Result<Docker> {
    node.netns().set(&[("net.ipv4.ip_forward", "0")])?;
    let options = docker_options(node)?;
    Docker::start(node, &options.split_whitespace().collect::<Vec<_>>())
}

/// Returns the client's address as the server of a connection sees it.
pub(crate) fn seen(from: &dyn Host, to: &dyn Host) -> Result<IpAddr> {
    Ok(TcpSession::open(from, to)?.seen_client()?.ip())
}

/// Checks that Docker's options and its container match subnet.env.
fn ensure_configured(node: &Node, container: &Container) -> Result<()> {
    let SubnetEnv { subnet, mtu, .. } = node.subnet_env()?;
    let subnet = subnet.context("a node without a subnet")?;
    let options = docker_options(node)?;
    ensure!(options.trim() == format!("--bip={subnet} --ip-masq=false --mtu={mtu}"), "{options}");
    let network = Ipv4Net::new(subnet.addr, subnet.len)?;
    ensure!(IpNet::from(network).contains(&container.ip()), "{} is not in {subnet}", container.ip());
    ensure!(container.address().len == subnet.len, "{} in {subnet}", container.address());
    ensure!(container.mtu() == mtu, "an MTU of {} instead of {mtu}", container.mtu());
    Ok(())
}

#[test]
fn containers_reach_each_other_across_nodes() -> TestResult {
    let bed = Bed::start()?;
    for node in bed.overlay.nodes() {
        let policy = node.exec("iptables -S FORWARD")?;
        assert!(policy.starts_with("-P FORWARD DROP\n"), "dockerd left forwarding open: {policy}");
    }
    for (node, container) in bed.overlay.nodes().iter().zip(&bed.containers) {
        ensure_configured(node, container)?;
    }
    bed.ensure_reached()?;
    let (one, other) = bed.containers();
    assert_eq!(seen(one, other)?, one.ip(), "a container, from a remote container");
    let (first, second) = (&bed.overlay.nodes()[0], &bed.overlay.nodes()[1]);
    assert_eq!(seen(one, second)?, first.ip(), "a container, from another node");
    let host = At { netns: first.netns(), ip: bed.overlay.base(0)?.into() };
    assert_eq!(seen(&host, other)?, host.ip, "a node, from a remote container");
    Ok(())
}

#[test]
fn a_restart_of_the_agent_does_not_interrupt_containers() -> TestResult {
    let mut bed = Bed::start()?;
    let (one, other) = bed.containers();
    let streams = Streams::between(one, other)?;
    eventually("containers' packets skip the host stack", SOON, || {
        let (sent, delivered) = inspect::shortcut(&bed.overlay.nodes()[0])?;
        ensure!(sent > 0 && delivered > 0, "{sent} sent, {delivered} delivered");
        Ok(())
    })?;
    bed.overlay.agents[0].term()?;
    bed.ensure_reached()?;
    bed.overlay.agents[0].restart()?;
    bed.overlay.wait_joined()?;
    bed.ensure_reached()?;
    streams.ensure_whole()?;
    Ok(())
}
