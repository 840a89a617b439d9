//! Notices as Kubernetes Events on this node's Node, which `kubectl describe node` shows.
//!
//! All notices with the same reason are one Event with a count. It is written at most once a minute; what comes in between is
//! counted with the next one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::time::Instant;
use tracing::debug;

use super::api::{ApiError, Call, Content, timestamp};
use super::store::KubeStore;
use crate::lease::notice::Notice;
use crate::random;

/// The namespace of Events of objects that have none.
const NAMESPACE: &str = "default";
/// Shortest time between two writes of the same Event.
const INTERVAL: Duration = Duration::from_secs(60);

/// The Events of this run.
#[derive(Default)]
pub(super) struct Events {
    by_reason: Mutex<BTreeMap<&'static str, Written>>,
    refused: AtomicBool,
}

/// An Event that was written.
#[derive(Clone)]
struct Written {
    name: String,
    first: String,
    count: u64,
    at: Instant,
}

impl Events {
    /// Writes a notice, unless one with the same reason has just been written. Gives up after a failure.
    pub(super) async fn report(&self, store: &KubeStore, notice: Notice) {
        let Some(event) = self.due(notice.reason) else { return };
        match self.write(store, &notice, event).await {
            Ok(()) => {}
            Err(error) if error.downcast_ref().and_then(ApiError::code) == Some(403) => {
                if !self.refused.swap(true, Ordering::Relaxed) {
                    debug!("events of the node are not written: {error:#}");
                }
            }
            Err(error) => debug!("an event of the node was not written: {error:#}"),
        }
    }

    /// Counts the notice. Returns the Event to write, if it is time for that.
    fn due(&self, reason: &'static str) -> Option<Written> {
        let mut by_reason = self.by_reason.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match by_reason.get_mut(reason) {
            Some(event) => {
                event.count += 1;
                let due = now.duration_since(event.at) >= INTERVAL;
                due.then(|| {
                    event.at = now;
                    event.clone()
                })
            }
            None => {
                let event = Written { name: String::new(), first: timestamp(), count: 1, at: now };
                by_reason.insert(reason, event.clone());
                Some(event)
            }
        }
    }

    async fn write(&self, store: &KubeStore, notice: &Notice, event: Written) -> Result<()> {
        let node = store.node_name().await?;
        if !event.name.is_empty() {
            match patch(store, notice, &event).await {
                // The API server keeps an Event for an hour.
                Err(error) if error.code() == Some(404) => {}
                written => return Ok(written?),
            }
        }
        let name = create(store, &node, notice, &event).await?;
        let mut by_reason = self.by_reason.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(event) = by_reason.get_mut(notice.reason) {
            event.name = name;
        }
        Ok(())
    }
}

async fn create(store: &KubeStore, node: &str, notice: &Notice, event: &Written) -> Result<String> {
    let name = format!("{node}.{:016x}", random::number()?);
    let body = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "name": name, "namespace": NAMESPACE },
        // The kubelet gives the name as uid, too. `kubectl describe node` looks for it.
        "involvedObject": { "apiVersion": "v1", "kind": "Node", "name": node, "uid": node },
        "reason": notice.reason,
        "message": notice.message,
        "type": notice.severity.name(),
        "source": { "component": "flannel", "host": node },
        "firstTimestamp": event.first,
        "lastTimestamp": timestamp(),
        "count": event.count,
    })
    .to_string();
    let path = format!("/api/v1/namespaces/{NAMESPACE}/events");
    let call = Call { verb: "create", resource: "events", path, body: Some(Content::New(&body)) };
    store.api.call(&call).await?;
    Ok(name)
}

async fn patch(store: &KubeStore, notice: &Notice, event: &Written) -> Result<(), ApiError> {
    let body =
        json!({ "message": notice.message, "lastTimestamp": timestamp(), "count": event.count }).to_string();
    let path = format!("/api/v1/namespaces/{NAMESPACE}/events/{}", event.name);
    let call = Call { verb: "patch", resource: "events", path, body: Some(Content::Patch(&body)) };
    store.api.call(&call).await.map(drop)
}
