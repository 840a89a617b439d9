//! Nodes in the states that documents show, and what happens there while a command looks.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use anyhow::{Result, ensure};
use flannel_tests::kube_proxy::{KubeProxy, Mode, Service};
use flannel_tests::traffic::{UdpSession, ping};
use flannel_tests::wait::patiently;
use flannel_tests::{Node, Topology};
use nix::sys::signal::Signal;

use super::SOON;
use crate::inspect::{DEVICE, Peer};
use crate::network::status::run;
use crate::network::{forged, ipv6};
use crate::overlay::{Overlay, Streams};

/// The BPF filesystem in documents.
const BPFFS: &str = "/sys/fs/bpf";
/// This node's pod and another node's in documents, and the latter as bytes, as bpftool takes it.
const POD: &str = "10.244.1.5";
const OTHER_POD: &str = "10.244.7.9";
const OTHER_POD_BYTES: &str = "10 244 7 9";
/// The service in documents, whose endpoint is the other node's pod.
const SERVICE: &str = "10.96.0.10:53";
/// The same in documents that show IPv6, and the ports of their flow.
const POD6: &str = "fd44:0:0:5a::2";
const OTHER_POD6: &str = "fd44:0:0:44::2";
const PORTS: [&str; 2] = ["38256", "35844"];
/// An interface of documents beside the uplink, and that of the test bed.
const OTHER_INTERFACE: (&str, &str) = ("eth1", "mgmt0");

const BPF: &str = "--dataplane=bpf";
/// A node that joins and leaves, and nodes that vanish.
const COMING: u8 = 77;
const VANISHING: Range<u8> = 90..95;

/// A node in some state, with what keeps it there. Its fields are in the order in which they have to be dropped.
pub(super) struct Scene {
    _streams: Option<Streams>,
    /// A flow whose packets go both ways.
    session: Option<RefCell<UdpSession>>,
    overlay: Overlay,
    pub(super) name: &'static str,
    /// What documents call things, and their names here.
    pub(super) names: Vec<(&'static str, String)>,
    /// Whether things are to happen while a command runs.
    pub(super) is_lively: bool,
}

impl Scene {
    /// Starts two nodes with pods that talk over IPv4.
    pub(super) fn start(name: &'static str, flag: &str, pods: usize) -> Result<Self> {
        let overlay =
            Overlay::start_with(Topology::segment(2), &[flag; 2], pods, |agent| agent.arg("--ip-masq"))?;
        if flag == BPF {
            overlay.wait_plugged()?;
        }
        let streams = Some(overlay.streams()?);
        let (own, other) = overlay.two_pods();
        let session = Some(RefCell::new(UdpSession::open(own, other)?));
        let mut names = names(&overlay, &[(POD, own.ip()), (OTHER_POD, other.ip())])?;
        names.push((OTHER_POD_BYTES, other.ip().to_string().replace('.', " ")));
        Ok(Self { _streams: streams, session, overlay, name, names, is_lively: false })
    }

    /// Adds a service to the node by the rules that kube-proxy writes, until what is returned is dropped.
    pub(super) fn serve(&self) -> Result<KubeProxy<'_>> {
        let proxy = KubeProxy::start(self.node().netns(), Mode::Iptables, &["10.5.0.0/16"], false)?;
        let endpoint = SocketAddr::new(self.overlay.two_pods().1.ip(), 53);
        proxy.sync(&Service::both("dns", SERVICE.parse()?, &[endpoint]))?;
        Ok(proxy)
    }

    /// Starts a node that works, where one pod's port cannot take the shortcut and much happens.
    fn lively() -> Result<Self> {
        let scene = Self::start("pods talk and much happens", BPF, 2)?;
        let (node, port) = (scene.node(), scene.overlay.pods[0][1].port());
        node.exec(&format!("tc qdisc add dev {port} root tbf rate 1gbit burst 100kb latency 50ms"))?;
        patiently("several repairs are told", SOON, || {
            scene.stir()?;
            let text = String::from_utf8(run(node, &["status"])?.stdout)?;
            ensure!(text.contains(" times)"), "{text}");
            Ok(())
        })?;
        Ok(Self { is_lively: true, ..scene })
    }

    /// Starts a node whose agent is stopped.
    fn hanging() -> Result<Self> {
        let scene = Self::start("the agent hangs", BPF, 1)?;
        scene.overlay.agents[0].signal(Signal::SIGSTOP)?;
        Ok(scene)
    }

    /// Starts a node from which several others have vanished at once.
    fn bereft() -> Result<Self> {
        let scene = Self::start("nodes have vanished", BPF, 1)?;
        let (node, etcd) = (scene.node(), &scene.overlay.etcd);
        let vanishing: Vec<_> = VANISHING.map(Peer::fictional).collect();
        let wait_listed = |words: &'static str| {
            patiently("leases are listed", SOON, || {
                let text = String::from_utf8(run(node, &["leases"])?.stdout)?;
                ensure!(text.matches(words).count() == vanishing.len(), "{text}");
                Ok(())
            })
        };
        vanishing.iter().try_for_each(|peer| etcd.put(&peer.key(), &peer.value()))?;
        wait_listed("never ends")?;
        vanishing.iter().try_for_each(|peer| etcd.delete(&peer.key()))?;
        wait_listed("held for")?;
        Ok(scene)
    }

    /// Starts a node without BPF whose firewall stops the tunnel.
    fn blocked() -> Result<Self> {
        let scene = Self::start("a firewall stops the tunnel", "--dataplane=netlink", 1)?;
        scene.node().exec("iptables -A INPUT -p udp --dport 8472 -j DROP")?;
        Ok(Self { session: None, ..scene })
    }

    /// Starts a node whose pods have a flow over IPv6.
    fn ipv6() -> Result<Self> {
        let overlay = ipv6::two_nodes()?;
        let (own, other) = ipv6::two_pods(&overlay)?;
        let session = UdpSession::open(&own, &other)?;
        let mut names = names(&overlay, &[(POD6, own.ip), (OTHER_POD6, other.ip)])?;
        let ports = [session.client()?.port(), session.server()?.port()];
        names.extend(PORTS.into_iter().zip(ports.map(|port| port.to_string())));
        let (session, name) = (Some(RefCell::new(session)), "pods talk over IPv6");
        Ok(Self { _streams: None, session, overlay, name, names, is_lively: false })
    }

    pub(super) fn node(&self) -> &Node {
        &self.overlay.nodes()[0]
    }

    /// Proves the flow again, if there is one.
    pub(super) fn refresh(&self) -> Result<()> {
        self.session.iter().try_for_each(|session| echo(&mut session.borrow_mut()))
    }

    /// Has packets dropped, a lease missed, a node come and go, routes repaired and a flow proven.
    pub(super) fn stir(&self) -> Result<()> {
        let (overlay, new) = (&self.overlay, Peer::fictional(COMING));
        let nobody = forged::unleased(overlay)?;
        overlay.etcd.put(&new.key(), &new.value())?;
        forged::send(overlay, overlay.nodes()[1].ip(), nobody, b"forged")?;
        self.node().exec(&format!("ip route flush dev {DEVICE}"))?;
        let (own, other) = overlay.two_pods();
        ensure!(ping(own, nobody.into()).is_err(), "nobody has {nobody}");
        echo(&mut UdpSession::open(own, other)?)?;
        overlay.etcd.delete(&new.key())
    }
}

/// Sends packets both ways, again if routes are being repaired, until they have proven the flow.
fn echo(session: &mut UdpSession) -> Result<()> {
    patiently("datagrams pass", SOON, || (0..2).try_for_each(|_| session.echo(100)))
}

/// Starts all of them.
pub(super) fn all() -> Result<Vec<Scene>> {
    let starts = [Scene::lively, Scene::hanging, Scene::bereft, Scene::blocked, Scene::ipv6];
    starts.iter().map(|start| start()).collect()
}

/// Returns what documents call these pods, and things that each node has, with their names here.
fn names(overlay: &Overlay, pods: &[(&'static str, IpAddr)]) -> Result<Vec<(&'static str, String)>> {
    let bpffs = overlay.nodes()[0].bpffs()?.display().to_string();
    let mut names = vec![(BPFFS, bpffs), (OTHER_INTERFACE.0, OTHER_INTERFACE.1.to_owned())];
    names.extend(pods.iter().map(|(name, ip)| (*name, ip.to_string())));
    Ok(names)
}
