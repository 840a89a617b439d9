//! The uplink stays as long as it is up and has its address, whatever other default routes there are.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::wait::throughout;
use flannel_tests::{TestResult, eventually};

use crate::inspect::{self, DEVICE};
use crate::overlay::Overlay;

const FOLLOW: Duration = Duration::from_secs(5);
/// Longer than the agent waits for the end of a burst of changes.
const WHILE: Duration = Duration::from_millis(1500);

/// Returns uplink, source address and MAC of the first node's vxlan device.
fn device(overlay: &Overlay) -> Result<[String; 3]> {
    let links = overlay.nodes()[0].netns().exec_json(&format!("ip -j -d link show dev {DEVICE}"))?;
    let data = &links[0]["linkinfo"]["info_data"];
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned).context("no text");
    Ok([text(&data["link"])?, text(&data["local"])?, text(&links[0]["address"])?])
}

#[test]
fn a_better_default_route_elsewhere_does_not_move_the_overlay() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let node = overlay.nodes()[0].netns();
    node.ip(&["route add default via 192.168.64.254 metric 1000", "route del default metric 0"])?;
    // Three for the node and two for its pod.
    let (before, programs) = (device(&overlay)?, inspect::attached_all(&overlay.nodes()[0], 5)?);
    let streams = overlay.streams()?;
    let port = overlay.pods[0][0].port().to_owned();
    // A second network card, and what DHCP clients do that are not told to leave pods' ports and overlay alone.
    node.ip(&[
        "link add eth1 type veth peer name far1".to_owned(),
        "link set far1 up".to_owned(),
        "link set eth1 up".to_owned(),
        "addr add 10.9.0.3/24 dev eth1".to_owned(),
        "route add default via 10.9.0.254 metric 100".to_owned(),
        format!("addr add 169.254.8.8/16 dev {port}"),
        format!("route add default dev {port} metric 10"),
        format!("addr add 169.254.9.9/16 dev {DEVICE}"),
        format!("route add default dev {DEVICE} metric 5"),
    ])?;
    throughout("the overlay stays where it is", WHILE, || {
        ensure!(device(&overlay)? == before, "the device is {:?}", device(&overlay)?);
        Ok(())
    })?;
    streams.ensure_whole()?;
    assert_eq!(inspect::attached(&overlay.nodes()[0])?, programs, "the programs were loaded again");

    overlay.agents[0].restart()?;
    assert_eq!(device(&overlay)?, before, "a restarted agent moved");

    overlay.nodes()[0].netns().ip(&["addr del 192.168.64.1/24 dev eth0"])?;
    eventually("the next best route is used", FOLLOW, || {
        let [uplink, local, mac] = device(&overlay)?;
        ensure!((uplink.as_str(), local.as_str()) == ("eth1", "10.9.0.3"), "{uplink} {local}");
        ensure!(mac == before[2], "the device has the MAC {mac}");
        Ok(())
    })?;
    Ok(())
}
