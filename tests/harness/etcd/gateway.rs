//! Reads and writes over etcd's JSON gateway, a hundred times faster than one etcdctl process for each request.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::base64::{decode, encode};
use crate::http;
use crate::netns::NetNs;
use crate::wait::scaled;

const TIMEOUT: Duration = Duration::from_secs(10);
const OPS_PER_TXN: usize = 1000;

/// A key in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The etcd lease it is attached to; 0 without a lease, as for a reservation.
    pub lease: i64,
    /// Revision of its last write.
    pub mod_revision: i64,
    /// Number of writes since it was created.
    pub version: i64,
}

/// A client of one etcd server.
#[derive(Debug, Clone)]
pub struct Gateway {
    netns: Option<Arc<NetNs>>,
    address: SocketAddr,
}

impl Gateway {
    pub(super) fn new(netns: Option<Arc<NetNs>>, address: SocketAddr) -> Self {
        Self { netns, address }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn health(&self) -> Result<()> {
        let health = self.request("GET", "/health", "")?;
        ensure!(health["health"] == "true", "{health}");
        Ok(())
    }

    /// Writes a key without a lease.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        self.post("kv/put", &json!({"key": encode(key), "value": encode(value)})).map(drop)
    }

    /// Writes a key with a lease of this many seconds, and returns the lease.
    pub fn put_for(&self, key: &str, value: &str, seconds: u32) -> Result<i64> {
        let lease = number(&self.post("lease/grant", &json!({"TTL": seconds}))?["ID"]);
        self.post("kv/put", &json!({"key": encode(key), "value": encode(value), "lease": lease}))?;
        Ok(lease)
    }

    /// Writes many keys, a thousand in each transaction.
    pub fn put_all(&self, entries: &[(String, String)]) -> Result<()> {
        for chunk in entries.chunks(OPS_PER_TXN) {
            let put = |(key, value): &(String, String)| json!({"requestPut": {"key": encode(key), "value": encode(value)}});
            let puts: Vec<_> = chunk.iter().map(put).collect();
            self.post("kv/txn", &json!({"success": puts}))?;
        }
        Ok(())
    }

    /// Removes many keys, a thousand in each transaction.
    pub fn delete_all(&self, keys: &[String]) -> Result<()> {
        for chunk in keys.chunks(OPS_PER_TXN) {
            let delete = |key: &String| json!({"requestDeleteRange": {"key": encode(key)}});
            let deletes: Vec<_> = chunk.iter().map(delete).collect();
            self.post("kv/txn", &json!({"success": deletes}))?;
        }
        Ok(())
    }

    /// Reads a key.
    pub fn entry(&self, key: &str) -> Result<Option<KeyValue>> {
        let found = self.post("kv/range", &json!({"key": encode(key)}))?;
        Ok(entries(&found)?.pop())
    }

    /// Reads all keys that begin with a prefix, in order.
    pub fn prefix(&self, prefix: &str) -> Result<Vec<KeyValue>> {
        let range = json!({"key": encode(prefix), "range_end": encode(&after(prefix)?)});
        entries(&self.post("kv/range", &range)?)
    }

    /// Removes a key; it is an error if there is none.
    pub fn delete(&self, key: &str) -> Result<()> {
        let answer = self.post("kv/deleterange", &json!({"key": encode(key)}))?;
        ensure!(number(&answer["deleted"]) == 1, "there is no key {key}");
        Ok(())
    }

    /// Removes all keys that begin with a prefix, and returns their number.
    pub fn delete_prefix(&self, prefix: &str) -> Result<i64> {
        let range = json!({"key": encode(prefix), "range_end": encode(&after(prefix)?)});
        Ok(number(&self.post("kv/deleterange", &range)?["deleted"]))
    }

    /// Revokes a lease, which removes its keys.
    pub fn revoke(&self, lease: i64) -> Result<()> {
        self.post("lease/revoke", &json!({"ID": lease})).map(drop)
    }

    /// Returns the seconds until a lease ends; -1 if it has ended.
    pub fn seconds_left(&self, lease: i64) -> Result<i64> {
        Ok(number(&self.post("lease/timetolive", &json!({"ID": lease}))?["TTL"]))
    }

    /// Returns the store's revision.
    pub fn revision(&self) -> Result<i64> {
        Ok(number(&self.post("kv/range", &json!({"key": encode("\0")}))?["header"]["revision"]))
    }

    /// Compacts all history up to now.
    pub fn compact(&self) -> Result<()> {
        let revision = self.revision()?;
        self.post("kv/compaction", &json!({"revision": revision, "physical": true})).map(drop)
    }

    /// Returns how many requests with this method (`Range`) etcd has served since its start, the test bed's included.
    pub fn served(&self, method: &str) -> Result<u64> {
        let metrics = self.exchange("GET", "/metrics", "").context("etcd's metrics")?;
        let label = format!("grpc_method=\"{method}\"");
        let counters = metrics.lines().filter(|line| line.starts_with("grpc_server_started_total"));
        let counter =
            counters.filter(|line| line.contains(&label)).filter_map(|line| line.rsplit(' ').next());
        counter.map(|count| Ok(count.parse::<f64>()? as u64)).sum()
    }

    /// Calls etcd's v3 JSON API.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.request("POST", &format!("/v3/{path}"), &body.to_string())
    }

    fn request(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        let answer = self.exchange(method, path, body);
        let json = answer.and_then(|answer| serde_json::from_str(&answer).context("the answer is not JSON"));
        json.with_context(|| format!("{method} {path} at etcd {}", self.address))
    }

    fn exchange(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let stream = self.connect()?;
        stream.set_read_timeout(Some(scaled(TIMEOUT)))?;
        stream.set_write_timeout(Some(scaled(TIMEOUT)))?;
        http::request(stream, method, path, "application/json", body.as_bytes())
    }

    fn connect(&self) -> Result<TcpStream> {
        let connect = || TcpStream::connect_timeout(&self.address, scaled(TIMEOUT)).context("connect");
        match &self.netns {
            Some(netns) => netns.run(connect),
            None => connect(),
        }
    }
}

fn entries(answer: &Value) -> Result<Vec<KeyValue>> {
    let found = answer["kvs"].as_array().map_or(&[][..], Vec::as_slice);
    found.iter().map(entry).collect()
}

fn entry(kv: &Value) -> Result<KeyValue> {
    Ok(KeyValue {
        key: decode(kv["key"].as_str().unwrap_or_default())?,
        value: decode(kv["value"].as_str().unwrap_or_default())?,
        lease: number(&kv["lease"]),
        mod_revision: number(&kv["mod_revision"]),
        version: number(&kv["version"]),
    })
}

/// Reads a number. etcd's JSON has 64-bit numbers as text, and leaves out zeros.
fn number(value: &Value) -> i64 {
    value.as_str().and_then(|text| text.parse().ok()).or(value.as_i64()).unwrap_or(0)
}

/// Returns the first key behind all keys that begin with the prefix.
fn after(prefix: &str) -> Result<String> {
    let last =
        prefix.chars().next_back().filter(char::is_ascii).context("the prefix ends in no ASCII letter")?;
    let next = char::from(last as u8 + 1);
    Ok(format!("{}{next}", &prefix[..prefix.len() - 1]))
}
