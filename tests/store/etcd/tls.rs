//! etcd with TLS and client certificates.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::cluster::MGMT;
use flannel_tests::{Agent, AgentBuilder, Cluster, Etcd, TestResult, eventually};

use super::certificates::{Authority, Issued};
use crate::inspect::{self, Peer};
use crate::overlay::{NETWORK, lines_of};

const SOON: Duration = Duration::from_secs(10);
const PORT: u16 = 2443;

/// A node, and an etcd that serves only clients with a certificate of its authority.
struct Bed {
    etcd: Etcd,
    authority: Authority,
    client: Issued,
    cluster: Cluster,
}

impl Bed {
    /// Starts an etcd whose own certificate is for this host.
    fn start(host: &str) -> Result<Self> {
        let cluster = Cluster::segment(1)?;
        let authority = Authority::new(cluster.dir(), "ours")?;
        let (server, client) = (authority.issue(host)?, authority.issue("node1")?);
        let file = |flag: &str, file: &Path| format!("--{flag}={}", file.display());
        let etcd = Etcd::builder().client_url(format!("https://{MGMT}:{PORT}")).arg("--client-cert-auth");
        let etcd = etcd.arg(file("trusted-ca-file", &authority.file()));
        let etcd = etcd.arg(file("cert-file", &server.cert)).arg(file("key-file", &server.key));
        let etcd = cluster.start_etcd_with(etcd)?;
        etcd.configure(NETWORK)?;
        Ok(Self { etcd, authority, client, cluster })
    }

    fn agent(&self) -> AgentBuilder {
        let agent = Agent::builder(&self.cluster.nodes()[0]).arg("--dataplane=netlink");
        agent.arg(format!("-etcd-endpoints=https://{MGMT}:{PORT}"))
    }

    /// Prepares an agent with flags for these files. A flag without a file is left out.
    fn agent_with(&self, ca: Option<&Path>, cert: Option<&Path>, key: Option<&Path>) -> AgentBuilder {
        let flags = [("cafile", ca), ("certfile", cert), ("keyfile", key)];
        let given = flags.into_iter().filter_map(|(flag, file)| Some((flag, file?)));
        given.fold(self.agent(), |agent, (flag, file)| agent.arg(format!("-etcd-{flag}={}", file.display())))
    }

    fn trusted(&self) -> AgentBuilder {
        self.agent_with(Some(&self.authority.file()), Some(&self.client.cert), Some(&self.client.key))
    }

    /// Starts an agent and returns its first error. The agent must go on trying.
    fn first_error(&self, agent: AgentBuilder) -> Result<String> {
        let log = self.cluster.nodes()[0].dir().join("agent.log");
        fs::write(&log, "")?;
        let mut agent = agent.start()?;
        let error = eventually("the agent logs an error", SOON, || {
            lines_of(&agent.log(), "ERROR").into_iter().next().context("no error yet")
        })?;
        agent.ensure_running()?;
        Ok(error)
    }
}

#[test]
fn leases_are_taken_and_followed_over_tls() -> TestResult {
    let bed = Bed::start(&MGMT.to_string())?;
    let mut agent = bed.trusted().start()?;
    agent.wait_ready()?;
    assert_eq!(bed.etcd.subnets()?.len(), 1);
    let peer = Peer::fictional(90);
    bed.etcd.put(&peer.key(), &peer.value())?;
    eventually("a new lease is followed", SOON, || {
        inspect::ensure_knows(&bed.cluster.nodes()[0], std::slice::from_ref(&peer))
    })?;
    Ok(())
}

#[test]
fn a_plain_endpoint_beside_one_with_tls_does_no_harm() -> TestResult {
    let bed = Bed::start(&MGMT.to_string())?;
    let both = format!("--etcd-endpoints=http://127.0.0.1:1,{MGMT}:{PORT}");
    bed.trusted().arg(both).start()?.wait_ready()?;
    Ok(())
}

#[test]
fn a_bad_file_is_named_with_its_flag() -> TestResult {
    let bed = Bed::start(&MGMT.to_string())?;
    let (ca, Issued { cert, key }) = (bed.authority.file(), &bed.client);
    let (missing, junk) = (bed.cluster.dir().join("missing.pem"), bed.cluster.dir().join("junk.pem"));
    fs::write(&junk, "-----BEGIN NOTHING-----\n")?;
    for (files, said) in [
        ([&missing, cert, key], ["--etcd-cafile", "missing.pem", "No such file"]),
        ([&junk, cert, key], ["--etcd-cafile", "junk.pem", "PEM"]),
        ([key, cert, key], ["--etcd-cafile", "ours-node1.key", "no certificate"]),
        ([&ca, &missing, key], ["--etcd-certfile", "missing.pem", "No such file"]),
        ([&ca, key, key], ["--etcd-certfile", "ours-node1.key", "no certificate"]),
        ([&ca, cert, &missing], ["--etcd-keyfile", "missing.pem", "No such file"]),
        ([&ca, cert, cert], ["--etcd-keyfile", "ours-node1.crt", "no private key"]),
    ] {
        let [ca, cert, key] = files.map(|file| Some(file.as_path()));
        let error = bed.first_error(bed.agent_with(ca, cert, key))?;
        for said in said {
            assert!(error.contains(said), "no {said:?} in {error}");
        }
    }
    Ok(())
}

#[test]
fn the_key_is_never_logged() -> TestResult {
    let bed = Bed::start(&MGMT.to_string())?;
    let (ca, Issued { cert, key }) = (bed.authority.file(), &bed.client);
    let text = fs::read_to_string(key)?;
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('-')).collect();
    assert!(!lines.is_empty(), "{} has a key", key.display());
    let damaged = bed.cluster.dir().join("damaged.key");
    fs::write(&damaged, text.replacen(&lines[0][..4], "!!!!", 1))?;
    let ensure_hidden = |log: &str| {
        // The damaged line is looked for without its beginning.
        assert!(lines.iter().all(|line| !log.contains(&line[4..])), "the key is in the log: {log}");
    };
    for [ca, cert, key] in [[&ca, cert, &damaged], [key, cert, key], [&ca, key, key]] {
        let agent = bed.agent_with(Some(ca), Some(cert), Some(key)).arg("-v=6");
        bed.first_error(agent)?;
        ensure_hidden(&fs::read_to_string(bed.cluster.nodes()[0].dir().join("agent.log"))?);
    }
    let mut agent = bed.trusted().arg("-v=6").start()?;
    agent.wait_ready()?;
    ensure_hidden(&agent.log());
    Ok(())
}

#[test]
fn the_error_says_which_certificate_is_not_trusted() -> TestResult {
    let bed = Bed::start("elsewhere.example")?;
    let theirs = Authority::new(bed.cluster.dir(), "theirs")?;
    let (ca, Issued { cert, key }) = (bed.authority.file(), &bed.client);
    let foreign = theirs.issue("node1")?;
    for (agent, said) in [
        (bed.trusted(), "not valid for name"),
        (bed.agent_with(Some(&theirs.file()), Some(cert), Some(key)), "UnknownIssuer"),
        (bed.agent_with(None, Some(cert), Some(key)), "UnknownIssuer"),
        (bed.agent_with(Some(&ca), Some(cert), Some(&foreign.key)), "KeyMismatch"),
    ] {
        let error = bed.first_error(agent)?;
        assert!(error.contains(said), "no {said:?} in {error}");
    }
    let bed = Bed::start(&MGMT.to_string())?;
    for (shown, said) in [(None, "showing no certificate"), (Some(&foreign), "theirs-node1.crt")] {
        let (cert, key) = shown.map(|issued| (&*issued.cert, &*issued.key)).unzip();
        let error = bed.first_error(bed.agent_with(Some(&bed.authority.file()), cert, key))?;
        assert!(error.contains(said) && error.contains("ours.crt"), "{error}");
    }
    Ok(())
}

#[test]
fn certificates_that_appear_later_are_used() -> TestResult {
    let bed = Bed::start(&MGMT.to_string())?;
    let (ca, late) = (bed.authority.file(), bed.cluster.dir().join("late.crt"));
    fs::rename(&ca, &late)?;
    let mut agent = bed.trusted().start()?;
    eventually("the agent logs the missing file", SOON, || {
        ensure!(agent.log().contains("--etcd-cafile"), "not yet");
        Ok(())
    })?;
    fs::rename(&late, &ca)?;
    agent.wait_ready()?;
    Ok(())
}
