//! `--ip-blackhole-route`.

use anyhow::{Result, ensure};
use flannel_tests::traffic::ping;
use flannel_tests::{Node, TestResult, eventually};

use super::{Bed, IPTABLES, SOON};

fn wait_for_blackhole_routes(node: &Node, expected: &str) -> Result<()> {
    eventually("the blackhole routes are the expected ones", SOON, || {
        let routes = node.exec("ip route show type blackhole")?;
        ensure!(routes.trim() == expected, "{routes:?} instead of {expected:?}");
        Ok(())
    })
}

#[test]
fn the_route_is_kept_until_a_bridge_has_the_subnet() -> TestResult {
    let mut bed = Bed::started(2, IPTABLES, &["--ip-blackhole-route"])?;
    wait_for_blackhole_routes(bed.node(0), "blackhole 10.5.1.0/24")?;
    bed.node(0).exec("ip route del blackhole 10.5.1.0/24")?;
    wait_for_blackhole_routes(bed.node(0), "blackhole 10.5.1.0/24")?;
    bed.add_pods()?;
    wait_for_blackhole_routes(bed.node(0), "")?;
    wait_for_blackhole_routes(bed.node(1), "")?;
    ping(&bed.pods[0], bed.pods[1].ip())?;
    Ok(())
}

#[test]
fn the_route_follows_the_flag_and_the_subnet() -> TestResult {
    let mut bed = Bed::started(1, IPTABLES, &["--ip-blackhole-route"])?;
    wait_for_blackhole_routes(bed.node(0), "blackhole 10.5.1.0/24")?;
    bed.node(0).exec("ip route add blackhole 10.5.200.0/24")?;
    bed.store.put("10.5.1.0-24", r#"{"PublicIP":"192.168.64.77"}"#)?;
    bed.store.put("10.5.9.0-24", &format!(r#"{{"PublicIP":"{}"}}"#, bed.node(0).ip()))?;
    eventually("the route has moved", SOON, || {
        let routes = bed.node(0).exec("ip route show type blackhole")?;
        let lines: Vec<_> = routes.lines().map(str::trim).collect();
        ensure!(lines == ["blackhole 10.5.9.0/24", "blackhole 10.5.200.0/24"], "{routes}");
        Ok(())
    })?;
    bed.restart(&["--ip-blackhole-route=false"])?;
    wait_for_blackhole_routes(bed.node(0), "blackhole 10.5.200.0/24")?;
    Ok(())
}
