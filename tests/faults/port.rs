//! What others do to pods' ports and their bridge.

use flannel_tests::netns::NetNs;
use flannel_tests::pod::port_mac;

/// Number of ports that come and go together.
const CROWD: u16 = 200;
/// Number of the first of them: higher than those of all pods.
const FIRST: u16 = 0x8000;

faults! {
    out_of_the_bridge_and_back: "pod's port taken out of the bridge and put back", Moment, |overlay, node| {
        let port = overlay.pods[node][0].port();
        let lines = [format!("link set {port} nomaster"), format!("link set {port} master cni0")];
        overlay.nodes()[node].netns().ip(&lines)
    };

    down_and_up: "pod's port down and up again", Moment, |overlay, node| {
        let port = overlay.pods[node][0].port();
        overlay.nodes()[node].netns().ip(&[format!("link set {port} down"), format!("link set {port} up")])
    };

    renamed: "pod's port renamed and named back", Moment, |overlay, node| {
        let port = overlay.pods[node][0].port();
        let lines = [format!("link set {port} name renamed"), format!("link set renamed name {port}")];
        overlay.nodes()[node].netns().ip(&lines)
    };

    crowd: "200 more ports of pods come and go", Nothing, |overlay, node| {
        let (node, inside) = (overlay.nodes()[node].netns(), NetNs::new("crowd")?);
        let come = |port| {
            let mac = port_mac(FIRST + port);
            let peer = format!("name eth{port} netns {}", inside.name());
            let link = format!("link add crowd{port} address {mac} type veth peer {peer}");
            [link, format!("link set crowd{port} master cni0 up")]
        };
        node.ip(&(0..CROWD).flat_map(come).collect::<Vec<_>>())?;
        inside.ip(&(0..CROWD).map(|port| format!("link set eth{port} up")).collect::<Vec<_>>())?;
        node.ip(&(0..CROWD).map(|port| format!("link del crowd{port}")).collect::<Vec<_>>())
    };

    another_bridge: "cni0 deleted and made anew", Moment, |overlay, node| {
        let (pods, node) = (&overlay.pods[node], overlay.nodes()[node].netns());
        let addresses = node.exec("ip -o -4 address show dev cni0")?;
        let address = addresses.split_whitespace().nth(3).unwrap_or_default().to_owned();
        node.ip(&[
            "link del cni0".to_owned(),
            "link add cni0 mtu 1450 type bridge".to_owned(),
            format!("addr add {address} dev cni0"),
            "link set cni0 up".to_owned(),
        ])?;
        node.ip(&pods.iter().map(|pod| format!("link set {} master cni0", pod.port())).collect::<Vec<_>>())
    };
}
