//! Properties that hold after any updates, bad ones among them.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::lease::key::overlap;

const OWN: &str = "10.5.1.0-24&fd44:0:0:1::-64";
const HOLD: Duration = Duration::from_secs(300);
const CONFIG: &str = r#"{"Network": "10.5.0.0/21", "EnableIPv6": true, "IPv6Network": "fd44::/61", "Backend": {"Type": "vxlan"}}"#;

/// Generates few subnets, so that they often overlap. Some are outside the network.
fn keys() -> impl Strategy<Value = String> {
    let v4 =
        (0..10u8, 22..26u8).prop_map(|(n, len)| Ipv4Net::new([10, 5, n, 0].into(), len).unwrap().trunc());
    let v6 = (0..10u16, 62..65u8)
        .prop_map(|(n, len)| Ipv6Net::new([0xfd44, 0, 0, n, 0, 0, 0, 0].into(), len).unwrap().trunc());
    let subnets = (option::weighted(0.8, v4), option::weighted(0.7, v6));
    prop_oneof![
        20 => subnets.prop_map(|(v4, v6)| SubnetKey { v4, v6 }.to_string()),
        1 => Just(OWN.to_owned()),
        1 => "[a-z0-9.&-]{0,12}",
    ]
}

fn values() -> impl Strategy<Value = String> {
    let good = (1..5u8, 1..5u8).prop_map(|(ip, mac)| {
        let data = format!(r#"{{"VNI":1,"VtepMAC":"c6:00:00:00:00:{mac:02x}"}}"#);
        format!(
            r#"{{"PublicIP":"192.168.0.{ip}","PublicIPv6":"fd00::{ip}","BackendType":"vxlan","BackendData":{data},"BackendV6Data":{data}}}"#
        )
    });
    prop_oneof![4 => good, 1 => Just(String::new()), 1 => Just("{}".to_owned())]
}

/// A change of the datastore: an entry is written or deleted, or all entries are read again after a gap.
#[derive(Clone, Debug)]
enum Event {
    Put(String, String),
    Delete(String),
    Gap(Vec<(String, String)>),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        10 => (keys(), values()).prop_map(|(key, value)| Event::Put(key, value)),
        5 => keys().prop_map(Event::Delete),
        1 => vec((keys(), values()), 0..20).prop_map(Event::Gap),
    ];
    vec(event, 0..60)
}

type Datastore = BTreeMap<String, String>;

fn lease((key, value): (&String, &String)) -> RawLease {
    RawLease::new(key.clone(), value.clone().into_bytes())
}

fn snapshot(datastore: &Datastore) -> LeaseUpdate {
    LeaseUpdate::Snapshot(datastore.iter().map(lease).collect())
}

/// Applies an event to the datastore. Returns the update that reports it.
fn update(event: Event, datastore: &mut Datastore) -> LeaseUpdate {
    match event {
        Event::Put(key, value) => {
            datastore.insert(key.clone(), value.clone());
            LeaseUpdate::Put(lease((&key, &value)))
        }
        Event::Delete(key) => {
            datastore.remove(&key);
            LeaseUpdate::Delete(key)
        }
        Event::Gap(leases) => {
            *datastore = leases.into_iter().collect();
            snapshot(datastore)
        }
    }
}

fn set() -> LeaseSet {
    LeaseSet::new(&NetworkConfig::parse(CONFIG).unwrap(), OWN.parse().unwrap())
}

fn state(set: &LeaseSet) -> (Vec<Peer>, Option<PublicIps>) {
    (set.peers(), set.own.as_ref().map(|own| own.holder))
}

proptest! {
    #[test]
    fn no_two_peers_overlap_and_none_is_outside_the_network_or_overlaps_our_subnet(events in events()) {
        let (mut set, mut datastore) = (set(), Datastore::new());
        let own: SubnetKey = OWN.parse().unwrap();
        let networks: [IpNet; 2] = ["10.5.0.0/21", "fd44::/61"].map(|net| net.parse().unwrap());
        for event in events {
            set.apply(update(event, &mut datastore));
            let peers = set.peers();
            for (n, peer) in peers.iter().enumerate() {
                prop_assert!(networks.iter().any(|network| network.contains(&peer.subnet)), "{peer:?}");
                prop_assert!(!own.nets().any(|own| overlap(own, peer.subnet)), "{peer:?}");
                let other = peers[..n].iter().find(|other| overlap(other.subnet, peer.subnet));
                prop_assert!(other.is_none(), "{peer:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_repeated_snapshot_changes_and_reports_nothing(events in events()) {
        let (mut set, mut datastore) = (set(), Datastore::new());
        for event in events {
            set.apply(update(event, &mut datastore));
            let before = state(&set);
            prop_assert_eq!(set.apply(snapshot(&datastore)), []);
            prop_assert_eq!(state(&set), before);
        }
    }

    #[test]
    fn every_peer_is_in_the_datastore_and_every_refusal_is_reported_once(events in events()) {
        let (mut set, mut datastore) = (set(), Datastore::new());
        for event in events {
            let refusals = set.apply(update(event, &mut datastore));
            for refusal in refusals {
                let value = datastore.get(&refusal.key).map(String::as_bytes);
                prop_assert_eq!(set.refused.get(&refusal.key).map(|lease| lease.value.as_slice()), value);
                let again = LeaseUpdate::Put(lease((&refusal.key, &datastore[&refusal.key])));
                prop_assert_eq!(set.apply(again), []);
            }
            let known: Vec<SubnetKey> = datastore.keys().filter_map(|key| key.parse().ok()).collect();
            prop_assert!(set.nodes.keys().all(|key| known.contains(key)));
        }
    }

    #[test]
    fn an_entry_whose_key_is_not_a_subnet_changes_nothing(events in events()) {
        let (mut all, mut pure, mut datastore) = (set(), set(), Datastore::new());
        for event in events {
            let is_key = match &event {
                Event::Put(key, _) | Event::Delete(key) => key.parse::<SubnetKey>().is_ok(),
                Event::Gap(_) => true,
            };
            let update = update(event, &mut datastore);
            if is_key {
                pure.apply(update.clone());
            }
            all.apply(update);
            prop_assert_eq!(state(&all), state(&pure));
        }
    }
}

/// Time between two looks at the leases, in seconds.
fn pauses() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..3u64, 1 => 5..30u64]
}

proptest! {
    #[test]
    fn what_is_held_changes_nothing_about_the_leases_that_the_datastore_has(
        events in vec((events(), pauses()), 0..6),
    ) {
        let (mut plain, mut holding, mut datastore) = (set(), set().holding(HOLD), Datastore::new());
        let mut now = Instant::now();
        for (batch, pause) in events {
            now += Duration::from_secs(pause);
            for event in batch {
                let update = update(event, &mut datastore);
                plain.apply(update.clone());
                holding.apply(update);
            }
            holding.settle(now);
            // The order in which two overlapping leases came may differ. What is not held is in the datastore.
            let surplus = holding.nodes.keys().filter(|key| !plain.nodes.contains_key(key));
            for key in surplus {
                let waits = datastore.contains_key(&key.to_string());
                prop_assert!(holding.hold.is_held(key) || waits, "{key} is not held and is not there");
            }
            let peers = holding.peers();
            for (n, peer) in peers.iter().enumerate() {
                prop_assert!(!peers[..n].iter().any(|other| overlap(other.subnet, peer.subnet)), "{peers:?}");
            }
        }
        // Once nothing vanishes any more, everything that is held is let go.
        now += HOLD;
        holding.settle(now);
        prop_assert_eq!((holding.held(), holding.next_end()), (0, None));
        holding.apply(snapshot(&datastore));
        holding.settle(now + HOLD);
        prop_assert!(holding.nodes.keys().all(|key| datastore.contains_key(&key.to_string())));
    }
}
