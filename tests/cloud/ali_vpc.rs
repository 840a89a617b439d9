//! The backend ali-vpc, on a server that checks signatures and answers as Alibaba Cloud's VPC does.

use anyhow::{Context as _, Result, ensure};
use flannel_tests::cloud::ali::{Route, TABLE, Vpc};
use flannel_tests::wait::throughout;
use flannel_tests::{AgentBuilder, Cluster, TestResult, eventually};

use super::{Bed, FOLLOW, WHILE, ensure_nothing_local, ensure_said, nodes, reserve, start_alone, subnet};
use crate::overlay::refusal;

pub(super) const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"ali-vpc"}}"#;

/// Returns the route to a node's subnet.
fn route(vpc: &Vpc, cluster: &Cluster, node: usize) -> Result<Route> {
    let to = subnet(&cluster.nodes()[node])?;
    Ok(Route { name: format!("flannel-{}", to.replace(['.', '/'], "-")), to, instance: vpc.instance(node) })
}

/// Waits until the VPC has the routes to these nodes, and no others.
fn ensure_routes(vpc: &Vpc, cluster: &Cluster, nodes: &[usize]) -> Result<()> {
    eventually("the table has the nodes' routes", FOLLOW, || {
        let mut expected = nodes.iter().map(|node| route(vpc, cluster, *node)).collect::<Result<Vec<_>>>()?;
        expected.sort();
        let routes = vpc.routes();
        ensure!(routes == expected, "{routes:?} instead of {expected:?}");
        Ok(())
    })
}

#[test]
fn pods_reach_each_other_by_the_vpcs_routes_with_the_instances_role() -> TestResult {
    let cluster = nodes(3)?;
    let vpc = Vpc::start(&cluster, true)?;
    let bed = Bed::start(&cluster, CONFIG, &vpc)?;
    ensure_routes(&vpc, &cluster, &[0, 1, 2])?;
    bed.ensure_all_reach_all(&cluster, &vpc)?;
    ensure_nothing_local(&bed, &cluster.nodes()[0])?;
    assert_eq!(bed.complaints(), [""; 0]);
    Ok(())
}

#[test]
fn the_key_of_the_configuration_or_flannels_variables_is_used_and_never_shown() -> TestResult {
    let cluster = nodes(1)?;
    let vpc = Vpc::start(&cluster, false)?;
    let key = vpc.key();
    let with_key = CONFIG.replace(
        "ali-vpc\"",
        &format!(
            "ali-vpc\",\"RegionID\":\"cn-hangzhou\",\"AccessKeyID\":\"{}\",\"AccessKeySecret\":\"{}\"",
            key.id, key.secret
        ),
    );
    for config in [with_key.as_str(), CONFIG] {
        let variables = |agent: AgentBuilder| {
            if config == CONFIG {
                agent.env("ACCESS_KEY_ID", &key.id).env("ACCESS_KEY_SECRET", &key.secret)
            } else {
                agent
            }
        };
        let bed = Bed::start_with(&cluster, config, &vpc, |agent| variables(agent).arg("-v=6"))?;
        ensure_routes(&vpc, &cluster, &[0])?;
        if config == with_key {
            let changed = config.replace(&key.secret, "another-secret-bed");
            bed.etcd.configure(&changed)?;
            ensure_said(&bed.agents[0], "Backend.AccessKeySecret from a secret to a secret")?;
        }
        let log = bed.agents[0].log();
        assert!(!log.contains(&key.secret) && !log.contains("another-secret-bed"), "{log}");
        drop(bed);
        vpc.remove_routes();
    }
    Ok(())
}

#[test]
fn conflicts_limits_and_too_many_requests_are_said_with_what_to_do() -> TestResult {
    let cluster = nodes(2)?;
    let vpc = Vpc::start(&cluster, true)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(CONFIG)?;
    let node = &cluster.nodes()[0];
    reserve(&etcd, node, 20)?;
    let to = |number: u8| format!("10.5.{number}.0/24");
    let foreign = Route { to: to(20), name: "by-hand".to_owned(), instance: vpc.instance(1) };
    let id = vpc.add_route(foreign.clone());
    // The node's of before, as flannel made it; and one of a node that is gone.
    vpc.add_route(Route { to: to(77), name: String::new(), instance: vpc.instance(0) });
    vpc.add_route(Route { to: to(99), name: "flannel-10-5-99-0-24".to_owned(), instance: vpc.instance(1) });
    vpc.refuse(1, 400, "Throttling.User", "Request was denied due to user flow control.");
    let agent = start_alone(node, &etcd, &vpc)?;
    ensure_said(&agent, "Throttling.User: Request was denied due to user flow control.")?;
    ensure_said(&agent, &format!("aliyun vpc DeleteRouteEntry --RouteEntryId {id}"))?;
    eventually("what is left over is removed, and the foreign route stays", FOLLOW, || {
        let routes = vpc.routes();
        ensure!(routes == std::slice::from_ref(&foreign), "{routes:?}");
        Ok(())
    })?;
    throughout("the foreign route stays", WHILE, || {
        ensure!(vpc.routes() == std::slice::from_ref(&foreign), "{:?}", vpc.routes());
        Ok(())
    })?;
    vpc.refuse(20, 400, "QuotaExceeded.RouteEntry", "The number of route entries exceeds the quota.");
    vpc.remove_route(&id);
    ensure_said(&agent, "Have the quota of custom routes per route table raised")?;
    vpc.refuse(0, 400, "", "");
    ensure_routes(&vpc, &cluster, &[0])?;
    ensure_said(&agent, TABLE).context("the table is named")?;
    Ok(())
}

#[test]
fn ipv6_is_refused() -> TestResult {
    let cluster = nodes(1)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(
        &CONFIG.replace("\"Backend\"", "\"EnableIPv6\":true,\"IPv6Network\":\"fd44::/48\",\"Backend\""),
    )?;
    let said = refusal(&cluster.nodes()[0], |agent| agent.etcd(&etcd))?;
    assert!(said.contains("ali-vpc, which carries IPv4 only"), "{said}");
    Ok(())
}
