//! What an earlier run knew, until the datastore answers, and what is written for the next one.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;

const STORE: &str = "a datastore";
/// A while without an answer.
const LONG: Duration = Duration::from_secs(3600);

fn last_known(network: &NetworkConfig) -> LastKnown {
    LastKnown {
        network: network.clone(),
        node: KnownNode::default(),
        subnet: OWN.parse().unwrap(),
        leases: vec![raw(OTHER, 2), raw("10.5.3.0-24", 3)],
        held: BTreeMap::new(),
    }
}

fn remembering<'a>(store: &'a Store, network: &'a NetworkConfig, file: &Path) -> Membership<'a, Store> {
    let terms = Terms { last_known: Some(last_known(network)), ..terms(network) };
    Membership::new(store, terms, attrs(1), Recorder::new(file.to_owned(), STORE.to_owned()))
}

fn subnets(peers: &Peers) -> Vec<String> {
    peers.peers.iter().map(|peer| peer.subnet.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_the_node_goes_on_with_what_the_last_run_knew_and_says_so_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, network) = (Store::new(0), network());
    let start = Instant::now();
    let mut membership = remembering(&store, &network, dir.path());
    let LeaseEvent::LastKnown { subnet, peers } = membership.changed().await else { panic!("other event") };
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    assert_eq!(
        (subnet.to_string().as_str(), subnets(&peers)),
        (OWN, vec!["10.5.2.0/24".into(), "10.5.3.0/24".into()])
    );
    assert!(timeout(LONG, membership.changed()).await.is_err(), "said twice");
    // Once the datastore answers, its leases count.
    store.permits.add_permits(1);
    assert!(matches!(membership.changed().await, LeaseEvent::Taken { previous: Some(_), .. }));
    assert!(is_quiet(&mut membership).await);
    store.send(LeaseUpdate::Snapshot(vec![raw(OWN, 1), raw("10.5.3.0-24", 3)]));
    let LeaseEvent::Peers(peers) = membership.changed().await else { panic!("other event") };
    assert_eq!(subnets(&peers), ["10.5.3.0/24"]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_without_leases_of_others_is_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (store, network) = (Store::new(1), network());
    let mut membership = remembering(&store, &network, dir.path());
    assert!(matches!(membership.changed().await, LeaseEvent::Taken { .. }));
    let LeaseEvent::LastKnown { subnet, peers } = membership.changed().await else { panic!("other event") };
    assert_eq!((subnet.to_string().as_str(), peers.nodes), (OWN, 2));
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_time_makes_the_last_run_irrelevant() {
    let dir = tempfile::tempdir().unwrap();
    let (store, network) = (Store::new(1), network());
    let mut membership = remembering(&store, &network, dir.path());
    assert!(matches!(membership.changed().await, LeaseEvent::Taken { .. }));
    assert!(is_quiet(&mut membership).await);
    store.send(LeaseUpdate::Snapshot(vec![raw(OWN, 1)]));
    assert!(matches!(membership.changed().await, LeaseEvent::Peers(Peers { nodes: 0, .. })));
    assert!(timeout(LONG, membership.changed()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_first_list_without_most_of_the_last_run_s_nodes_empties_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, network) = (Store::new(1), network());
    let known = LastKnown {
        leases: (2..12).map(|n| raw(&format!("10.5.{n}.0-24"), n)).collect(),
        ..last_known(&network)
    };
    let terms = Terms { last_known: Some(known), ..terms(&network) };
    let recorder = Recorder::new(dir.path().to_owned(), STORE.to_owned());
    let mut membership = Membership::new(&store, terms, attrs(1), recorder);
    assert!(matches!(membership.changed().await, LeaseEvent::Taken { .. }));
    assert!(is_quiet(&mut membership).await);
    store.send(LeaseUpdate::Snapshot(vec![raw(OWN, 1)]));
    assert!(matches!(membership.changed().await, LeaseEvent::Peers(Peers { nodes: 10, .. })));
    let start = Instant::now();
    assert!(matches!(membership.changed().await, LeaseEvent::Peers(Peers { nodes: 0, .. })));
    assert_eq!(start.elapsed(), Duration::from_secs(300));
}

#[tokio::test]
async fn what_the_datastore_has_is_written_soon_and_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("last-known.json");
    let (store, network) = (Store::new(1), network());
    let mut membership = remembering(&store, &network, &file);
    assert!(matches!(membership.changed().await, LeaseEvent::Taken { .. }));
    assert!(is_quiet(&mut membership).await);
    store.send(LeaseUpdate::Snapshot(vec![raw(OWN, 1), raw(OTHER, 2)]));
    assert!(matches!(membership.changed().await, LeaseEvent::Peers(_)));
    let written = || LastKnown::read(&file, STORE).unwrap().map(|known| (known.subnet, known.leases));
    assert_eq!(written(), None, "written in the way of the change");
    let waiting = timeout(Duration::from_secs(2), membership.changed()).await;
    assert!(waiting.is_err());
    assert_eq!(written(), Some((OWN.parse().unwrap(), vec![raw(OTHER, 2)])));
    store.send(LeaseUpdate::Put(raw("10.5.9.0-24", 9)));
    assert!(matches!(membership.changed().await, LeaseEvent::Peers(_)));
    drop(membership);
    assert_eq!(written().unwrap().1, [raw(OTHER, 2), raw("10.5.9.0-24", 9)]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_the_datastore_has_not_answered_leaves_the_file_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("last-known.json");
    let (store, network) = (Store::new(0), network());
    let mut membership = remembering(&store, &network, &file);
    assert!(matches!(membership.changed().await, LeaseEvent::LastKnown { .. }));
    assert!(timeout(LONG, membership.changed()).await.is_err());
    drop(membership);
    assert!(!file.exists());
}
