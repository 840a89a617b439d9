//! The backend aws-vpc, on moto, which checks signatures and the permissions that the documentation asks for.

use std::fs;
use std::net::Ipv6Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::cloud::aws::{Route, Vpc};
use flannel_tests::wait::throughout;
use flannel_tests::{Cluster, TestResult, eventually};

use serde_json::Value;

use super::{Bed, FOLLOW, WHILE, ensure_nothing_local, ensure_said, nodes, reserve, start_alone, subnet};
use crate::network::status::run;

pub(super) const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"aws-vpc"}}"#;

/// Returns the policy of the documentation.
fn policy() -> Result<String> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cloud.md"))?;
    let policy = page.split("```json\n").nth(1).and_then(|rest| rest.split("```").next());
    policy.map(str::to_owned).context("docs/cloud.md has no policy")
}

/// Starts a VPC with the policy of the documentation.
pub(super) fn vpc(cluster: &Cluster) -> Result<Vpc> {
    Vpc::start(cluster, &policy()?)
}

/// Returns the route to a node's subnet.
fn route(vpc: &Vpc, cluster: &Cluster, node: usize) -> Result<Route> {
    Ok(Route { to: subnet(&cluster.nodes()[node])?, interface: vpc.instances[node].interface.clone() })
}

/// Waits until a table has the routes to these nodes, and no others.
fn ensure_routes(vpc: &Vpc, cluster: &Cluster, table: &str, nodes: &[usize]) -> Result<()> {
    eventually("the table has the nodes' routes", FOLLOW, || {
        let mut expected = nodes.iter().map(|node| route(vpc, cluster, *node)).collect::<Result<Vec<_>>>()?;
        expected.sort();
        let routes = vpc.routes(table)?;
        ensure!(routes == expected, "{routes:?} instead of {expected:?}");
        Ok(())
    })
}

#[test]
fn pods_reach_each_other_by_routes_of_the_subnets_table() -> TestResult {
    let cluster = nodes(3)?;
    let vpc = vpc(&cluster)?;
    assert!(vpc.checks_addresses(0)?);
    let mut bed = Bed::start(&cluster, CONFIG, &vpc)?;
    ensure_routes(&vpc, &cluster, &vpc.main_table, &[0, 1, 2])?;
    bed.ensure_all_reach_all(&cluster, &vpc)?;
    for (number, node) in cluster.nodes().iter().enumerate() {
        ensure_nothing_local(&bed, node)?;
        assert!(!vpc.checks_addresses(number)?, "{}", node.name());
    }
    assert!(bed.agents[0].status().contains(" on aws-vpc"), "{}", bed.agents[0].status());
    assert_eq!(bed.complaints(), [""; 0]);
    let peers: Value = serde_json::from_slice(&run(&cluster.nodes()[0], &["peers", "--json"])?.stdout)?;
    let peers = peers["networks"][0]["peers"].as_array().context("no peers")?;
    assert!(peers.len() == 2 && peers.iter().all(|peer| peer["way"] == "cloud"), "{peers:?}");
    // What is as it should be is only read.
    vpc.take_actions();
    throughout("requests only read", WHILE, || {
        let actions = vpc.take_actions();
        ensure!(actions.iter().all(|action| action.starts_with("Describe")), "{actions:?}");
        Ok(())
    })?;
    // A restart and a route that somebody has removed.
    let to = subnet(&cluster.nodes()[1])?;
    bed.agents[1].restart()?;
    vpc.call("DeleteRoute", &[("RouteTableId", &vpc.main_table), ("DestinationCidrBlock", &to)])?;
    ensure_routes(&vpc, &cluster, &vpc.main_table, &[0, 1, 2])?;
    Ok(())
}

#[test]
fn configured_tables_have_the_routes_and_a_subnets_own_table_is_found() -> TestResult {
    let cluster = nodes(2)?;
    let vpc = vpc(&cluster)?;
    let (first, second) = (vpc.add_table()?, vpc.add_table()?);
    let config =
        CONFIG.replace("aws-vpc\"", &format!("aws-vpc\",\"RouteTableID\":[\"{first}\",\"{second}\"]"));
    let bed = Bed::start(&cluster, &config, &vpc)?;
    ensure_routes(&vpc, &cluster, &first, &[0, 1])?;
    ensure_routes(&vpc, &cluster, &second, &[0, 1])?;
    assert_eq!(vpc.routes(&vpc.main_table)?, []);
    assert_eq!(bed.complaints(), [""; 0]);
    let answer = vpc.call("DescribeInstances", &[("InstanceId.1", &vpc.instances[0].id)])?;
    let subnet = answer.split("<subnetId>").nth(1).and_then(|rest| rest.split('<').next());
    let own = vpc.add_table()?;
    vpc.call("AssociateRouteTable", &[("RouteTableId", &own), ("SubnetId", subnet.context("no subnet")?)])?;
    drop(bed);
    let bed = Bed::start(&cluster, CONFIG, &vpc)?;
    ensure_routes(&vpc, &cluster, &own, &[0])?;
    ensure_routes(&vpc, &cluster, &vpc.main_table, &[1])?;
    assert_eq!(bed.complaints(), [""; 0]);
    Ok(())
}

#[test]
fn both_families_have_routes() -> TestResult {
    let cluster = nodes(1)?;
    let vpc = vpc(&cluster)?;
    let config =
        CONFIG.replace("\"Backend\"", "\"EnableIPv6\":true,\"IPv6Network\":\"fd44::/48\",\"Backend\"");
    let bed = Bed::start(&cluster, &config, &vpc)?;
    let node = &cluster.nodes()[0];
    let v6 = node.subnet_env()?.ipv6_subnet.context("no IPv6 subnet")?;
    let base = Ipv6Addr::from_bits(v6.addr.to_bits() & !1);
    let interface = vpc.instances[0].interface.clone();
    let mut expected =
        [subnet(node)?, format!("{base}/64")].map(|to| Route { to, interface: interface.clone() });
    expected.sort();
    eventually("the table has both routes", FOLLOW, || {
        let routes = vpc.routes(&vpc.main_table)?;
        ensure!(routes == expected, "{routes:?} instead of {expected:?}");
        Ok(())
    })?;
    assert_eq!(bed.complaints(), [""; 0]);
    Ok(())
}

#[test]
fn a_route_of_somebody_else_is_named_and_left_alone() -> TestResult {
    let cluster = nodes(2)?;
    let vpc = vpc(&cluster)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(CONFIG)?;
    let node = &cluster.nodes()[0];
    reserve(&etcd, node, 20)?;
    let taken = [
        ("RouteTableId", vpc.main_table.as_str()),
        ("DestinationCidrBlock", "10.5.20.0/24"),
        ("NetworkInterfaceId", vpc.instances[1].interface.as_str()),
    ];
    vpc.call("CreateRoute", &taken)?;
    let agent = start_alone(node, &etcd, &vpc)?;
    let command = format!(
        "aws ec2 delete-route --route-table-id {} --destination-cidr-block 10.5.20.0/24",
        vpc.main_table
    );
    ensure_said(&agent, &command)?;
    let other = Route { to: "10.5.20.0/24".to_owned(), interface: vpc.instances[1].interface.clone() };
    throughout("the route stays", WHILE, || {
        ensure!(vpc.routes(&vpc.main_table)? == std::slice::from_ref(&other), "the route is another one");
        Ok(())
    })?;
    assert_eq!(agent.log().matches(&command).count(), 1, "{}", agent.log());
    let status = String::from_utf8(run(node, &["status"])?.stdout)?;
    assert!(status.contains(&command), "{status}");
    vpc.call("DeleteRoute", &taken[..2])?;
    ensure_routes(&vpc, &cluster, &vpc.main_table, &[0])?;
    ensure_said(&agent, "nothing in the cloud's settings keeps packets from pods any more")?;
    Ok(())
}

#[test]
fn a_cloud_that_refuses_or_is_away_delays_nothing_on_the_node() -> TestResult {
    let cluster = nodes(1)?;
    let vpc = vpc(&cluster)?;
    vpc.refuse(2);
    // The node is ready, and has its pod, while requests are refused.
    let mut bed = Bed::start(&cluster, CONFIG, &vpc)?;
    ensure_said(&bed.agents[0], "RequestLimitExceeded")?;
    let after = vpc.take_actions().len();
    ensure_routes(&vpc, &cluster, &vpc.main_table, &[0])?;
    ensure_said(&bed.agents[0], "the cloud's routes are complete again")?;
    assert!(after <= 3, "{after} requests in a row");
    drop(vpc);
    bed.agents[0].restart()?;
    ensure_said(&bed.agents[0], "asking the instance's metadata for instance-id")?;
    ensure_nothing_local(&bed, &cluster.nodes()[0])?;
    Ok(())
}

#[test]
fn a_route_to_an_instance_that_is_gone_is_removed_once_its_lease_has_ended() -> TestResult {
    let cluster = nodes(3)?;
    let vpc = vpc(&cluster)?;
    let mut bed = Bed::start(&cluster, CONFIG, &vpc)?;
    ensure_routes(&vpc, &cluster, &vpc.main_table, &[0, 1, 2])?;
    let dead = route(&vpc, &cluster, 2)?;
    bed.agents[2].kill()?;
    vpc.end_instance(2);
    throughout("a route with a lease stays", WHILE, || {
        ensure!(vpc.routes(&vpc.main_table)?.contains(&dead), "it is removed");
        Ok(())
    })?;
    let lease = bed.etcd.subnets()?.into_iter().find(|entry| entry.key.contains(&dead.to.replace('/', "-")));
    bed.etcd.delete(&lease.context("no lease")?.key)?;
    eventually("the route is removed", Duration::from_secs(30), || {
        let routes = vpc.routes(&vpc.main_table)?;
        ensure!(!routes.contains(&dead) && routes.len() == 2, "{routes:?}");
        Ok(())
    })?;
    assert!(bed.agents.iter().any(|agent| agent.log().contains("a route that nobody uses is removed")));
    assert_eq!(bed.complaints(), [""; 0]);
    Ok(())
}

#[test]
fn a_permission_that_is_missing_is_named() -> TestResult {
    let cluster = nodes(1)?;
    let vpc = Vpc::start(&cluster, &policy()?.replace("\"ec2:CreateRoute\", ", ""))?;
    let bed = Bed::start(&cluster, CONFIG, &vpc)?;
    ensure_said(&bed.agents[0], "Permit ec2:CreateRoute to the role of the instance")?;
    assert_eq!(vpc.routes(&vpc.main_table)?, []);
    Ok(())
}
