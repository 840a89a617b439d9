use super::*;
use crate::lease::kube::annotations::Prefix;
use crate::lease::kube::node::Object;

fn node(json: &str) -> NodeView {
    let object: Object<'_> = serde_json::from_str(json).unwrap();
    NodeView::new(&object, &Prefix::new("flannel.alpha.coreos.com").unwrap())
}

fn with_cidrs(spec: &str) -> NodeView {
    node(&format!(r#"{{"metadata":{{"name":"w1"}},"spec":{{{spec}}}}}"#))
}

fn with_annotations(annotations: &str) -> NodeView {
    let annotations = annotations.replace("F/", "flannel.alpha.coreos.com/");
    node(&format!(r#"{{"metadata":{{"name":"w1","annotations":{{{annotations}}}}},"spec":{{}}}}"#))
}

#[test]
fn pod_cidrs_are_the_subnet() {
    for (spec, expected) in [
        (r#""podCIDR":"10.244.1.0/24","podCIDRs":["10.244.1.0/24"]"#, "10.244.1.0-24"),
        (r#""podCIDR":"10.244.1.0/24""#, "10.244.1.0-24"),
        (
            r#""podCIDR":"10.244.1.0/24","podCIDRs":["10.244.1.0/24","fd44:0:0:4b::/64"]"#,
            "10.244.1.0-24&fd44:0:0:4b::-64",
        ),
        (r#""podCIDRs":["fd44:0:0:4b::/64","10.244.1.0/24"]"#, "10.244.1.0-24&fd44:0:0:4b::-64"),
        (r#""podCIDRs":["fd44:0:0:4b::/64"]"#, "0.0.0.0-0&fd44:0:0:4b::-64"),
        (r#""podCIDRs":["10.244.1.7/24"]"#, "10.244.1.0-24"),
    ] {
        assert_eq!(subnet(&with_cidrs(spec)).unwrap().to_string(), expected, "{spec}");
    }
}

#[test]
fn a_wrong_pod_cidr_is_reported_with_node_and_remedy() {
    let config = NetworkConfig::parse(
        r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd44::/48","Backend":{"Type":"vxlan"}}"#,
    )
    .unwrap();
    for (spec, words) in [
        ("", ["w1 has no podCIDR", "--allocate-node-cidrs=true and --cluster-cidr"]),
        (r#""podCIDR":null,"podCIDRs":null"#, ["w1 has no podCIDR", "--allocate-node-cidrs"]),
        (r#""podCIDRs":["10.244.1.0"]"#, ["w1 has the podCIDR \"10.244.1.0\"", "delete the node"]),
        (r#""podCIDRs":["0.0.0.0/0","fd44::/64"]"#, ["w1 has the podCIDR \"0.0.0.0/0\"", "delete the node"]),
        (
            r#""podCIDRs":["10.244.1.0/24","10.244.2.0/24"]"#,
            ["w1 has more than one podCIDR", "delete the node"],
        ),
        (r#""podCIDRs":["10.244.1.0/24"]"#, ["w1 has no podCIDR inside fd44::/48", "--cluster-cidr"]),
        (
            r#""podCIDRs":["10.9.1.0/24","fd44::/64"]"#,
            ["w1 has the podCIDR 10.9.1.0/24, which is outside 10.244.0.0/16", "net-conf.json"],
        ),
    ] {
        let spec = spec.replace("null", "[]").replace("\"podCIDR\":[],", "");
        let message = own_subnet(&with_cidrs(&spec), &config).unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{spec}: {message}");
    }
}

#[test]
fn the_own_subnet_has_the_families_of_the_network_alone() {
    let config = NetworkConfig::parse(r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap();
    let node = with_cidrs(r#""podCIDRs":["10.244.1.0/24","fd44::/64"]"#);
    assert_eq!(own_subnet(&node, &config).unwrap().to_string(), "10.244.1.0-24");
}

#[test]
fn annotations_become_the_value_that_etcd_would_have() {
    for (annotations, expected) in [
        (
            r#""F/backend-data":"{\"VNI\":1,\"VtepMAC\":\"c6:d2:32:6f:8f:44\"}","F/backend-type":"vxlan",
               "F/kube-subnet-manager":"true","F/public-ip":"192.168.64.3","example.com/other":"x""#,
            r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#,
        ),
        (
            r#""F/backend-data":"null","F/backend-type":"host-gw","F/public-ip":"192.168.64.3",
               "F/public-ipv6":"fd00::3","F/backend-v6-data":"null""#,
            r#"{"PublicIP":"192.168.64.3","PublicIPv6":"fd00::3","BackendType":"host-gw"}"#,
        ),
        // A Windows node.
        (
            r#""F/backend-data":"{\"VNI\":4096,\"VtepMAC\":\"00:15:5d:17:a3:02\"}","F/backend-type":"vxlan","F/public-ip":"10.0.0.4""#,
            r#"{"PublicIP":"10.0.0.4","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":4096,"VtepMAC":"00:15:5d:17:a3:02"}}"#,
        ),
        // What cannot be read.
        (
            r#""F/backend-data":"{\"VNI\":1","F/backend-type":"vxlan","F/public-ip":"one""#,
            r#"{"PublicIP":"0.0.0.0","PublicIPv6":null,"BackendType":"vxlan","BackendData":"{\"VNI\":1"}"#,
        ),
    ] {
        let attrs = attrs(&with_annotations(annotations));
        assert_eq!(serde_json::to_string(&attrs).unwrap(), expected, "{annotations}");
    }
}

#[test]
fn a_node_counts_once_flannel_has_said_how_to_reach_it() {
    let mac = r#""F/backend-data":"{\"VNI\":4096,\"VtepMAC\":\"00:15:5d:17:a3:02\"}""#;
    for (annotations, expected) in [
        ("", false),
        (mac, false),
        (r#""F/kube-subnet-manager":"false""#, false),
        (r#""F/kube-subnet-manager":"true""#, true),
        (&format!(r#""F/kube-subnet-manager":"true",{mac}"#), true),
        // A Windows node that has yet to make its device.
        (r#""F/kube-subnet-manager":"true","F/backend-data":"{\"VNI\":4096,\"VtepMAC\":\"\"}""#, false),
    ] {
        assert_eq!(is_managed(&with_annotations(annotations)), expected, "{annotations}");
    }
}

#[test]
fn an_administrators_address_replaces_the_announced_one() {
    let given: LeaseAttrs =
        serde_json::from_str(r#"{"PublicIP":"192.168.64.3","PublicIPv6":"fd00::3","BackendType":"vxlan"}"#)
            .unwrap();
    let node =
        with_annotations(r#""F/public-ip-overwrite":"203.0.113.9","F/public-ipv6-overwrite":"2001:db8::9""#);
    let attrs = with_overwrites(given.clone(), &node);
    assert_eq!(attrs.public_ip, Some([203, 0, 113, 9].into()));
    assert_eq!(attrs.public_ipv6, Some("2001:db8::9".parse().unwrap()));
    let node = with_annotations(r#""F/public-ip-overwrite":"nonsense""#);
    assert_eq!(with_overwrites(given.clone(), &node).public_ip, given.public_ip);
}
