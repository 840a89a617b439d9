//! The connection to etcd: to one member at a time, moving on to the next on any failure.
//!
//! etcd-client can balance over several members, but then hands requests to a member that is down, too; flannel's
//! default endpoints have one that nearly always is.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{anyhow, bail};
use etcd_client::Client;

use super::access::Access;
use super::error::describe;

/// Longest wait for an answer, connecting included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The way to etcd.
pub(super) struct Connection {
    endpoints: Vec<String>,
    access: Access,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    endpoint: usize,
    client: Option<Client>,
    /// Tells a failed client from its successor.
    generation: u64,
}

impl Connection {
    pub(super) fn new(endpoints: Vec<String>, access: Access) -> Self {
        Self { endpoints, access, current: Mutex::default() }
    }

    /// The configured endpoints, as etcdctl takes them.
    pub(super) fn endpoints(&self) -> String {
        self.endpoints.join(",")
    }

    /// Makes a request, of each member in turn until one answers. `doing` says what for, in errors.
    pub(super) async fn request<T, F>(
        &self,
        doing: &str,
        operation: impl Fn(Client) -> F,
    ) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        // A kept connection may have broken unnoticed while idle: its member gets a second try at the end.
        let tries = self.endpoints.len() + usize::from(self.lock().client.is_some());
        let mut failures = Vec::new();
        for _ in 0..tries {
            let (endpoint, generation) = self.endpoint();
            let attempt = async {
                let client = self.client(&endpoint, generation).await?;
                operation(client).await.map_err(|error| anyhow!(describe(&error)))
            };
            failures.push(match tokio::time::timeout(REQUEST_TIMEOUT, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => format!("{endpoint}{}: {error:#}", self.access.tls.told(&endpoint)),
                Err(_) => format!("{endpoint}: no answer within {} s", REQUEST_TIMEOUT.as_secs()),
            });
            self.give_up(generation);
        }
        if failures.is_empty() {
            bail!("{doing}: no etcd endpoint is configured; give --etcd-endpoints");
        }
        bail!("{doing}: no etcd member could do it; check --etcd-endpoints: {}", failures.join("; "))
    }

    /// Leaves the member that the last request went to, for instance when its stream broke.
    pub(super) fn move_on(&self) {
        let (_, generation) = self.endpoint();
        self.give_up(generation);
    }

    fn endpoint(&self) -> (String, u64) {
        let current = self.lock();
        (self.endpoints.get(current.endpoint).cloned().unwrap_or_default(), current.generation)
    }

    async fn client(&self, endpoint: &str, generation: u64) -> anyhow::Result<Client> {
        if let Some(client) = self.lock().client.clone() {
            return Ok(client);
        }
        let client = self.access.connect(endpoint).await?;
        let mut current = self.lock();
        if current.generation == generation {
            current.client = Some(client.clone());
        }
        Ok(client)
    }

    /// Drops the client of this generation, unless another request already has.
    fn give_up(&self, generation: u64) {
        let mut current = self.lock();
        if current.generation == generation {
            let endpoint = (current.endpoint + 1) % self.endpoints.len().max(1);
            *current = Current { endpoint, client: None, generation: generation + 1 };
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        // Nothing that holds the lock can panic half-way through a change.
        self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
