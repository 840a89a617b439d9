//! Follows the Nodes: all of them at first, then each change.
//!
//! New API servers send all Nodes in the watch itself (`sendInitialEvents`). Older ones refuse that with 422, and are asked
//! for a list in pages. After a failure the watch goes on where it was. Only if the API server no longer knows that
//! place (410 Gone), or sends what cannot be read, all Nodes are read again.

use std::borrow::Cow;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::api::{ApiError, Call};
use super::node::{Metadata, NodeView, Object};
use super::nodes::Changes;
use super::session::Session;
use super::store::KubeStore;
use super::stream::{Chunks, Lines, ListSplitter};
use crate::lease::notice::{Notice, Severity};
use crate::lease::watch::{Follow, Outage, Updates};
use crate::random;

/// Nodes in a page of a list.
const PAGE: usize = 500;
/// Longest pause while all Nodes are read.
const READ_PATIENCE: Duration = Duration::from_secs(30);
/// Longest pause in a watch. The API server sends a bookmark every minute.
const WATCH_PATIENCE: Duration = Duration::from_secs(150);
/// A watch that ends sooner has failed. The API server ends a watch after some minutes.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);
/// Time within which a second 410 Gone is a failure.
const GONE_AGAIN: Duration = Duration::from_secs(30);
/// The annotation of the bookmark that follows the last of the initial Nodes.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Follows the Nodes for one node.
pub(super) struct Follower<'a> {
    pub store: &'a KubeStore,
    pub session: &'a Session,
    /// Takes what an operator must know.
    pub notices: UnboundedSender<Notice>,
}

/// An event of a watch.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: Object<'a>,
}

impl Event<'_> {
    fn of_a_node(self) -> Result<Self> {
        let unnamed = self.object.metadata.name.is_empty();
        ensure!(!unnamed || ["BOOKMARK", "ERROR"].contains(&&*self.kind), "the node has no name");
        Ok(self)
    }

    /// Returns true if the initial Nodes are complete.
    fn ends_initial(&self) -> bool {
        self.kind == "BOOKMARK" && self.object.metadata.annotations.get(INITIAL_EVENTS_END) == Some("true")
    }
}

/// A page of a list, without its items.
#[derive(Deserialize)]
struct Page {
    metadata: PageMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

impl Follow for Follower<'_> {
    async fn follow(&self, updates: &Updates, outage: &mut Outage) -> Result<()> {
        let mut gone: Option<Instant> = None;
        while !updates.is_closed() {
            let ended = match self.session.version() {
                Some(version) => self.resume(&version, updates, outage).await,
                None if self.store.streams_lists() => self.stream(updates, outage).await,
                None => self.list(updates).await,
            };
            match ended {
                // An API server forgets versions after some minutes, or when it restarts. Once in a while this is no failure.
                Err(error) if is_gone(&error) && gone.is_none_or(|last| last.elapsed() > GONE_AGAIN) => {
                    debug!("reading all nodes again: {error:#}");
                    gone = Some(Instant::now());
                }
                ended => ended?,
            }
        }
        Ok(())
    }

    fn is_refusal(&self, error: &anyhow::Error) -> bool {
        let code = error.downcast_ref().and_then(ApiError::code);
        matches!(code, Some(401 | 403))
    }
}

impl Follower<'_> {
    /// Follows the Nodes from this version on.
    async fn resume(&self, version: &str, updates: &Updates, outage: &mut Outage) -> Result<()> {
        let lines =
            self.open(&format!("&resourceVersion={version}")).await.map_err(|error| self.refused(error))?;
        self.read(lines, None, updates, outage).await
    }

    /// Reads all Nodes by a watch, and follows it.
    async fn stream(&self, updates: &Updates, outage: &mut Outage) -> Result<()> {
        let all = "&resourceVersion=0&resourceVersionMatch=NotOlderThan&sendInitialEvents=true";
        match self.open(all).await {
            Ok(lines) => self.read(lines, Some(Vec::new()), updates, outage).await,
            Err(error) if error.code() == Some(422) => {
                debug!("the API server does not send all nodes in a watch; listing them: {error}");
                self.store.lists_in_pages();
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads all Nodes page by page.
    async fn list(&self, updates: &Updates) -> Result<()> {
        let mut nodes = Vec::new();
        let mut query = "&resourceVersion=0".to_owned();
        let page = loop {
            let path = format!("/api/v1/nodes?limit={PAGE}{query}");
            let page = self.page(&Call::get("list", "nodes", path), &mut nodes).await?;
            if page.next.is_empty() {
                break page;
            }
            query = format!("&continue={}", page.next);
        };
        self.begin(nodes, page.resource_version, updates).await
    }

    async fn page(&self, call: &Call<'_>, nodes: &mut Vec<NodeView>) -> Result<PageMetadata> {
        let mut chunks = Chunks::new(self.store.api.open(call).await?);
        let mut splitter = ListSplitter::default();
        while let Some(chunk) = chunks.next_within(READ_PATIENCE).await.with_context(|| call.to_string())? {
            splitter.feed(&chunk, |item| {
                let object = serde_json::from_slice(item).context("a node in the list cannot be read")?;
                nodes.push(self.view(&object));
                Ok(())
            })?;
        }
        let rest = splitter.finish().with_context(|| format!("{call}: the answer has no end"))?;
        let page: Page = serde_json::from_slice(&rest).with_context(|| format!("{call}: not a list"))?;
        Ok(page.metadata)
    }

    async fn open(&self, from: &str) -> Result<Lines, ApiError> {
        // Nodes that start together do not come back together.
        let seconds = 300 + random::number().unwrap_or_default() % 300;
        let path =
            format!("/api/v1/nodes?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}{from}");
        self.store.api.open(&Call::get("watch", "nodes", path)).await.map(Lines::new)
    }

    /// Follows a watch until it ends. `initial`: the Nodes up to the end of the initial ones, if they come first.
    async fn read(
        &self,
        mut lines: Lines,
        mut initial: Option<Vec<NodeView>>,
        updates: &Updates,
        outage: &mut Outage,
    ) -> Result<()> {
        let opened = Instant::now();
        if initial.is_none() {
            outage.end();
        }
        while !updates.is_closed() {
            let patience = if initial.is_some() { READ_PATIENCE } else { WATCH_PATIENCE };
            let Ok(line) = timeout(patience, lines.next()).await else {
                return self.silent(initial.is_some());
            };
            let Some(line) = line? else {
                ensure!(opened.elapsed() >= SHORTEST_WATCH, "the API server ended the watch at once");
                return Ok(());
            };
            let event = self.event(line)?;
            match &mut initial {
                None => self.take_in(&event, updates).await,
                Some(_) if event.ends_initial() => {
                    let nodes = initial.take().unwrap_or_default();
                    self.begin(nodes, event.object.metadata.resource_version.to_string(), updates).await?;
                    outage.end();
                }
                Some(nodes) if event.kind == "ADDED" => nodes.push(self.view(&event.object)),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Takes in a change.
    async fn take_in(&self, event: &Event<'_>, updates: &Updates) {
        let Metadata { name, resource_version, .. } = &event.object.metadata;
        let changes = match &*event.kind {
            "ADDED" | "MODIFIED" => self.session.put(self.view(&event.object)),
            "DELETED" => self.session.remove(name),
            _ => Changes::default(),
        };
        self.session.advance(resource_version);
        self.publish(changes, updates).await;
    }

    /// Decides what it means that nothing comes.
    fn silent(&self, initial: bool) -> Result<()> {
        if initial {
            self.store.lists_in_pages();
            bail!("the API server does not send all nodes in a watch");
        }
        debug!("the watch on the nodes is silent; opening another one");
        Ok(())
    }

    /// Decodes a line. An error of the API server, and what is no event, lead to another list.
    fn event<'l>(&self, line: &'l [u8]) -> Result<Event<'l>> {
        let event = serde_json::from_slice(line).map_err(anyhow::Error::from).and_then(Event::of_a_node);
        let event = event
            .inspect_err(|_| self.session.forget_version())
            .context("the watch on the nodes sent what is no event")?;
        if event.kind == "ERROR" {
            let Object { code, message, .. } = event.object;
            let status = Call::get("watch", "nodes", "/api/v1/nodes".to_owned())
                .status(code.unwrap_or_default(), message.unwrap_or_default().into_owned());
            return Err(self.refused(ApiError::Status(status)));
        }
        Ok(event)
    }

    /// Starts from all Nodes, as of this version.
    async fn begin(&self, nodes: Vec<NodeView>, version: String, updates: &Updates) -> Result<()> {
        ensure!(
            !nodes.is_empty(),
            "the API server has no node at all, not even this one, which cannot be; what is known of the other nodes \
             is kept"
        );
        let changes = self.session.replace(nodes, version);
        self.publish(changes, updates).await;
        Ok(())
    }

    async fn publish(&self, changes: Changes, updates: &Updates) {
        for problem in changes.problems {
            warn!("{}", problem.message);
            if problem.notify {
                let notice = Notice {
                    reason: "FlannelPodCIDR",
                    message: problem.message,
                    severity: Severity::Warning,
                };
                // Without a receiver the watch is about to end.
                self.notices.send(notice).ok();
            }
        }
        for update in changes.updates {
            // Without a receiver the watch is about to end.
            updates.send(update).await.ok();
        }
    }

    /// Decides whether an answer means that the watch cannot go on where it was.
    fn refused(&self, error: ApiError) -> anyhow::Error {
        // 400: not a version of this API server. 504: a version of its future, after etcd was restored.
        if matches!(error.code(), Some(400 | 410 | 504)) {
            self.session.forget_version();
        }
        error.into()
    }

    fn view(&self, object: &Object<'_>) -> NodeView {
        let view = NodeView::new(object, &self.store.prefix);
        self.session.newest(view, &object.metadata.resource_version)
    }
}

/// Returns true if the API server no longer knows the version that it was asked for.
fn is_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref().and_then(ApiError::code) == Some(410)
}
