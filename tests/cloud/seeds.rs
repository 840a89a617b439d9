//! The seeds' set-up with each cloud: the unit's `--ip-masq`, subnet.env, and Docker with the options that are made of it.

use anyhow::{Result, ensure};
use flannel_tests::cloud::{self, Cloud, ali, gce};
use flannel_tests::traffic::ping;
use flannel_tests::{Cluster, Docker, Host as _, TestResult, eventually};

use super::{FOLLOW, ali_vpc, aws_vpc, inside, nodes};
use crate::network::docker::{docker_options, seen, start_docker};

#[test]
fn containers_reach_each_other_by_aws_vpc() -> TestResult {
    let cluster = nodes(2)?;
    let vpc = aws_vpc::vpc(&cluster)?;
    Ok(ensure_works(&cluster, aws_vpc::CONFIG, &vpc)?)
}

#[test]
fn containers_reach_each_other_by_gce() -> TestResult {
    let cluster = nodes(2)?;
    let project = gce::Project::start(&cluster)?;
    Ok(ensure_works(&cluster, super::gce::CONFIG, &project)?)
}

#[test]
fn containers_reach_each_other_by_ali_vpc() -> TestResult {
    let cluster = nodes(2)?;
    let vpc = ali::Vpc::start(&cluster, true)?;
    Ok(ensure_works(&cluster, ali_vpc::CONFIG, &vpc)?)
}

/// Fails unless containers of both nodes reach each other with their own addresses, and others with their node's.
fn ensure_works(cluster: &Cluster, config: &str, cloud: &dyn Cloud) -> Result<()> {
    let etcd = cluster.start_etcd()?;
    etcd.configure(config)?;
    let _agents = cluster.start_agents_with(&etcd, |agent| inside(agent.arg("--ip-masq"), cloud))?;
    let dockers = cluster.nodes().iter().map(start_docker).collect::<Result<Vec<_>>>()?;
    let containers = dockers.iter().map(Docker::start_web_server).collect::<Result<Vec<_>>>()?;
    let [one, other] = &containers[..] else { unreachable!("two nodes") };
    eventually("containers reach each other", FOLLOW, || {
        cloud::program(cluster, cloud)?;
        ping(one, other.ip()).and(ping(other, one.ip()))
    })?;
    for node in cluster.nodes() {
        let options = docker_options(node)?;
        ensure!(options.contains("--ip-masq=false --mtu=1500"), "{options}");
    }
    let [own, another] = [&cluster.nodes()[0], &cluster.nodes()[1]];
    let sources = [seen(one, other)?, seen(one, another)?];
    ensure!(sources == [one.ip(), own.ip().into()], "{sources:?}");
    Ok(())
}
