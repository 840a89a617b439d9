//! What the datastore is told about the node, beside everything else: notices for the operator, and that packets flow.

use futures::future::{FutureExt as _, LocalBoxFuture};
use futures::stream::{FuturesUnordered, StreamExt as _};

use crate::lease::{Notice, Severity, SubnetManager};

/// The requests that run.
pub(super) struct Notices<'a, S> {
    store: &'a S,
    running: FuturesUnordered<LocalBoxFuture<'a, ()>>,
    /// The own subnet has been taken, and packets do not flow in all directions yet.
    is_coming_up: bool,
    /// Why packets take the slow path, as told last.
    slow_path: Option<String>,
}

impl<'a, S: SubnetManager> Notices<'a, S> {
    pub(super) fn new(store: &'a S) -> Self {
        Self { store, running: FuturesUnordered::new(), is_coming_up: false, slow_path: None }
    }

    /// An operator must act on this.
    pub(super) fn warn(&self, reason: &'static str, message: Option<String>) {
        if let Some(message) = message {
            let notice = Notice { reason, message, severity: Severity::Warning };
            self.running.push(self.store.report(notice).boxed_local());
        }
    }

    /// Says why packets take the slow path, if that has changed.
    pub(super) fn slow_path(&mut self, why: Option<String>) {
        if self.slow_path != why {
            self.slow_path.clone_from(&why);
            self.warn("FlannelSlowPath", why);
        }
    }

    /// The node has taken a subnet. Its node may be new in the datastore.
    pub(super) fn subnet_taken(&mut self) {
        self.is_coming_up = true;
        self.slow_path = None;
    }

    /// The node carries packets for its subnet to all other nodes.
    pub(super) fn peers_applied(&mut self) {
        if std::mem::take(&mut self.is_coming_up) {
            self.running.push(self.store.node_is_up().boxed_local());
        }
    }

    /// Makes the requests. It never ends; it may be dropped and called again.
    pub(super) async fn deliver(&mut self) {
        loop {
            if self.running.next().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use anyhow::Result;
    use tokio::sync::mpsc;
    use tokio::time::{Duration, timeout};

    use super::*;
    use crate::config::NetworkConfig;
    use crate::lease::{LeaseAttrs, LeaseUpdate, Loss, OwnLease, RawLease, Traces};

    /// A datastore that writes down what it is told.
    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl Told {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl SubnetManager for Told {
        async fn network_config(&self) -> Result<NetworkConfig> {
            std::future::pending().await
        }

        async fn acquire(&self, _: &NetworkConfig, _: &LeaseAttrs, _: &Traces) -> Result<OwnLease> {
            std::future::pending().await
        }

        async fn renew(&self, _: &OwnLease, _: &LeaseAttrs) -> Result<Result<OwnLease, Loss>> {
            std::future::pending().await
        }

        async fn leases(&self) -> Result<Vec<RawLease>> {
            std::future::pending().await
        }

        async fn watch(&self, _: mpsc::Sender<LeaseUpdate>) {}

        async fn node_is_up(&self) {
            self.0.lock().unwrap().push("up".to_owned());
        }

        async fn report(&self, notice: Notice) {
            self.0.lock().unwrap().push(format!("{} {}", notice.reason, notice.message));
        }
    }

    async fn told(notices: &mut Notices<'_, Told>, store: &Told) -> Vec<String> {
        assert!(timeout(Duration::from_millis(1), notices.deliver()).await.is_err());
        store.take()
    }

    #[tokio::test(start_paused = true)]
    async fn the_node_is_up_once_it_has_a_subnet_and_peers_and_again_after_each_new_subnet() {
        let store = Told::default();
        let mut notices = Notices::new(&store);
        notices.peers_applied();
        assert_eq!(told(&mut notices, &store).await, [""; 0], "without a subnet");
        for round in ["first", "again"] {
            notices.subnet_taken();
            assert_eq!(told(&mut notices, &store).await, [""; 0], "without peers, {round}");
            notices.peers_applied();
            assert_eq!(told(&mut notices, &store).await, ["up"], "{round}");
            notices.peers_applied();
            assert_eq!(told(&mut notices, &store).await, [""; 0], "said twice, {round}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn warnings_are_reported_where_there_are_any() {
        let store = Told::default();
        let notices = &mut Notices::new(&store);
        notices.warn("Nothing", None);
        notices.warn("FlannelOnFloor", Some("no BPF".to_owned()));
        assert_eq!(told(notices, &store).await, ["FlannelOnFloor no BPF"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_slow_path_is_said_when_its_reason_changes_and_after_each_new_subnet() {
        let store = Told::default();
        let mut notices = Notices::new(&store);
        let (filter, queue) = (Some("a filter".to_owned()), Some("a queue".to_owned()));
        for (why, expected) in [
            (&filter, &["FlannelSlowPath a filter"][..]),
            (&filter, &[]),
            (&queue, &["FlannelSlowPath a queue"]),
            (&None, &[]),
            (&queue, &["FlannelSlowPath a queue"]),
        ] {
            notices.slow_path(why.clone());
            assert_eq!(told(&mut notices, &store).await, expected);
        }
        notices.subnet_taken();
        notices.slow_path(queue);
        assert_eq!(told(&mut notices, &store).await, ["FlannelSlowPath a queue"]);
    }
}
