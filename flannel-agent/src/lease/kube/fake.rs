//! A small API server for tests, which also does what a real one cannot be made to do on demand.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::AUTHORIZATION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

type Body = BoxBody<Bytes, io::Error>;

/// A running server. It ends when this is dropped.
pub(super) struct FakeApi {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

/// What the server has and does.
#[derive(Default)]
pub(super) struct State {
    /// The Nodes by name.
    pub nodes: BTreeMap<String, Value>,
    /// The version of the last change.
    pub version: u64,
    /// Changes before this version are forgotten.
    pub oldest: u64,
    /// `sendInitialEvents` is understood.
    pub streams: bool,
    /// The token that requests must have.
    pub token: Option<String>,
    /// Answers that are given instead, once each: the beginning of the request, the code and the message.
    pub refusals: Vec<(&'static str, u16, &'static str)>,
    /// All requests: method, path, body.
    pub requests: Vec<String>,
    log: Vec<(u64, String)>,
    watchers: Vec<UnboundedSender<io::Result<String>>>,
}

impl FakeApi {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let serve = Arc::clone(&state);
        let server = tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&serve);
                let service = service_fn(move |request| answer(Arc::clone(&state), request));
                let connection = http1::Builder::new().serve_connection(TokioIo::new(connection), service);
                tokio::spawn(async move { connection.await.ok() });
            }
        });
        Self { address, state, server }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Makes several changes at once.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state())
    }

    /// Returns the requests so far that contain a text.
    pub(super) fn requests(&self, part: &str) -> Vec<String> {
        self.state().requests.iter().filter(|request| request.contains(part)).cloned().collect()
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl State {
    /// Adds or changes a Node.
    pub(super) fn put(&mut self, mut node: Value) {
        self.version += 1;
        node["metadata"]["resourceVersion"] = self.version.to_string().into();
        let name = node["metadata"]["name"].as_str().unwrap().to_owned();
        let kind = if self.nodes.contains_key(&name) { "MODIFIED" } else { "ADDED" };
        self.event(kind, &node);
        self.nodes.insert(name, node);
    }

    pub(super) fn delete(&mut self, name: &str) {
        self.version += 1;
        let mut node = self.nodes.remove(name).unwrap();
        node["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.event("DELETED", &node);
    }

    /// Sends a line to all watches.
    pub(super) fn send(&mut self, line: &str) {
        self.watchers.retain(|watcher| watcher.send(Ok(format!("{line}\n"))).is_ok());
    }

    /// Ends all watches in the middle of a line.
    pub(super) fn cut(&mut self) {
        for watcher in self.watchers.drain(..) {
            watcher.send(Ok("{\"type\":\"MODI".to_owned())).ok();
            watcher.send(Err(io::ErrorKind::ConnectionReset.into())).ok();
        }
    }

    pub(super) fn watches(&self) -> usize {
        self.watchers.iter().filter(|watcher| !watcher.is_closed()).count()
    }

    fn event(&mut self, kind: &str, object: &Value) {
        let line = json!({ "type": kind, "object": object }).to_string();
        self.log.push((self.version, line.clone()));
        self.send(&line);
    }

    fn route(
        &mut self,
        method: &Method,
        path: &str,
        query: &BTreeMap<String, String>,
        body: &str,
    ) -> Response<Body> {
        let parts: Vec<&str> = path.trim_start_matches("/api/v1/").split('/').collect();
        match (method, parts.as_slice()) {
            (&Method::GET, ["nodes"]) if query.contains_key("watch") => self.watch(query),
            (&Method::GET, ["nodes"]) => self.list(query),
            (&Method::GET, ["nodes", name]) => match self.nodes.get(*name) {
                Some(node) => whole(200, node),
                None => refusal(404, &format!("nodes {name:?} not found")),
            },
            (&Method::PATCH, ["nodes", name, "status"]) => self.patch(name, body),
            (&Method::GET, ["namespaces", _, "pods", name]) => {
                whole(200, &json!({ "spec": { "nodeName": name } }))
            }
            (&Method::POST, ["namespaces", _, "events"]) => whole(201, &json!({})),
            (&Method::PATCH, ["namespaces", _, "events", _]) => whole(200, &json!({})),
            _ => refusal(404, "no such path"),
        }
    }

    fn patch(&mut self, name: &str, body: &str) -> Response<Body> {
        let Some(mut node) = self.nodes.get(name).cloned() else { return refusal(404, "no such node") };
        let patch: Value = serde_json::from_str(body).unwrap();
        if let Some(annotations) = patch["metadata"]["annotations"].as_object() {
            for (name, value) in annotations {
                node["metadata"]["annotations"][name] = value.clone();
            }
        }
        if let Some(conditions) = patch["status"]["conditions"].as_array() {
            node["status"]["conditions"] = conditions.clone().into();
        }
        self.put(node);
        whole(200, &self.nodes[name])
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Response<Body> {
        let number = |name: &str| query.get(name).and_then(|text| text.parse().ok());
        let (limit, start): (usize, usize) = (number("limit").unwrap(), number("continue").unwrap_or(0));
        let items: Vec<_> = self.nodes.values().skip(start).take(limit).collect();
        let end = start + items.len();
        let next = if end < self.nodes.len() { end.to_string() } else { String::new() };
        let metadata = json!({ "resourceVersion": self.version.to_string(), "continue": next });
        whole(200, &json!({ "kind": "NodeList", "metadata": metadata, "items": items }))
    }

    fn watch(&mut self, query: &BTreeMap<String, String>) -> Response<Body> {
        let (sender, receiver) = unbounded_channel();
        let send = |line: String| sender.send(Ok(line + "\n")).unwrap();
        if query.contains_key("sendInitialEvents") {
            if !self.streams {
                return refusal(422, "sendInitialEvents is forbidden for watch");
            }
            for node in self.nodes.values() {
                send(json!({ "type": "ADDED", "object": node }).to_string());
            }
            let end = json!({ "k8s.io/initial-events-end": "true" });
            let metadata = json!({ "resourceVersion": self.version.to_string(), "annotations": end });
            send(
                json!({ "type": "BOOKMARK", "object": { "kind": "Node", "metadata": metadata } }).to_string(),
            );
        } else {
            let from: u64 = query["resourceVersion"].parse().unwrap();
            if from < self.oldest {
                return refusal(410, "too old resource version");
            }
            for (_, line) in self.log.iter().filter(|(version, _)| *version > from) {
                send(line.clone());
            }
        }
        self.watchers.push(sender);
        Response::new(streamed(receiver))
    }
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let line = format!("{} {} {body}", head.method, head.uri);
    let mut state = state.lock().unwrap();
    state.requests.push(line.clone());
    if let Some(token) = &state.token
        && head.headers.get(AUTHORIZATION).is_none_or(|given| given != &format!("Bearer {token}"))
    {
        return Ok(refusal(401, "Unauthorized"));
    }
    if let Some(at) = state.refusals.iter().position(|(part, ..)| line.contains(part)) {
        let (_, code, message) = state.refusals.remove(at);
        return Ok(refusal(code, message));
    }
    let query = head.uri.query().unwrap_or_default();
    let query = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = query.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Ok(state.route(&head.method, head.uri.path(), &query, &body))
}

fn refusal(code: u16, message: &str) -> Response<Body> {
    whole(
        code,
        &json!({ "kind": "Status", "metadata": {}, "status": "Failure", "message": message, "code": code }),
    )
}

fn whole(code: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never: Infallible| match never {});
    Response::builder().status(code).body(body.boxed()).unwrap()
}

fn streamed(receiver: UnboundedReceiver<io::Result<String>>) -> Body {
    let lines = stream::unfold(receiver, |mut receiver| async {
        let line = receiver.recv().await?;
        Some((line.map(|line| Frame::data(Bytes::from(line))), receiver))
    });
    StreamBody::new(lines).boxed()
}
