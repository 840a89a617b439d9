//! Nexthop objects that another program removes take their routes with them, of which the kernel says nothing.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::traffic::{Steady, ping};
use flannel_tests::{Agent, Cluster, Node, TestResult, Topology, etcd, eventually};

/// Enough for nexthop objects, which begin at 1000 routes.
const OTHERS: u16 = 1050;
/// Other nodes are in 10.1.0.0 and up, the two real ones in 10.8.0.0/14.
const RANGE: &str = r#""Network":"10.0.0.0/12","SubnetMin":"10.8.0.0","SubnetMax":"10.11.255.0""#;
/// Time limit until all routes are there, with the agent in a debug build.
const HEALED: Duration = Duration::from_secs(3);
const JOINING: Duration = Duration::from_secs(10);
const PACE: Duration = Duration::from_millis(5);

/// Returns key and value of a node's lease.
fn lease(kind: &str, number: u16) -> (String, String) {
    let [high, low] = number.to_be_bytes();
    let (subnet, node) = (Ipv4Addr::new(10, 1 + high, low, 0), Ipv4Addr::new(172, 16, high, low));
    let data = match kind {
        "vxlan" => format!(r#","BackendData":{{"VNI":1,"VtepMAC":"c6:d2:32:6f:{high:02x}:{low:02x}"}}"#),
        _ => String::new(),
    };
    let value = format!(r#"{{"PublicIP":"{node}","PublicIPv6":null,"BackendType":"{kind}"{data}}}"#);
    (format!("{}/subnets/{subnet}-24", etcd::PREFIX), value)
}

/// Returns the routes to other nodes.
fn routes(node: &Node) -> Result<Vec<String>> {
    let shown = node.exec("ip route show root 10.0.0.0/12 proto boot type unicast")?;
    Ok(shown.lines().map(|line| line.trim().to_owned()).collect())
}

/// Returns the destinations and gateways of these routes.
fn ways(routes: &[String]) -> Vec<(String, String)> {
    let way = |line: &String| {
        let words: Vec<_> = line.split_whitespace().collect();
        let gateway = words.iter().skip_while(|word| **word != "via").nth(1).copied();
        (words[0].to_owned(), gateway.unwrap_or_default().to_owned())
    };
    routes.iter().map(way).collect()
}

/// Returns the numbers of the nexthop objects.
fn ids(node: &Node) -> Result<Vec<String>> {
    let shown = node.exec("ip nexthop")?;
    Ok(shown.lines().filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect())
}

fn ensure_all_routes_come_back(config: &str, kind: &str) -> Result<()> {
    let cluster = Cluster::build(Topology::segment(2))?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(&format!(r#"{{{RANGE},"Backend":{config}}}"#))?;
    etcd.kv().put_all(&(0..OTHERS).map(|number| lease(kind, number)).collect::<Vec<_>>())?;
    for node in cluster.nodes() {
        node.exec("ip route add 172.16.0.0/16 dev eth0")?;
    }
    let start = |node| Agent::builder(node).etcd(&etcd).arg("--dataplane=auto").start();
    let mut agents = cluster.nodes().iter().map(start).collect::<Result<Vec<_>>>()?;
    agents.iter_mut().try_for_each(|agent| agent.wait_ready().map(drop))?;
    let pods = cluster.pods_each(1)?;
    let (one, other) = (&pods[0][0], &pods[1][0]);
    let node = &cluster.nodes()[0];
    let all = usize::from(OTHERS) + 1;
    let before = eventually("the node knows all others", JOINING, || {
        let routes = routes(node)?;
        ensure!(routes.len() == all, "{} routes", routes.len());
        ping(one, other.ip())?;
        Ok(routes)
    })?;
    ensure!(before.iter().filter(|line| line.contains("nhid")).count() >= 1000, "{:?}", &before[..3]);
    let stream = Steady::start(one, other, PACE)?;
    let one_by_one = node.dir().join("nexthops");
    let deletions: String = ids(node)?.iter().map(|id| format!("nexthop del id {id}\n")).collect();
    std::fs::write(&one_by_one, deletions)?;
    // One after the other takes long enough that the agent puts the first ones back meanwhile.
    for damage in [format!("ip -batch {}", one_by_one.display()), "ip nexthop flush".to_owned()] {
        node.exec(&damage)?;
        eventually(&damage, HEALED, || {
            let now = ways(&routes(node)?);
            ensure!(now == ways(&before), "{} routes", now.len());
            Ok(())
        })?;
        ping(one, other.ip())?;
    }
    let report = stream.stop()?;
    // Without a route nothing passes, but for no longer than a repair takes.
    ensure!(report.longest_gap < HEALED, "{report:?}");
    Ok(())
}

#[test]
fn routes_come_back_whose_nexthop_objects_were_removed() -> TestResult {
    ensure_all_routes_come_back(r#"{"Type":"vxlan"}"#, "vxlan")?;
    Ok(())
}

#[test]
fn direct_routes_come_back_whose_nexthop_objects_were_removed() -> TestResult {
    ensure_all_routes_come_back(r#"{"Type":"host-gw"}"#, "host-gw")?;
    Ok(())
}
