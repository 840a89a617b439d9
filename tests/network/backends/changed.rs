//! A network that gets another backend or another VNI, with its nodes restarted one by one, as operators do it.

use anyhow::{Result, bail, ensure};
use flannel_agent::dataplane::bpf::pins;
use flannel_tests::{Node, TestResult, Topology, eventually};

use super::{Bed, FOLLOW, base, lines};
use crate::inspect::{self, UPLINK};

/// Returns a configuration with this backend.
fn config(backend: &str) -> String {
    format!(r#"{{"Network":"10.5.0.0/16","SubnetMax":"10.5.63.0","Backend":{{{backend}}}}}"#)
}

/// Returns the devices of a node's routes to the pods of another one.
fn ways(node: &Node, peer: &Node) -> Result<Vec<String>> {
    let routes = lines(node, &format!("ip route show root {}/24", base(peer)?))?;
    let device = |route: &String| Some(route.split(" dev ").nth(1)?.split(' ').next()?.to_owned());
    Ok(routes.iter().filter_map(device).collect())
}

/// Waits until a node has one route to the pods of another one, through this device, and no programs but those with this VNI, or of a
/// network without tunnels.
fn ensure_carries(node: &Node, peer: &Node, device: &str, vni: Option<u32>) -> Result<()> {
    eventually("the backend is the only one", FOLLOW, || {
        let (ways, networks) = (ways(node, peer)?, pins::vnis(node.bpffs()?)?);
        ensure!(ways == [device], "{}: routes through {ways:?}", node.name());
        let [network] = networks[..] else { bail!("{}: programs of {networks:?}", node.name()) };
        ensure!(
            Some(network) == vni || vni.is_none() && pins::is_routed(network),
            "{}: {network}",
            node.name()
        );
        Ok(())
    })
}

#[test]
fn pods_reach_each_other_and_nothing_of_the_former_programs_stays() -> TestResult {
    let mut bed = Bed::start(Topology::segment(2), &config(r#""Type":"vxlan""#))?;
    bed.ensure_all_reach_all()?;
    ensure_carries(&bed.nodes()[0], &bed.nodes()[1], "flannel.1", Some(1))?;
    for (backend, device, vni) in [
        (r#""Type":"host-gw""#, UPLINK, None),
        (r#""Type":"vxlan""#, "flannel.1", Some(1)),
        (r#""Type":"vxlan","VNI":7"#, "flannel.7", Some(7)),
        (r#""Type":"host-gw""#, UPLINK, None),
    ] {
        bed.etcd.configure(&config(backend))?;
        for agent in &mut bed.agents {
            agent.restart()?;
        }
        bed.ensure_all_reach_all()?;
        let [one, other] = bed.nodes() else { unreachable!("two nodes") };
        ensure_carries(one, other, device, vni)?;
        ensure_carries(other, one, device, vni)?;
        // One network's at each hook.
        for (node, pod) in bed.nodes().iter().zip(&bed.pods) {
            eventually("the port has the programs of one network", FOLLOW, || {
                let programs = inspect::programs(node, pod.port())?;
                ensure!(programs.len() == 2, "{backend}: {programs:?}");
                Ok(())
            })?;
        }
    }
    Ok(())
}
