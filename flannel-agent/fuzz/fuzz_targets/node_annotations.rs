//! Nodes of Kubernetes with flannel's annotations, a Node in each line, as the API server writes them.
#![no_main]

use std::collections::BTreeSet;

use flannel_agent::config::NetworkConfig;
use flannel_agent::lease::kube::leases_of;
use flannel_agent::lease::set::LeaseSet;
use flannel_agent::lease::{LeaseAttrs, LeaseUpdate, SubnetKey};
use flannel_fuzz::check_error;
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const PREFIX: &str = "flannel.alpha.coreos.com";
const MANAGED: &str = "flannel.alpha.coreos.com/kube-subnet-manager";
const CONFIG: &str = r#"{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd44::/48", "Backend": {"Type": "vxlan"}}"#;

fuzz_target!(|text: &str| {
    let (leases, problems) = match leases_of(text.lines(), PREFIX) {
        Ok(found) => found,
        Err(error) => return check_error(&format!("{error:#}")),
    };
    assert!(problems.iter().all(|problem| !problem.is_empty()));
    // The API server writes objects, which serde would read from lists as well, and no name twice.
    let nodes: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if !nodes.iter().all(|node| is_object(node) && is_object(&node["metadata"]) && is_object(&node["spec"])) {
        return;
    }
    let names: BTreeSet<_> = nodes.iter().map(|node| node["metadata"]["name"].as_str()).collect();
    if names.len() < nodes.len() {
        return;
    }
    let mut keys = BTreeSet::new();
    for lease in &leases {
        let key: SubnetKey = lease.key.parse().expect("the key of a lease");
        assert!(keys.insert(key), "two leases of {key}");
        let name = lease.node.as_deref().expect("the name of its Node");
        let owner = nodes.iter().find(|node| node["metadata"]["name"].as_str().unwrap_or_default() == name);
        let owner = owner.expect("a Node of this name");
        assert_eq!(owner["metadata"]["annotations"][MANAGED], "true", "a lease of a Node without flannel");
        check_subnets(key, &owner["spec"]);
        let attrs = LeaseAttrs::parse(&lease.value).expect("the value of a lease");
        assert!(attrs.public_ip.is_none_or(|ip| !ip.is_unspecified()));
    }
    let config = NetworkConfig::parse(CONFIG).expect("a configuration");
    let networks: Vec<IpNet> = config.networks().collect();
    let mut set = LeaseSet::new(&config, "10.244.0.0-24&fd44::-64".parse().expect("a key"));
    set.apply(LeaseUpdate::Snapshot(leases));
    for peer in set.peers() {
        assert!(networks.iter().any(|network| network.contains(&peer.subnet)), "{peer:?}");
        assert!(peer.vtep_mac.is_some_and(|mac| mac.is_unicast()), "{peer:?}");
    }
});

/// Whether it is a JSON object or absent.
fn is_object(value: &Value) -> bool {
    value.is_object() || value.is_null()
}

/// Checks that the subnets are those of the Node's podCIDRs.
fn check_subnets(key: SubnetKey, spec: &Value) {
    let all = spec["podCIDRs"].as_array().filter(|all| !all.is_empty());
    let texts: Vec<&str> = match all {
        Some(all) => all.iter().filter_map(Value::as_str).collect(),
        None => spec["podCIDR"].as_str().into_iter().collect(),
    };
    let given: BTreeSet<IpNet> =
        texts.iter().map(|text| text.parse::<IpNet>().expect("a network").trunc()).collect();
    assert_eq!(key.nets().collect::<BTreeSet<_>>(), given);
}
