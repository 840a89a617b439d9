use std::sync::{Mutex, MutexGuard};

use tokio::time::timeout;

use super::super::Owner;
use super::*;
use crate::config::NetworkConfig;

const RESYNC: Duration = Duration::from_secs(300);

/// A cloud with one table, and the errors that answer the next requests.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<FakeState>>);

#[derive(Default)]
struct FakeState {
    routes: Vec<Route>,
    errors: Vec<ErrorKind>,
    /// So many further changes fail.
    refused: usize,
    /// When the table was read.
    reads: Vec<Instant>,
}

impl Fake {
    fn lock(&self) -> MutexGuard<'_, FakeState> {
        self.0.lock().unwrap()
    }

    fn subnets(&self) -> Vec<String> {
        self.lock().routes.iter().map(|route| route.subnet.to_string()).collect()
    }
}

impl Provider for Fake {
    async fn read(&mut self) -> Result<View, CloudError> {
        let mut state = self.lock();
        state.reads.push(Instant::now());
        if let Some(kind) = state.errors.pop() {
            return Err(CloudError::new(kind, "refused"));
        }
        let table = Table { id: "table".to_owned(), routes: state.routes.clone() };
        Ok(View { tables: vec![table], obstacles: Vec::new() })
    }

    async fn carry_out(&mut self, _: &str, change: &Change) -> Result<(), CloudError> {
        let mut state = self.lock();
        if state.refused > 0 {
            state.refused -= 1;
            return Err(CloudError::failed("refused"));
        }
        match change {
            Change::Create(subnet) => state.routes.push(route(&subnet.to_string(), Owner::Own)),
            Change::Replace(old) | Change::Remove(old) => state.routes.retain(|route| route != old),
        }
        Ok(())
    }

    fn removal(&self, _: &str, route: &Route) -> String {
        format!("remove {}", route.subnet)
    }
}

fn route(subnet: &str, owner: Owner) -> Route {
    Route { subnet: subnet.parse().unwrap(), owner, next_hop: "node".to_owned(), id: String::new() }
}

fn key(subnet: &str) -> SubnetKey {
    SubnetKey { v4: Some(subnet.parse().unwrap()), v6: None }
}

/// A keeper, and what it follows.
struct Started {
    _task: Task,
    own: watch::Sender<Option<SubnetKey>>,
    leased: watch::Sender<Option<Arc<BTreeSet<IpNet>>>>,
}

/// Starts a keeper, which has no subnet yet.
fn start(cloud: &Fake) -> Started {
    let config = NetworkConfig::parse(r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "gce"}}"#).unwrap();
    let (own, own_seen) = watch::channel(None);
    let (leased, leased_seen) = watch::channel(None);
    let terms =
        Terms { ranges: config.ranges().collect(), resync: RESYNC, own: own_seen, leased: leased_seen };
    Started { _task: Keeper::spawn(cloud.clone(), terms), own, leased }
}

/// Lets this much time pass.
async fn pass(time: Duration) {
    assert!(timeout(time, std::future::pending::<()>()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_own_subnet_is_seen_to_at_once_and_what_nobody_leases_at_the_second_look() {
    let cloud = Fake::default();
    cloud.lock().routes.push(route("10.5.9.0/24", Owner::Flannel));
    let Started { own, leased, _task } = start(&cloud);
    pass(RESYNC).await;
    assert_eq!(cloud.lock().reads.len(), 0, "it has asked without a subnet");
    own.send_replace(Some(key("10.5.1.0/24")));
    leased.send_replace(Some(Arc::default()));
    pass(Duration::from_secs(1)).await;
    assert_eq!(cloud.subnets(), ["10.5.9.0/24", "10.5.1.0/24"]);
    pass(RESYNC).await;
    assert_eq!(cloud.subnets(), ["10.5.1.0/24"]);
    own.send_replace(Some(key("10.5.2.0/24")));
    pass(Duration::from_secs(1)).await;
    assert_eq!(cloud.subnets(), ["10.5.2.0/24"], "the former subnet is given up");
}

#[tokio::test(start_paused = true)]
async fn a_look_soon_after_a_failure_is_not_the_second_one() {
    let cloud = Fake::default();
    cloud.lock().routes.push(route("10.5.9.0/24", Owner::Flannel));
    cloud.lock().refused = 3;
    let Started { own, leased, _task } = start(&cloud);
    leased.send_replace(Some(Arc::default()));
    own.send_replace(Some(key("10.5.1.0/24")));
    pass(Duration::from_secs(60)).await;
    assert_eq!(cloud.subnets(), ["10.5.9.0/24", "10.5.1.0/24"]);
    pass(RESYNC).await;
    assert_eq!(cloud.subnets(), ["10.5.1.0/24"]);
}

#[tokio::test(start_paused = true)]
async fn looks_are_less_than_the_period_apart_and_pauses_after_failures_grow_and_respect_the_cloud() {
    let cloud = Fake::default();
    let Started { own, leased: _leased, _task } = start(&cloud);
    // The last is the first to answer.
    cloud.lock().errors = vec![ErrorKind::Throttled(Some(Duration::from_secs(900)))];
    cloud.lock().errors.extend([ErrorKind::Failed; 3]);
    own.send_replace(Some(key("10.5.1.0/24")));
    pass(Duration::from_secs(3600)).await;
    let reads = cloud.lock().reads.clone();
    let pauses: Vec<_> = reads.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    for (pause, least) in pauses.iter().zip([2.0, 4.0, 8.0, 900.0]) {
        assert!((least..=least * 1.51).contains(pause), "{pauses:?}");
    }
    assert!(pauses.len() > 8, "{pauses:?}");
    assert!(pauses[4..].iter().all(|pause| (224.0..=300.1).contains(pause)), "{pauses:?}");
}
