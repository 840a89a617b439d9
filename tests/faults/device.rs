//! What others do to the vxlan device and to the kernel's entries for it.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use flannel_tests::eventually;
use flannel_tests::netns::NetNs;

use super::{AWAY, on};
use crate::inspect::{self, DEVICE};

/// Time limit for the agent to notice.
const NOTICED: Duration = Duration::from_secs(20);

faults! {
    deleted: "flannel.1 deleted", Second, |overlay, node| on(overlay, node, &format!("ip link del {DEVICE}"));

    down: "flannel.1 set down", Second, |overlay, node| on(overlay, node, &format!("ip link set {DEVICE} down"));

    renamed: "flannel.1 renamed", Nothing, |overlay, node| {
        on(overlay, node, &format!("ip link set {DEVICE} name mine"))
    };

    moved: "flannel.1 moved to another namespace", Second, |overlay, node| {
        let elsewhere = NetNs::new("elsewhere")?;
        on(overlay, node, &format!("ip link set {DEVICE} netns {}", elsewhere.name()))?;
        // The namespace would end with it.
        eventually("there is another device", NOTICED, || inspect::link(&overlay.nodes()[node], DEVICE))?;
        let links = elsewhere.exec("ip -o link show")?;
        ensure!(!links.contains(DEVICE), "{links}");
        Ok(())
    };

    another_mac: "flannel.1 given another MAC", Second, |overlay, node| {
        on(overlay, node, &format!("ip link set {DEVICE} address 02:00:00:00:00:99"))
    };

    another_mtu: "flannel.1 given another MTU", Nothing, |overlay, node| {
        on(overlay, node, &format!("ip link set {DEVICE} mtu 1300"))
    };

    // The kernel removes the routes of an interface without an address.
    without_its_address: "address of flannel.1 removed", Second, |overlay, node| {
        on(overlay, node, &format!("ip address flush dev {DEVICE} scope global"))
    };

    without_routes: "routes to peers removed", Second, |overlay, node| {
        on(overlay, node, &format!("ip route flush dev {DEVICE}"))
    };

    without_neighbours: "neighbours and FDB removed", Second, |overlay, node| {
        on(overlay, node, &format!("ip neigh flush dev {DEVICE} nud permanent"))?;
        on(overlay, node, &format!("bridge fdb flush dev {DEVICE}"))
    };

    renumbered: "uplink given another address for 2 s", Second, |overlay, node| {
        let old = overlay.nodes()[node].exec("ip -o -4 address show dev eth0")?;
        let old = old.split_whitespace().nth(3).context("no address")?;
        let (network, host) = old.split_once('/').and_then(|(ip, _)| ip.rsplit_once('.')).context("no octets")?;
        let new = format!("{network}.{}/24", host.parse::<u8>()? + 128);
        let change = |from: &str, to: &str| {
            on(overlay, node, &format!("ip address del {from} dev eth0"))?;
            on(overlay, node, &format!("ip address add {to} dev eth0"))?;
            on(overlay, node, "ip route replace default via 192.168.64.254")
        };
        change(old, &new)?;
        thread::sleep(AWAY);
        change(&new, old)
    };

    // The kernel removes flannel.1 with it.
    uplink_again: "uplink deleted and made anew", Second, |overlay, node| {
        let mac = inspect::link(&overlay.nodes()[node], "eth0")?.mac;
        let fabric = overlay.cluster.fabric().context("no switch between the nodes")?;
        let address = overlay.nodes()[node].exec("ip -o -4 address show dev eth0")?;
        let address = address.split_whitespace().nth(3).context("no address")?;
        on(overlay, node, "ip link del eth0")?;
        let end = format!("eth0 address {mac} netns {}", overlay.nodes()[node].netns().name());
        fabric.ip(&[
            format!("link add {end} type veth peer name n{node}"),
            format!("link set n{node} master seg0 up"),
        ])?;
        on(overlay, node, "ip link set eth0 up")?;
        on(overlay, node, &format!("ip address add {address} dev eth0"))?;
        on(overlay, node, "ip route replace default via 192.168.64.254")
    };

    uplink_down: "uplink down and up again", Second, |overlay, node| {
        on(overlay, node, "ip link set eth0 down")?;
        on(overlay, node, "ip link set eth0 up")?;
        on(overlay, node, "ip route replace default via 192.168.64.254")
    };
}
