//! What others do to the vxlan device and to the kernel's entries for it.

use flannel_tests::TestResult;
use flannel_tests::netns::NetNs;

use super::Bound::{Nothing, Second};
use super::endure;
use crate::inspect::DEVICE;

#[test]
fn deleted() -> TestResult {
    endure("flannel.1 deleted", Second, |overlay| {
        overlay.nodes()[0].exec(&format!("ip link del {DEVICE}")).map(drop)
    })
}

#[test]
fn down() -> TestResult {
    endure("flannel.1 set down", Second, |overlay| {
        overlay.nodes()[0].exec(&format!("ip link set {DEVICE} down")).map(drop)
    })
}

#[test]
fn renamed() -> TestResult {
    endure("flannel.1 renamed", Nothing, |overlay| {
        overlay.nodes()[0].exec(&format!("ip link set {DEVICE} name mine")).map(drop)
    })
}

#[test]
fn moved() -> TestResult {
    let elsewhere = NetNs::new("elsewhere")?;
    endure("flannel.1 moved to another namespace", Second, |overlay| {
        overlay.nodes()[0].exec(&format!("ip link set {DEVICE} netns {}", elsewhere.name())).map(drop)
    })
}

#[test]
fn another_mac() -> TestResult {
    endure("flannel.1 given another MAC", Second, |overlay| {
        overlay.nodes()[0].exec(&format!("ip link set {DEVICE} address 02:00:00:00:00:99")).map(drop)
    })
}

#[test]
fn another_mtu() -> TestResult {
    endure("flannel.1 given another MTU", Nothing, |overlay| {
        overlay.nodes()[0].exec(&format!("ip link set {DEVICE} mtu 1300")).map(drop)
    })
}

#[test]
fn without_its_address() -> TestResult {
    endure("address of flannel.1 removed", Nothing, |overlay| {
        overlay.nodes()[0].exec(&format!("ip address flush dev {DEVICE} scope global")).map(drop)
    })
}

#[test]
fn without_routes() -> TestResult {
    endure("routes to peers removed", Second, |overlay| {
        overlay.nodes()[0].exec(&format!("ip route flush dev {DEVICE}")).map(drop)
    })
}

#[test]
fn without_neighbours() -> TestResult {
    endure("neighbours and FDB removed", Second, |overlay| {
        let node = &overlay.nodes()[0];
        node.exec(&format!("ip neigh flush dev {DEVICE} nud permanent"))?;
        node.exec(&format!("bridge fdb flush dev {DEVICE}")).map(drop)
    })
}

#[test]
fn uplink_down() -> TestResult {
    endure("uplink down and up again", Second, |overlay| {
        let node = &overlay.nodes()[0];
        node.exec("ip link set eth0 down")?;
        node.exec("ip link set eth0 up")?;
        node.exec("ip route replace default via 192.168.64.254").map(drop)
    })
}
