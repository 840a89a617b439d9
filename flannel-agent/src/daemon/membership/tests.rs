mod last_known;

use std::future::pending;
use std::sync::Mutex;

use anyhow::Result;
use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::lease::LeaseUpdate;
use crate::mac::Mac;

/// A datastore that gives one lease per permit, logs the requests, and hangs when asked for all leases.
struct Store {
    permits: Semaphore,
    requests: Mutex<Vec<String>>,
    watches: Mutex<Vec<mpsc::Sender<LeaseUpdate>>>,
}

impl Store {
    fn new(permits: usize) -> Self {
        Self { permits: Semaphore::new(permits), requests: Mutex::default(), watches: Mutex::default() }
    }

    async fn lease(&self, request: &str, attrs: &LeaseAttrs) -> OwnLease {
        self.permits.acquire().await.unwrap().forget();
        self.requests.lock().unwrap().push(format!("{request} {}", attrs.public_ip.unwrap()));
        OwnLease { subnet: OWN.parse().unwrap(), attrs: attrs.clone(), term: None, replaced: vec![FORMER] }
    }

    /// Sends an update through the newest watch.
    fn send(&self, update: LeaseUpdate) {
        self.watches.lock().unwrap().last().unwrap().try_send(update).unwrap();
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

impl SubnetManager for Store {
    async fn network_config(&self) -> Result<NetworkConfig> {
        pending().await
    }

    async fn acquire(&self, _: &NetworkConfig, attrs: &LeaseAttrs, _: &Traces) -> Result<OwnLease> {
        Ok(self.lease("take", attrs).await)
    }

    async fn renew(&self, _: &OwnLease, attrs: &LeaseAttrs) -> Result<Result<OwnLease, Loss>> {
        Ok(Ok(self.lease("renew", attrs).await))
    }

    async fn leases(&self) -> Result<Vec<RawLease>> {
        pending().await
    }

    async fn watch(&self, updates: mpsc::Sender<LeaseUpdate>) {
        self.watches.lock().unwrap().push(updates.clone());
        updates.closed().await;
    }
}

const OWN: &str = "10.5.1.0-24";
const OTHER: &str = "10.5.2.0-24";

/// The MAC that the lease had before this node took it.
const FORMER: Mac = Mac([2, 0, 0, 0, 0, 1]);

fn network() -> NetworkConfig {
    NetworkConfig::parse(r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}"#).unwrap()
}

fn attrs(last: u8) -> LeaseAttrs {
    serde_json::from_str(&value(last)).unwrap()
}

fn value(last: u8) -> String {
    format!(
        r#"{{"PublicIP":"192.168.64.{last}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}}}"#
    )
}

fn raw(key: &str, last: u8) -> RawLease {
    RawLease::new(key.to_owned(), value(last).into_bytes())
}

fn terms(network: &NetworkConfig) -> Terms<'_> {
    Terms {
        network,
        margin: Duration::ZERO,
        hold: Duration::from_secs(300),
        previous: None,
        addresses: Vec::new(),
        given: PublicIps::default(),
        last_known: None,
        patience: Duration::from_secs(1),
    }
}

fn members<'a>(store: &'a Store, network: &'a NetworkConfig) -> Membership<'a, Store> {
    // Nothing can be written there.
    let recorder = Recorder::new("/proc/flannel/last-known.json".into(), "test".to_owned());
    Membership::new(store, terms(network), attrs(1), recorder)
}

/// Makes the requests that can be made, and returns whether anything has changed for the node.
async fn is_quiet(membership: &mut Membership<'_, Store>) -> bool {
    timeout(Duration::from_millis(1), membership.changed()).await.is_err()
}

async fn taken<'a>(store: &'a Store, network: &'a NetworkConfig) -> Membership<'a, Store> {
    let mut membership = members(store, network);
    assert!(matches!(membership.changed().await, LeaseEvent::Taken { previous: None, .. }));
    assert!(is_quiet(&mut membership).await);
    assert_eq!(store.requests(), ["take 192.168.64.1"]);
    membership
}

#[tokio::test(start_paused = true)]
async fn an_address_that_changes_while_a_lease_is_taken_is_written_to_it_after_that() {
    let (store, network) = (Store::new(0), network());
    let mut membership = members(&store, &network);
    assert!(is_quiet(&mut membership).await);
    membership.readdress(attrs(9));
    assert!(is_quiet(&mut membership).await);
    store.permits.add_permits(2);
    assert!(matches!(membership.changed().await, LeaseEvent::Taken { .. }));
    assert!(is_quiet(&mut membership).await);
    assert_eq!(store.requests(), ["take 192.168.64.1", "renew 192.168.64.9"]);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_changes_twice_is_written_twice() {
    let (store, network) = (Store::new(1), network());
    let mut membership = taken(&store, &network).await;
    membership.readdress(attrs(8));
    membership.readdress(attrs(9));
    store.permits.add_permits(2);
    assert!(is_quiet(&mut membership).await);
    assert_eq!(store.requests(), ["renew 192.168.64.8", "renew 192.168.64.9"]);
}

#[tokio::test(start_paused = true)]
async fn the_old_address_is_no_loss_while_the_new_one_is_written() {
    let (store, network) = (Store::new(1), network());
    let mut membership = taken(&store, &network).await;
    membership.readdress(attrs(9));
    store.send(LeaseUpdate::Snapshot(vec![raw(OWN, 1), raw(OTHER, 2)]));
    assert!(matches!(membership.changed().await, LeaseEvent::Peers(Peers { nodes: 1, .. })));
    assert!(is_quiet(&mut membership).await);
    store.permits.add_permits(1);
    assert!(is_quiet(&mut membership).await);
    store.send(LeaseUpdate::Snapshot(vec![raw(OWN, 9)]));
    assert!(matches!(membership.changed().await, LeaseEvent::Peers(Peers { nodes: 0, .. })));
    assert!(is_quiet(&mut membership).await);
}

#[tokio::test(start_paused = true)]
async fn the_others_are_followed_while_a_lost_lease_is_taken_again() {
    let (store, network) = (Store::new(1), network());
    let mut membership = taken(&store, &network).await;
    store.send(LeaseUpdate::Snapshot(vec![raw(OWN, 3)]));
    assert!(matches!(membership.changed().await, LeaseEvent::Peers(_)));
    let LeaseEvent::Lost { subnet, why } = membership.changed().await else { panic!("not lost") };
    assert_eq!(
        (subnet.to_string().as_str(), why.to_string().as_str()),
        (OWN, "the node 192.168.64.3 has it now")
    );
    store.send(LeaseUpdate::Put(raw(OTHER, 2)));
    assert!(matches!(membership.changed().await, LeaseEvent::Peers(Peers { nodes: 1, .. })));
    store.permits.add_permits(1);
    assert!(matches!(membership.changed().await, LeaseEvent::Taken { previous: Some(_), .. }));
}

#[tokio::test(start_paused = true)]
async fn a_request_for_all_leases_ends_without_an_answer_and_holds_up_nothing() {
    let (store, network) = (Store::new(1), network());
    let mut membership = taken(&store, &network).await;
    let start = Instant::now();
    membership.ask();
    assert!(membership.is_asking());
    store.send(LeaseUpdate::Snapshot(vec![raw(OWN, 1), raw(OTHER, 2)]));
    assert!(matches!(membership.changed().await, LeaseEvent::Peers(Peers { nodes: 1, .. })));
    assert!(start.elapsed() < ANSWER);
    assert!(matches!(membership.changed().await, LeaseEvent::Answer(None)));
    assert_eq!(start.elapsed(), ANSWER);
    assert!(!membership.is_asking());
}

#[tokio::test(start_paused = true)]
async fn a_damaged_value_of_the_own_lease_is_written_again_once() {
    let (store, network) = (Store::new(1), network());
    let mut membership = taken(&store, &network).await;
    for _ in 0..2 {
        store.send(LeaseUpdate::Put(RawLease::new(OWN.to_owned(), b"{}".to_vec())));
        assert!(matches!(membership.changed().await, LeaseEvent::Peers(_)));
        assert!(is_quiet(&mut membership).await);
    }
    store.permits.add_permits(2);
    assert!(timeout(3 * RETRY, membership.changed()).await.is_err());
    assert_eq!(store.requests(), ["renew 192.168.64.1"]);
}

/// Returns the own lease as another node with the same address writes it.
fn of_rival(mac: Mac) -> LeaseUpdate {
    let value = value(1).replace("c6:d2:32:6f:8f:44", &mac.to_string());
    LeaseUpdate::Put(RawLease::new(OWN.to_owned(), value.into_bytes()))
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_a_newer_node_with_the_same_address_writes_is_written_again_ever_later() {
    let (store, network) = (Store::new(1), network());
    let mut membership = taken(&store, &network).await;
    store.permits.add_permits(10);
    for (round, pause) in [1, 2, 4, 8, 16, 32, 60, 60].map(Duration::from_secs).into_iter().enumerate() {
        store.send(of_rival(Mac([2, 0, 0, 0, 0, 7])));
        assert!(matches!(membership.changed().await, LeaseEvent::Peers(_)));
        let early = timeout(pause - Duration::from_millis(10), membership.changed()).await;
        assert!(early.is_err() && store.requests().is_empty(), "round {round}");
        assert!(timeout(Duration::from_millis(20), membership.changed()).await.is_err());
        assert_eq!(store.requests(), ["renew 192.168.64.1"], "round {round}");
    }
    // The other node has been quiet for long, and is started again.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    store.send(of_rival(Mac([2, 0, 0, 0, 0, 7])));
    assert!(matches!(membership.changed().await, LeaseEvent::Peers(_)));
    assert!(timeout(Duration::from_millis(1010), membership.changed()).await.is_err());
    assert_eq!(store.requests(), ["renew 192.168.64.1"]);
}

/// Returns a membership whose lease is left to the node that was first.
async fn given_way<'a>(store: &'a Store, network: &'a NetworkConfig) -> Membership<'a, Store> {
    let mut membership = taken(store, network).await;
    store.permits.add_permits(10);
    store.send(of_rival(FORMER));
    assert!(matches!(membership.changed().await, LeaseEvent::Peers(_)));
    assert!(matches!(membership.changed().await, LeaseEvent::GivenWay));
    membership
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_left_to_the_node_that_was_first_until_it_has_another_value() {
    let (store, network) = (Store::new(1), network());
    let mut membership = given_way(&store, &network).await;
    assert!(membership.has_given_way());
    // The other node goes on with its lease.
    store.send(of_rival(FORMER));
    assert!(matches!(membership.changed().await, LeaseEvent::Peers(_)));
    assert!(timeout(Duration::from_secs(1000), membership.changed()).await.is_err());
    assert_eq!(store.requests(), [""; 0]);
    // It is gone.
    store.send(LeaseUpdate::Delete(OWN.to_owned()));
    assert!(matches!(membership.changed().await, LeaseEvent::Peers(_)));
    assert!(matches!(membership.changed().await, LeaseEvent::Lost { .. }));
    assert!(matches!(membership.changed().await, LeaseEvent::Taken { .. }));
    assert_eq!(store.requests(), ["take 192.168.64.1"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_given_way_takes_a_lease_when_its_address_changes() {
    let (store, network) = (Store::new(1), network());
    let mut membership = given_way(&store, &network).await;
    membership.readdress(attrs(9));
    assert!(matches!(membership.changed().await, LeaseEvent::Taken { .. }));
    assert_eq!(store.requests(), ["take 192.168.64.9"]);
}
