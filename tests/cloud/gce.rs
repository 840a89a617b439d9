//! The backend gce, on a server that checks tokens and answers as Compute Engine does.

use anyhow::{Result, ensure};
use flannel_tests::cloud::gce::Project;
use flannel_tests::wait::throughout;
use flannel_tests::{Cluster, TestResult, eventually};

use super::{Bed, FOLLOW, WHILE, ensure_nothing_local, ensure_said, nodes, reserve, start_alone, subnet};

pub(super) const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"gce"}}"#;

/// Returns the route to a node's subnet.
fn route(cluster: &Cluster, node: usize) -> Result<(String, String, String)> {
    let node = &cluster.nodes()[node];
    let to = subnet(node)?;
    Ok((format!("flannel-{}", to.replace(['.', '/'], "-")), to, node.name().to_owned()))
}

/// Waits until the project has the routes to these nodes, and no others.
fn ensure_routes(project: &Project, cluster: &Cluster, nodes: &[usize]) -> Result<()> {
    eventually("the project has the nodes' routes", FOLLOW, || {
        let mut expected = nodes.iter().map(|node| route(cluster, *node)).collect::<Result<Vec<_>>>()?;
        expected.sort();
        let routes = project.routes();
        ensure!(routes == expected, "{routes:?} instead of {expected:?}");
        Ok(())
    })
}

#[test]
fn pods_reach_each_other_by_the_projects_routes() -> TestResult {
    let cluster = nodes(3)?;
    let project = Project::start(&cluster)?;
    let bed = Bed::start(&cluster, CONFIG, &project)?;
    ensure_routes(&project, &cluster, &[0, 1, 2])?;
    bed.ensure_all_reach_all(&cluster, &project)?;
    ensure_nothing_local(&bed, &cluster.nodes()[0])?;
    assert_eq!(bed.complaints(), [""; 0]);
    // A route that somebody has removed, and tokens that hold no longer.
    project.revoke();
    project.remove_route(&route(&cluster, 1)?.0);
    ensure_routes(&project, &cluster, &[0, 1, 2])?;
    Ok(())
}

#[test]
fn an_instance_that_may_not_forward_and_a_foreign_route_are_named() -> TestResult {
    let cluster = nodes(2)?;
    let project = Project::start(&cluster)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(CONFIG)?;
    let node = &cluster.nodes()[0];
    reserve(&etcd, node, 20)?;
    project.set_forwarding(false);
    project.add_route("by-hand", "10.5.20.0/24", "node2");
    let agent = start_alone(node, &etcd, &project)?;
    ensure_said(&agent, "canIpForward of the instance node1 is false")?;
    ensure_said(&agent, "gcloud compute routes delete by-hand")?;
    throughout("the foreign route stays alone", WHILE, || {
        let routes = project.routes();
        ensure!(routes.len() == 1 && routes[0].0 == "by-hand", "{routes:?}");
        Ok(())
    })?;
    project.remove_route("by-hand");
    project.set_forwarding(true);
    ensure_routes(&project, &cluster, &[0])?;
    ensure_said(&agent, "nothing in the cloud's settings keeps packets from pods any more")?;
    Ok(())
}

#[test]
fn a_route_of_a_former_node_is_taken_over_and_one_without_a_lease_is_removed() -> TestResult {
    let cluster = nodes(2)?;
    let project = Project::start(&cluster)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(CONFIG)?;
    let node = &cluster.nodes()[0];
    reserve(&etcd, node, 20)?;
    project.add_route("flannel-10-5-20-0-24", "10.5.20.0/24", "node2");
    project.add_route("flannel-10-5-99-0-24", "10.5.99.0/24", "node2");
    project.add_route("flannel-10-9-99-0-24", "10.9.99.0/24", "node2");
    let _agent = start_alone(node, &etcd, &project)?;
    eventually("the routes are tidy", FOLLOW, || {
        let routes = project.routes();
        let found: Vec<_> = routes.iter().map(|(name, _, node)| (name.as_str(), node.as_str())).collect();
        ensure!(found == [("flannel-10-5-20-0-24", "node1"), ("flannel-10-9-99-0-24", "node2")], "{found:?}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn a_key_file_a_rate_limit_and_a_quota_are_respected() -> TestResult {
    let cluster = nodes(1)?;
    let project = Project::start(&cluster)?;
    let key = project.key_file()?;
    project.refuse(1);
    project.fill(true);
    let bed = Bed::start_with(&cluster, CONFIG, &project, |agent| {
        agent.env("GOOGLE_APPLICATION_CREDENTIALS", key.display().to_string())
    })?;
    ensure_said(&bed.agents[0], "rateLimitExceeded: Rate Limit Exceeded")?;
    ensure_said(&bed.agents[0], "Have the quota of static routes raised")?;
    assert_eq!(project.account_by_key().as_deref(), Some("flannel@bed-1234.iam.gserviceaccount.com"));
    project.fill(false);
    ensure_routes(&project, &cluster, &[0])?;
    ensure_said(&bed.agents[0], "the cloud's routes are complete again")?;
    let private = "BEGIN PRIVATE KEY";
    assert!(!bed.agents[0].log().contains(private) && !bed.agents[0].log().contains("ya29."));
    Ok(())
}
