//! What somebody can do who writes to the datastore, and what not.

use std::time::Duration;

use anyhow::ensure;
use flannel_tests::etcd::PREFIX;
use flannel_tests::{Agent, Cluster, TestResult, eventually};

use crate::inspect::{self, Peer};
use crate::overlay::{NETWORK, lines_of};

const SOON: Duration = Duration::from_secs(10);
/// A text that would be a line of the log.
const LINE: &str = "\n2026-01-01T00:00:00.000000Z ERROR forged \u{1b}[31m";

/// Fails if a line of the log does not begin as the agent's do, or has a control character.
fn ensure_own_lines(log: &str) {
    for line in log.lines() {
        let level = line.split_whitespace().nth(1).unwrap_or_default();
        let forged = line.starts_with("2026-01-01") || !["DEBUG", "INFO", "WARN", "ERROR"].contains(&level);
        assert!(!forged && !line.contains(char::is_control), "{line:?} in {log}");
    }
}

#[test]
fn a_text_of_the_datastore_makes_no_line_of_the_log() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = cluster.start_etcd()?;
    let line = serde_json::to_string(LINE)?;
    let node = &cluster.nodes()[0];
    let mut agent = Agent::builder(node).etcd(&etcd).arg("--dataplane=netlink").arg("-v=2").start()?;
    let top = ["SubnetMin", "EnableIPv6"]
        .map(|key| (key, NETWORK.replacen('{', &format!("{{\"{key}\":{line},"), 1)));
    let backend = ["Type", "Dataplane", "SourceCheck", "MTU"].map(|key| {
        (key, NETWORK.replace(r#"{"Type":"vxlan""#, &format!(r#"{{"Type":"vxlan","{key}":{line}"#)))
    });
    for (said, text) in [("JSON object", LINE.to_owned())].into_iter().chain(top).chain(backend) {
        etcd.configure(&text)?;
        eventually("the configuration is refused", SOON, || {
            ensure!(agent.log().contains(said), "no {said} in {}", agent.log());
            Ok(())
        })?;
    }
    etcd.configure(NETWORK)?;
    agent.wait_ready()?;
    let lease = |ip: &str, backend: &str, data: &str| {
        format!(r#"{{"PublicIP":{ip},"PublicIPv6":null,"BackendType":{backend},"BackendData":{data}}}"#)
    };
    let (ip, vxlan, data) = ("\"192.168.64.9\"", "\"vxlan\"", r#"{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:09"}"#);
    let mac = format!(r#"{{"VNI":1,"VtepMAC":{line}}}"#);
    let vni = format!(r#"{{"VNI":{line},"VtepMAC":"c6:d2:32:6f:8f:09"}}"#);
    let bad = [
        (format!("10.5.100.0-24{LINE}"), lease(ip, vxlan, data)),
        (LINE.to_owned(), lease(ip, vxlan, data)),
        ("10.5.101.0-24".to_owned(), lease(&line, vxlan, data)),
        ("10.5.102.0-24".to_owned(), lease(ip, &line, data)),
        ("10.5.103.0-24".to_owned(), lease(ip, vxlan, &line)),
        ("10.5.104.0-24".to_owned(), lease(ip, vxlan, &mac)),
        ("10.5.105.0-24".to_owned(), lease(ip, vxlan, &vni)),
        ("10.5.106.0-24".to_owned(), LINE.to_owned()),
        ("10.5.107.0-24".to_owned(), line.clone()),
    ];
    for (key, value) in &bad {
        etcd.put(&format!("{PREFIX}/subnets/{key}"), value)?;
    }
    let good = Peer::fictional(90);
    etcd.put(&good.key(), &good.value())?;
    eventually("the good lease is followed", SOON, || {
        inspect::ensure_knows(node, std::slice::from_ref(&good))
    })?;
    eventually("each bad one is refused", SOON, || {
        let warnings = lines_of(&agent.log(), "WARN");
        ensure!(warnings.len() >= bad.len(), "{warnings:#?}");
        Ok(())
    })?;
    ensure_own_lines(&agent.log());
    Ok(())
}
