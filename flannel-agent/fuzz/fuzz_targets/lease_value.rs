//! The value of a lease, and the backend's data in it.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use flannel_agent::config::NetworkConfig;
use flannel_agent::lease::set::LeaseSet;
use flannel_agent::lease::{LeaseAttrs, LeaseUpdate, PublicIps, RawLease};
use flannel_fuzz::check_error;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;

const KEY: &str = "10.5.2.0-24&fd44:0:0:2::-64";
const NETWORK: &str = r#""Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd44::/48""#;

/// A configuration for each backend, and whether its leases have MACs.
static CONFIGS: LazyLock<[(NetworkConfig, bool); 4]> = LazyLock::new(|| {
    [("vxlan", true), ("host-gw", false), ("udp", false), ("alloc", false)].map(|(backend, has_macs)| {
        let config = format!(r#"{{{NETWORK}, "Backend": {{"Type": "{backend}", "VNI": 1}}}}"#);
        (NetworkConfig::parse(&config).expect("a configuration"), has_macs)
    })
});

/// The fields of a JSON object. What a lease does not use may be anything, also a number that no [`Value`] can hold.
type Fields = BTreeMap<String, Box<RawValue>>;

fn fields(json: &str) -> Fields {
    serde_json::from_str(json).expect("a JSON object, since it has made peers")
}

fn value(fields: &Fields, name: &str) -> Value {
    fields.get(name).map_or(Value::Null, |json| serde_json::from_str(json.get()).expect("a value"))
}

fuzz_target!(|bytes: &[u8]| {
    let lease = RawLease::new(KEY.to_owned(), bytes.to_vec());
    let attrs = LeaseAttrs::parse(bytes);
    if let Ok(attrs) = &attrs {
        let written = serde_json::to_string(attrs).expect("what was read can be written");
        let again = LeaseAttrs::parse(written.as_bytes()).expect("what was written can be read");
        assert_eq!(serde_json::to_string(&again).ok().as_ref(), Some(&written));
        assert_eq!(PublicIps::from(attrs), PublicIps::of_holder(&lease));
        assert!(again.vtep_macs().eq(attrs.vtep_macs()));
    }
    for (config, has_macs) in CONFIGS.iter() {
        let mut set = LeaseSet::new(config, "10.5.1.0-24&fd44:0:0:1::-64".parse().expect("a key"));
        let refusals = set.apply(LeaseUpdate::Put(lease.clone()));
        refusals.iter().for_each(check_error);
        let peers = set.peers();
        // All of an entry counts, or nothing.
        assert!(matches!((refusals.len(), peers.len()), (0, 2) | (1, 0)), "{refusals:?} {peers:?}");
        if peers.is_empty() {
            continue;
        }
        let lease = fields(&lease.text());
        for (peer, (ip, data)) in
            peers.iter().zip([("PublicIP", "BackendData"), ("PublicIPv6", "BackendV6Data")])
        {
            let ip = value(&lease, ip);
            assert_eq!(ip.as_str().and_then(|ip| ip.parse().ok()), Some(peer.public_ip));
            assert!(!peer.public_ip.is_unspecified() && !peer.public_ip.is_multicast());
            assert_eq!(peer.vtep_mac.is_some(), *has_macs);
            if let Some(mac) = peer.vtep_mac {
                let data = fields(lease[data].get());
                let text = value(&data, "VtepMAC");
                assert_eq!(text.as_str().expect("a text").to_ascii_lowercase(), mac.to_string());
                assert!(mac.is_unicast());
                assert!(value(&data, "VNI").as_u64().is_none_or(|vni| vni == 1), "another VNI");
            }
        }
    }
});
