//! The connection to etcd: to one member at a time, and to the next one after a failure.
//!
//! etcd-client could spread requests over the members, but would also send them to a member that is down. One of
//! flannel's default endpoints nearly always is.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{anyhow, bail};
use etcd_client::Client;

use super::access::MemberAccess;
use super::error::describe;
use crate::lease::url::without_login;
use crate::metrics::Request;

/// Longest time for a request, connecting included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to etcd that is made again after every failure.
pub(super) struct Connection {
    endpoints: Vec<String>,
    access: MemberAccess,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    endpoint: usize,
    client: Option<Client>,
    /// Counts the clients, to tell a failed one from the next.
    generation: u64,
}

impl Connection {
    pub(super) fn new(endpoints: Vec<String>, access: MemberAccess) -> Self {
        Self { endpoints, access, current: Mutex::default() }
    }

    /// Returns the configured endpoints, as etcdctl takes them.
    pub(super) fn endpoints(&self) -> String {
        let shown: Vec<_> = self.endpoints.iter().map(|endpoint| without_login(endpoint)).collect();
        shown.join(",")
    }

    /// Sends a request to one member after the other until one answers. `doing` is its purpose, for errors.
    pub(super) async fn request<T, F>(
        &self,
        doing: &str,
        operation: impl Fn(Client) -> F,
    ) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        // An idle connection may be broken, which says nothing about its member: that one is tried again at the end.
        let tries = self.endpoints.len() + usize::from(self.lock().client.is_some());
        let mut failures = Vec::new();
        for _ in 0..tries {
            let (endpoint, generation) = self.endpoint();
            let attempt = async {
                let client = self.client(&endpoint, generation).await?;
                operation(client).await.map_err(|error| anyhow!(describe(&error)))
            };
            let request = Request::begin();
            let answer = tokio::time::timeout(REQUEST_TIMEOUT, attempt).await;
            request.end(matches!(answer, Ok(Ok(_))));
            failures.push(match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => {
                    let (shown, tls) = (without_login(&endpoint), self.access.tls.describe(&endpoint));
                    format!("{shown}{tls}: {error:#}")
                }
                Err(_) => {
                    format!("{}: no answer within {} s", without_login(&endpoint), REQUEST_TIMEOUT.as_secs())
                }
            });
            self.give_up(generation);
        }
        if failures.is_empty() {
            bail!("{doing}: no etcd endpoint is configured; give --etcd-endpoints");
        }
        bail!("{doing}: no etcd member did it; check --etcd-endpoints: {}", failures.join("; "))
    }

    /// Uses another member from now on, for instance because a stream of this one has ended.
    pub(super) fn switch_member(&self) {
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

    /// Drops the client of this generation, unless another request has done so already.
    fn give_up(&self, generation: u64) {
        let mut current = self.lock();
        if current.generation == generation {
            let endpoint = (current.endpoint + 1) % self.endpoints.len().max(1);
            *current = Current { endpoint, client: None, generation: generation + 1 };
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        // No code that holds the lock can panic in the middle of a change.
        self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
