//! Whether an existing device fits.

use super::*;
use crate::netlink::link::LinkKind;

fn spec() -> DeviceSpec {
    DeviceSpec {
        name: "flannel.1".to_owned(),
        vni: 1,
        port: 8472,
        uplink_index: 2,
        local: "192.168.64.3".parse().unwrap(),
        mtu: 1450,
        gbp: false,
        learning: false,
        mac: None,
    }
}

fn fitting() -> VxlanOptions {
    let DeviceSpec { vni, port, uplink_index, local, gbp, learning, .. } = spec();
    VxlanOptions { vni, port, uplink_index, local: Some(local), gbp, learning }
}

fn link(vxlan: Option<VxlanOptions>) -> Link {
    let kind = vxlan.map_or(LinkKind::Other, LinkKind::Vxlan);
    Link { index: 5, name: spec().name, mac: Some(Mac([2; 6])), mtu: 1500, kind, ..Link::default() }
}

#[test]
fn differences_are_named() {
    let cases = [
        (fitting(), None),
        (VxlanOptions { vni: 7, ..fitting() }, Some("VNI 7 instead of 1")),
        (VxlanOptions { port: 4789, ..fitting() }, Some("port 4789 instead of 8472")),
        (VxlanOptions { uplink_index: 0, ..fitting() }, Some("uplink index 0 instead of 2")),
        (VxlanOptions { local: None, ..fitting() }, Some("local address none instead of 192.168.64.3")),
        (VxlanOptions { gbp: true, ..fitting() }, Some("GBP true instead of false")),
        (VxlanOptions { learning: true, ..fitting() }, Some("learning true instead of false")),
        (
            VxlanOptions { vni: 7, learning: true, ..fitting() },
            Some("VNI 7 instead of 1, learning true instead of false"),
        ),
    ];
    for (vxlan, expected) in cases {
        assert_eq!(difference(&spec(), &link(Some(vxlan))).as_deref(), expected);
    }
    assert_eq!(difference(&spec(), &link(None)).as_deref(), Some("it is not a vxlan device"));
}

#[test]
fn random_macs_are_local_unicast_and_differ() {
    let (one, other) = (random_mac().unwrap(), random_mac().unwrap());
    assert_eq!((one.0[0] & 3, other.0[0] & 3), (2, 2));
    assert_ne!(one, other);
}
