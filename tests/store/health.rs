//! The agent's health over HTTP, and its notifications to systemd.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::cluster::MGMT;
use flannel_tests::traffic::ping;
use flannel_tests::{Agent, Cluster, Node, TestResult, Topology, eventually};

use crate::endpoint::{Figures, LOCALHOST, PORT, get, with_endpoint};
use crate::overlay::{NETWORK, Overlay, refusal};

const SOON: Duration = Duration::from_secs(10);

fn ensure_answers(node: &Node, ip: IpAddr, readyz: (u16, &str)) -> Result<()> {
    let (status, text) = readyz;
    for (path, status, text) in [
        ("/healthz", 200, "flanneld is running"),
        ("/readyz", status, text),
        ("/readyz?verbose", status, text),
        ("/elsewhere", 404, "404 page not found\n"),
    ] {
        let answer = get(node, ip, path)?;
        ensure!(answer == (status, text.to_owned()), "{path}: {answer:?}");
    }
    Ok(())
}

#[test]
fn ready_once_there_is_a_lease_and_a_file() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let node = &cluster.nodes()[0];
    let agent = Agent::builder(node).arg(format!("-etcd-endpoints=http://{MGMT}:2379"));
    let mut agent = agent.arg("-healthz-port").arg(PORT.to_string()).start()?;
    let waiting = (503, "flanneld is not ready yet");
    eventually("the endpoint answers", SOON, || ensure_answers(node, LOCALHOST, waiting))?;
    eventually("the status for systemd has the reason", SOON, || {
        let status = agent.latest_status()?;
        ensure!(status.contains("reading the network config") && status.contains("refused"), "{status:?}");
        Ok(())
    })?;
    let mut etcd = cluster.start_etcd()?;
    etcd.configure(NETWORK)?;
    agent.wait_ready()?;
    let ready = (200, "flanneld is ready");
    ensure_answers(node, LOCALHOST, ready)?;
    // It listens on all addresses by default, and stays ready without the datastore.
    etcd.kill()?;
    ensure_answers(node, node.ip().into(), ready)?;
    Ok(())
}

#[test]
fn the_endpoint_listens_on_the_given_address_only() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(NETWORK)?;
    let node = &cluster.nodes()[0];
    let agent = Agent::builder(node).etcd(&etcd).arg("--healthz-ip=127.0.0.1");
    let mut agent = agent.arg(format!("--healthz-port={PORT}")).start()?;
    agent.wait_ready()?;
    ensure_answers(node, LOCALHOST, (200, "flanneld is ready"))?;
    assert!(get(node, node.ip().into(), "/healthz").is_err(), "it also listens on another address");
    Ok(())
}

#[test]
fn a_port_in_use_is_named_in_the_error() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let node = &cluster.nodes()[0];
    let _taken = node.netns().tcp_listen(Ipv4Addr::UNSPECIFIED.into(), PORT)?;
    let error = refusal(node, |agent| agent.arg(format!("--healthz-port={PORT}")))?;
    for said in ["0.0.0.0 port 300", "--healthz-port", "Address already in use"] {
        assert!(error.contains(said), "no {said:?} in {error}");
    }
    Ok(())
}

#[test]
fn systemd_gets_the_status_of_the_agent() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let subnet = format!("{}/24 on bpf, peers: 1", overlay.base(0)?);
    eventually("the status has subnet, dataplane and peers", SOON, || {
        let status = overlay.agents[0].latest_status()?;
        ensure!(status == subnet, "{status:?} instead of {subnet:?}");
        Ok(())
    })?;
    overlay.agents[0].term()?;
    assert_eq!(overlay.agents[0].latest_status()?, "stopping");
    Ok(())
}

#[test]
fn metrics_count_leases_repairs_and_packets() -> TestResult {
    let overlay = Overlay::start_with(Topology::segment(2), &["--dataplane=bpf"; 2], 1, with_endpoint)?;
    let (node, (one, other)) = (&overlay.nodes()[0], overlay.two_pods());
    ping(one, other.ip())?;
    // Causes a repair, which is counted.
    node.exec(&format!("ip route del {}/24", overlay.base(1)?))?;
    eventually("the metrics count it", SOON, || {
        let figures = Figures::of(node)?;
        let (value, text) = (|name| figures.get(name), figures.text());
        ensure!(value("flannel_leases")? == 1.0 && value("flannel_datastore_up")? == 1.0, "{text}");
        ensure!(value("flannel_dataplane{name=\"bpf\"}")? == 1.0, "{text}");
        ensure!(value("flannel_lease_left_seconds")? > 86_000.0, "{text}");
        ensure!(value("flannel_reconcile_actions_total{object=\"route\",action=\"set\"}")? >= 2.0, "{text}");
        let sent =
            "flannel_packets_total{outcome=\"encapsulated\",verdict=\"carried\",program=\"overlay_egress\"}";
        ensure!(value(sent)? >= 1.0, "{text}");
        Ok(())
    })?;
    Ok(())
}
