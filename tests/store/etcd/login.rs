//! etcd with users and passwords.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_agent::lease::SubnetManager as _;
use flannel_agent::lease::etcd::{EtcdManager, EtcdOptions, Login, Password, TlsFiles};
use flannel_tests::etcd::PREFIX;
use flannel_tests::{Agent, Cluster, Etcd, TestResult, eventually};

use crate::overlay::{NETWORK, lines_of};

const SOON: Duration = Duration::from_secs(10);
const ROOT: &str = "--user root:rootpw";
pub(crate) const PASSWORD: &str = "hush-hush-4711";
/// Lifetime of a token in seconds, from its last use.
const TOKEN: u64 = 1;

/// Adds users. `flannel` may read and write below flannel's prefix and nothing else.
pub(crate) fn with_users(etcd: Etcd) -> Result<Etcd> {
    etcd.configure(NETWORK)?;
    for line in [
        "user add root:rootpw",
        "user grant-role root root",
        &format!("user add flannel:{PASSWORD}"),
        "role add flannel",
        &format!("role grant-permission flannel --prefix=true readwrite {PREFIX}/"),
        "user grant-role flannel flannel",
        "auth enable",
    ] {
        etcd.ctl(line)?;
    }
    Ok(etcd)
}

fn subnets(etcd: &Etcd) -> Result<usize> {
    let listed = etcd.ctl(&format!("{ROOT} get --prefix --keys-only {PREFIX}/subnets/"))?;
    Ok(listed.lines().filter(|line| !line.is_empty()).count())
}

#[test]
fn the_agent_logs_in_again_and_never_logs_the_password() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let mut etcd = with_users(cluster.start_etcd()?)?;
    let agent = Agent::builder(&cluster.nodes()[0]).etcd(&etcd).arg("--dataplane=netlink").arg("-v=6");
    let agent = agent.arg("-etcd-username=flannel").env("FLANNELD_ETCD_PASSWORD", PASSWORD);
    let mut agent = agent.start()?;
    agent.wait_ready()?;
    assert_eq!(subnets(&etcd)?, 1);
    // The new process does not know the old tokens.
    etcd.restart()?;
    etcd.ctl(&format!("{ROOT} del --prefix {PREFIX}/subnets/"))?;
    eventually("the agent has logged in again and taken its subnet again", SOON, || {
        ensure!(subnets(&etcd)? == 1, "not yet");
        Ok(())
    })?;
    agent.ensure_running()?;
    assert!(!agent.log().contains(PASSWORD), "the password is in the log");
    Ok(())
}

#[test]
fn a_refused_login_is_logged_without_the_password() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = with_users(cluster.start_etcd()?)?;
    for (flags, said) in [
        (vec!["--etcd-username=flannel", "--etcd-password=wrong-4712"], "invalid user ID or password"),
        (vec!["--etcd-username=nobody", "--etcd-password=wrong-4712"], "invalid user ID or password"),
        (vec![], "user name is empty"),
    ] {
        std::fs::write(cluster.nodes()[0].dir().join("agent.log"), "")?;
        let agent = Agent::builder(&cluster.nodes()[0]).etcd(&etcd).arg("-v=6");
        let mut agent = flags.iter().fold(agent, |agent, flag| agent.arg(*flag)).start()?;
        let error = eventually("the agent logs an error", SOON, || {
            lines_of(&agent.log(), "ERROR").into_iter().next().context("no error yet")
        })?;
        assert!(error.contains(said), "no {said:?} in {error}");
        assert!(!agent.log().contains("wrong-4712"), "the password is in the log");
        agent.ensure_running()?;
    }
    Ok(())
}

#[test]
fn an_etcd_without_users_accepts_an_agent_with_a_password() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(NETWORK)?;
    let agent = Agent::builder(&cluster.nodes()[0]).etcd(&etcd).arg("--dataplane=netlink");
    agent.arg("--etcd-username=flannel").arg("--etcd-password=x").start()?.wait_ready()?;
    Ok(())
}

#[test]
fn an_expired_token_is_renewed() -> TestResult {
    let etcd = Etcd::builder().arg(format!("--auth-token-ttl={TOKEN}")).start()?;
    let etcd = with_users(etcd)?;
    let manager = EtcdManager::new(EtcdOptions {
        endpoints: vec![etcd.endpoint()],
        prefix: PREFIX.to_owned(),
        tls: TlsFiles::default(),
        login: Some(Login { user: "flannel".to_owned(), password: Password::Given(PASSWORD.to_owned()) }),
    });
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        manager.network_config().await?;
        // The only fixed sleep of the suite: any request to see whether the token has expired would prolong it.
        tokio::time::sleep(Duration::from_secs(3 * TOKEN)).await;
        manager.network_config().await
    })?;
    Ok(())
}
