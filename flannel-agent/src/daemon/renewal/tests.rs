use std::collections::VecDeque;
use std::future::pending;
use std::sync::Mutex;

use anyhow::{Result, anyhow};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::config::NetworkConfig;
use crate::lease::{LeaseAttrs, LeaseUpdate, RawLease, TTL, Traces};

const MINUTE: Duration = Duration::from_secs(60);

/// A datastore that gives these answers to requests for renewal, and then none.
struct Store(Mutex<VecDeque<Result<Result<OwnLease, Loss>>>>);

impl Store {
    fn answering(answers: impl IntoIterator<Item = Result<Result<OwnLease, Loss>>>) -> Self {
        Self(Mutex::new(answers.into_iter().collect()))
    }
}

impl SubnetManager for Store {
    async fn network_config(&self) -> Result<NetworkConfig> {
        pending().await
    }

    async fn acquire(&self, _: &NetworkConfig, _: &LeaseAttrs, _: &Traces) -> Result<OwnLease> {
        pending().await
    }

    async fn renew(&self, _: &OwnLease, _: &LeaseAttrs) -> Result<Result<OwnLease, Loss>> {
        let answer = self.0.lock().unwrap().pop_front();
        match answer {
            Some(answer) => answer,
            None => pending().await,
        }
    }

    async fn leases(&self) -> Result<Vec<RawLease>> {
        pending().await
    }

    async fn watch(&self, _: mpsc::Sender<LeaseUpdate>) {
        pending::<()>().await;
    }
}

fn lease(left: Option<Duration>) -> OwnLease {
    OwnLease {
        subnet: "10.5.1.0-24".parse().unwrap(),
        attrs: serde_json::from_str(r#"{"PublicIP":"192.168.0.1"}"#).unwrap(),
        term: left.map(|left| Instant::now() + left),
        replaced: Vec::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_renewed_a_margin_before_its_end_but_not_all_the_time() {
    for (left, margin, expected) in [
        (TTL, 60 * MINUTE, 23 * 60 * MINUTE),
        (TTL, MINUTE, TTL - MINUTE),
        (TTL, 1439 * MINUTE, MINUTE),
        (TTL, 1438 * MINUTE, 2 * MINUTE),
        (10 * MINUTE, 60 * MINUTE, MINUTE),
        (Duration::ZERO, 60 * MINUTE, MINUTE),
    ] {
        let start = Instant::now();
        let store = Store::answering([Ok(Ok(lease(Some(TTL))))]);
        let renewed = renewed(&store, lease(Some(left)), due(&lease(Some(left)), margin)).await.unwrap();
        let after = start.elapsed();
        assert_eq!(after.as_secs(), expected.as_secs(), "{left:?} {margin:?}");
        assert_eq!(renewed.term, Some(start + TTL), "{left:?} {margin:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_tried_until_it_works() {
    let start = Instant::now();
    let failures = (0..5).map(|_| Err(anyhow!("etcd is away")));
    let store = Store::answering(failures.chain([Ok(Ok(lease(Some(TTL))))]));
    assert!(renewed(&store, lease(Some(TTL)), due(&lease(Some(TTL)), 60 * MINUTE)).await.is_ok());
    assert_eq!(start.elapsed().as_secs(), (23 * 60 * MINUTE + 5 * Pace::STEADY.first).as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_gone_is_lost() {
    let store = Store::answering([Ok(Err(Loss::Gone))]);
    assert!(renewed(&store, lease(Some(TTL)), due(&lease(Some(TTL)), 60 * MINUTE)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_reservation_is_never_renewed() {
    let store = Store::answering([Ok(Err(Loss::Gone))]);
    let waited = timeout(1000 * TTL, renewed(&store, lease(None), due(&lease(None), 60 * MINUTE))).await;
    assert!(waited.is_err(), "{waited:?}");
    assert_eq!(store.0.lock().unwrap().len(), 1, "etcd was asked");
}
