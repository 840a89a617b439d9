//! The command line, as flanneld's users write it.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::Result;
use flannel_tests::agent::agent_binary;
use flannel_tests::{Agent, AgentBuilder, Cluster, Etcd, TestResult};

use crate::inspect;
use crate::overlay::{NETWORK, lines_of};

const END: Duration = Duration::from_secs(5);

fn run(args: &[&str]) -> Result<Output> {
    Ok(Command::new(agent_binary()?).args(args).env_clear().output()?)
}

#[test]
fn help_and_version_are_given_with_one_dash_or_two() -> TestResult {
    for flag in ["--help", "-help"] {
        let output = run(&[flag])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{flag}: {output:?}");
        for known in [
            "--etcd-endpoints",
            "--local-subnet-mgr",
            "--subnet-file",
            "--dataplane",
            "--xdp",
            "--bpffs",
            "FLANNELD_ETCD_PREFIX",
        ] {
            assert!(text.contains(known), "{flag} does not say {known}: {text}");
        }
    }
    for flag in ["--version", "-version"] {
        let output = run(&[flag])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.starts_with("flannel-agent 0."), "{flag}: {output:?}");
    }
    Ok(())
}

#[test]
fn what_is_not_served_is_refused_by_name() -> TestResult {
    let flag = "--kube-subnet-mgr";
    let output = run(&[flag])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let errors = lines_of(&said, "ERROR");
    assert!(matches!(&errors[..], [error] if error.contains(flag)), "{said}");
    Ok(())
}

#[test]
fn nonsense_is_refused_by_name() -> TestResult {
    for (flag, names) in [
        ("--no-such-flag", vec!["no-such-flag"]),
        ("--dataplane=warp", vec!["warp", "auto", "bpf", "netlink"]),
        ("--xdp=offload", vec!["offload", "auto", "native", "generic", "off"]),
        ("--public-ip=example.org", vec!["public-ip", "example.org"]),
        ("--iface-regex=eth[", vec!["iface-regex", "eth[", "unclosed"]),
        ("--iface-can-reach=example.org", vec!["iface-can-reach", "example.org"]),
        ("docker-options", vec!["docker-options"]),
        ("--etcd-keyfile=/key.pem", vec!["--etcd-certfile", "give both"]),
        ("--etcd-password=x", vec!["--etcd-username"]),
        ("--subnet-lease-renew-margin=0", vec!["subnet-lease-renew-margin", "1..=1439"]),
    ] {
        let output = run(&[flag])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{flag} was accepted");
        for name in names {
            assert!(said.contains(name), "{flag}: no {name:?} in {said}");
        }
    }
    Ok(())
}

/// Starts an agent on a node of its own with flags in some spelling; it has to come up without BPF.
fn comes_up(spelled: fn(AgentBuilder, &Etcd) -> AgentBuilder) -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = cluster.start_etcd()?;
    etcd.put("/spelled/config", NETWORK)?;
    let node = &cluster.nodes()[0];
    let mut agent = spelled(Agent::builder(node), &etcd).start()?;
    agent.wait_ready()?;
    assert_eq!(etcd.get_prefix("/spelled/subnets/")?.len(), 1);
    assert!(!inspect::pins(node)?.path("").exists(), "--dataplane netlink was not understood");
    assert!(agent.term()?.success());
    Ok(())
}

#[test]
fn one_dash_and_a_blank() -> TestResult {
    comes_up(|agent, etcd| {
        let agent = agent.arg("-etcd-endpoints").arg(etcd.endpoint()).arg("-etcd-prefix").arg("/spelled");
        agent.arg("-dataplane").arg("netlink").arg("-v").arg("2")
    })
}

#[test]
fn two_dashes_and_an_equals_sign() -> TestResult {
    comes_up(|agent, etcd| {
        let agent = agent.etcd(etcd).arg("--etcd-prefix=/spelled").arg("--dataplane=netlink");
        agent.arg("--ip-masq=false").arg("--v=0")
    })
}

#[test]
fn variables_of_the_environment() -> TestResult {
    comes_up(|agent, etcd| {
        let agent =
            agent.env("FLANNELD_ETCD_ENDPOINTS", etcd.endpoint()).env("FLANNELD_ETCD_PREFIX", "/spelled");
        // One that is empty is none.
        let agent = agent.env("FLANNELD_PUBLIC_IP", "").env("FLANNELD_HEALTHZ_PORT", "");
        agent.env("FLANNELD_DATAPLANE", "netlink").env("FLANNELD_IP_MASQ", "0")
    })
}

#[test]
fn a_flag_wins_over_its_variable() -> TestResult {
    comes_up(|agent, etcd| {
        let agent = agent.etcd(etcd).arg("--etcd-prefix=/spelled").arg("--dataplane=netlink");
        agent.env("FLANNELD_ETCD_ENDPOINTS", "http://127.0.0.1:1").env("FLANNELD_DATAPLANE", "bpf")
    })
}

#[test]
fn several_endpoints_of_which_one_lives() -> TestResult {
    comes_up(|agent, etcd| {
        let endpoints = format!("--etcd-endpoints=http://127.0.0.1:1,{}", etcd.endpoint());
        agent.arg(endpoints).arg("--etcd-prefix=/spelled").arg("--dataplane=netlink")
    })
}

#[test]
fn an_interface_that_is_not_there_is_refused() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(NETWORK)?;
    let mut agent = Agent::builder(&cluster.nodes()[0]).etcd(&etcd).arg("--iface=eth7").start()?;
    assert_eq!(agent.wait_exit(END)?.code(), Some(1));
    let errors = lines_of(&agent.log(), "ERROR");
    assert!(matches!(&errors[..], [error] if error.contains("eth7") && error.contains("eth0")), "{errors:?}");
    Ok(())
}
