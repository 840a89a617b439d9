//! Network policies, as a controller beside the agent writes them: rules of iptables on the node of the protected pod.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::kubernetes::web::{self, POD_PORT};
use flannel_tests::kubernetes::{KubeCluster, KubeNode, KubePod};
use flannel_tests::traffic::{TcpSession, UdpSession};
use flannel_tests::wait::throughout;
use flannel_tests::{Host, TestResult};

use super::{delivered, node_of, web_pods};

/// Rules in the form in which kube-router writes them: a chain for a pod, with a chain for its policy, which marks what is
/// allowed. Removed when dropped.
struct Policy<'a>(&'a KubeNode);

impl<'a> Policy<'a> {
    fn apply(node: &'a KubeNode, pod: IpAddr, allowed: IpAddr) -> Result<Self> {
        let policy = Self(node);
        let rules = format!(
            "*filter\n\
             :KUBE-ROUTER-FORWARD - [0:0]\n:KUBE-POD-FW-TEST - [0:0]\n:KUBE-NWPLCY-TEST - [0:0]\n\
             -I FORWARD 1 -j KUBE-ROUTER-FORWARD\n\
             -A KUBE-ROUTER-FORWARD -d {pod} -j KUBE-POD-FW-TEST\n\
             -A KUBE-POD-FW-TEST -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A KUBE-POD-FW-TEST -d {pod} -m addrtype --src-type LOCAL -j ACCEPT\n\
             -A KUBE-POD-FW-TEST -j KUBE-NWPLCY-TEST\n\
             -A KUBE-POD-FW-TEST -m mark ! --mark 0x10000/0x10000 -j REJECT --reject-with icmp-port-unreachable\n\
             -A KUBE-POD-FW-TEST -j MARK --set-xmark 0x0/0x10000\n\
             -A KUBE-NWPLCY-TEST -s {allowed} -d {pod} -j MARK --set-xmark 0x10000/0x10000\n\
             -A KUBE-NWPLCY-TEST -m mark --mark 0x10000/0x10000 -j RETURN\n\
             COMMIT\n"
        );
        node.netns().exec_with("iptables-restore --noflush", &rules)?;
        Ok(policy)
    }

    /// Takes the permission away.
    fn forbid(&self) -> Result<()> {
        self.0.netns().exec("iptables -F KUBE-NWPLCY-TEST").map(drop)
    }
}

impl Drop for Policy<'_> {
    fn drop(&mut self) {
        let rules = "*filter\n-D FORWARD -j KUBE-ROUTER-FORWARD\n-F KUBE-ROUTER-FORWARD\n-F KUBE-POD-FW-TEST\n\
                     -F KUBE-NWPLCY-TEST\n-X KUBE-ROUTER-FORWARD\n-X KUBE-POD-FW-TEST\n-X KUBE-NWPLCY-TEST\nCOMMIT\n";
        if let Err(error) = self.0.netns().exec_with("iptables-restore --noflush", rules) {
            eprintln!("{error:#}");
        }
    }
}

/// Fails if a pod is answered by the web server of another, which must refuse the connection at once.
fn ensure_refused(from: &KubePod, to: &KubePod) -> Result<()> {
    let server: SocketAddr = (to.ip(), POD_PORT).into();
    match web::ask(from, server) {
        Ok(answer) => anyhow::bail!("{} answered {}", answer.pod, from.name()),
        Err(error) => {
            ensure!(format!("{error:#}").contains("refused"), "not refused: {error:#}");
            Ok(())
        }
    }
}

#[test]
fn a_network_policy_holds_for_flows_that_skip_the_host_stack() -> TestResult {
    let cluster = KubeCluster::attach()?;
    let pods = web_pods(&cluster)?;
    let [target, allowed, other] = &pods[..] else {
        return Err(anyhow::anyhow!("the cluster has not three nodes").into());
    };
    let node = node_of(&cluster, target)?;
    let policy = Policy::apply(node, target.ip(), allowed.ip())?;
    let before = delivered(node)?;
    let mut session = TcpSession::open(allowed, target)?;
    let mut datagrams = UdpSession::open(allowed, target)?;
    let mut refused = UdpSession::open(other, target)?;
    throughout("the policy holds", Duration::from_secs(3), || {
        session.exchange(4096)?;
        datagrams.echo(512)?;
        web::ask(allowed, (target.ip(), POD_PORT).into())?;
        ensure_refused(other, target)
    })?;
    assert!(delivered(node)? > before, "no packet has skipped the host stack");
    assert!(refused.request(64).is_err(), "a datagram of a pod that is not allowed has arrived");
    policy.forbid()?;
    throughout("new connections are refused and the old one goes on", Duration::from_secs(3), || {
        session.exchange(4096)?;
        ensure_refused(allowed, target)
    })?;
    Ok(())
}
