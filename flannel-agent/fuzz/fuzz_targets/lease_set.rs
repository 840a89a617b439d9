//! Leases that appear, change and vanish. Each line is a change of the datastore: `+key value` writes an entry, `-key` removes one, and
//! `=` reads all of them again, as after a gap in the events.
#![no_main]

use std::collections::BTreeMap;

use flannel_agent::config::NetworkConfig;
use flannel_agent::lease::set::LeaseSet;
use flannel_agent::lease::{LeaseUpdate, RawLease, SubnetKey};
use flannel_agent::peer::Peer;
use flannel_fuzz::check_error;
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;

const CONFIG: &str = r#"{"Network": "10.5.0.0/21", "EnableIPv6": true, "IPv6Network": "fd44::/61", "Backend": {"Type": "vxlan"}}"#;
const NETWORKS: [&str; 2] = ["10.5.0.0/21", "fd44::/61"];
const OWN: [&str; 2] = ["10.5.1.0/24", "fd44:0:0:1::/64"];
const OWN_KEY: &str = "10.5.1.0-24&fd44:0:0:1::-64";
/// A lease that no line changes: no other entry may harm it.
const GOOD: (&str, &str) = (
    "10.5.7.0-24",
    r#"{"PublicIP":"192.168.64.7","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:07"}}"#,
);
/// More lines take longer and find nothing else.
const LINES: usize = 20;

type Datastore = BTreeMap<String, String>;

fuzz_target!(|text: &str| {
    let config = NetworkConfig::parse(CONFIG).expect("a configuration");
    let mut set = LeaseSet::new(&config, OWN_KEY.parse().expect("a key"));
    let mut datastore = Datastore::from([(GOOD.0.to_owned(), GOOD.1.to_owned())]);
    set.apply(snapshot(&datastore));
    for line in text.lines().take(LINES) {
        let Some(update) = change(line, &mut datastore) else { continue };
        set.apply(update).iter().for_each(check_error);
        check(&set.peers(), &datastore);
        // What is known already changes and reports nothing.
        let before = set.peers();
        assert_eq!(set.apply(snapshot(&datastore)), []);
        assert_eq!(set.peers(), before, "a snapshot that repeats changes something");
    }
    set.apply(LeaseUpdate::Snapshot(Vec::new()));
    assert_eq!(set.peers(), [], "peers of an empty datastore");
});

fn lease(key: &str, value: &str) -> RawLease {
    RawLease::new(key.to_owned(), value.as_bytes().to_vec())
}

fn snapshot(datastore: &Datastore) -> LeaseUpdate {
    LeaseUpdate::Snapshot(datastore.iter().map(|(key, value)| lease(key, value)).collect())
}

/// Does to the datastore what a line says. Returns the update that reports it.
fn change(line: &str, datastore: &mut Datastore) -> Option<LeaseUpdate> {
    if line == "=" {
        return Some(snapshot(datastore));
    }
    let (key, value) = line.split_once(' ').unwrap_or((line, ""));
    let (action, key) = key.split_at_checked(1)?;
    if key == GOOD.0 {
        return None;
    }
    match action {
        "+" => {
            datastore.insert(key.to_owned(), value.to_owned());
            Some(LeaseUpdate::Put(lease(key, value)))
        }
        "-" => {
            datastore.remove(key);
            Some(LeaseUpdate::Delete(key.to_owned()))
        }
        _ => None,
    }
}

/// Checks peers by rules that share no code with the agent's, but for the parser of keys, which has its own target.
fn check(peers: &[Peer], datastore: &Datastore) {
    let [networks, own] =
        [NETWORKS, OWN].map(|nets| nets.map(|net| net.parse::<IpNet>().expect("a network")));
    let overlap = |one: &IpNet, other: &IpNet| one.contains(other) || other.contains(one);
    let known: Vec<IpNet> = datastore
        .keys()
        .filter_map(|key| key.parse().ok())
        .flat_map(|key: SubnetKey| key.nets().collect::<Vec<_>>())
        .collect();
    for (n, peer) in peers.iter().enumerate() {
        let subnet = &peer.subnet;
        assert!(networks.iter().any(|network| network.contains(subnet)), "{subnet} is outside the network");
        assert!(!own.iter().any(|own| overlap(own, subnet)), "{subnet} has addresses of this node");
        assert!(!peers[..n].iter().any(|other| overlap(&other.subnet, subnet)), "{subnet} overlaps another");
        assert!(known.contains(subnet), "no entry has {subnet}");
        assert!(!peer.public_ip.is_unspecified() && !peer.public_ip.is_multicast(), "{}", peer.public_ip);
        assert!(peer.vtep_mac.is_some_and(|mac| mac.is_unicast()), "{subnet} without a MAC");
    }
    let good = peers.iter().any(|peer| {
        peer.subnet.to_string() == "10.5.7.0/24"
            && peer.public_ip.to_string() == "192.168.64.7"
            && peer.vtep_mac.is_some_and(|mac| mac.to_string() == "c6:d2:32:6f:8f:07")
    });
    assert!(good, "the good lease is harmed: {peers:?}");
}
