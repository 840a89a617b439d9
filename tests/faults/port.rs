//! What others do to pods' ports and their bridge.

use flannel_tests::TestResult;

use super::Bound::Moment;
use super::endure;

#[test]
fn out_of_the_bridge_and_back() -> TestResult {
    endure("pod's port taken out of the bridge and put back", Moment, |overlay| {
        let port = overlay.pods[0][0].port().to_owned();
        overlay.nodes()[0]
            .netns()
            .ip(&[format!("link set {port} nomaster"), format!("link set {port} master cni0")])
    })
}

#[test]
fn down_and_up() -> TestResult {
    endure("pod's port down and up again", Moment, |overlay| {
        let port = overlay.pods[0][0].port().to_owned();
        overlay.nodes()[0].netns().ip(&[format!("link set {port} down"), format!("link set {port} up")])
    })
}

#[test]
fn renamed() -> TestResult {
    endure("pod's port renamed and named back", Moment, |overlay| {
        let port = overlay.pods[0][0].port().to_owned();
        overlay.nodes()[0]
            .netns()
            .ip(&[format!("link set {port} name renamed"), format!("link set renamed name {port}")])
    })
}

#[test]
fn another_bridge() -> TestResult {
    endure("cni0 deleted and made anew", Moment, |overlay| {
        let (node, port) = (overlay.nodes()[0].netns(), overlay.pods[0][0].port());
        let addresses = node.exec("ip -o -4 address show dev cni0")?;
        let address = addresses.split_whitespace().nth(3).unwrap_or_default().to_owned();
        node.ip(&[
            "link del cni0".to_owned(),
            "link add cni0 mtu 1450 type bridge".to_owned(),
            format!("addr add {address} dev cni0"),
            "link set cni0 up".to_owned(),
            format!("link set {port} master cni0"),
        ])
    })
}
