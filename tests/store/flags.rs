//! The command line in all spellings that flanneld's users know.

use std::process::{Command, Output};

use anyhow::Result;
use flannel_tests::agent::agent_binary;
use flannel_tests::{Agent, AgentBuilder, Cluster, Etcd, TestResult};

use crate::inspect;
use crate::overlay::{NETWORK, lines_of, refusal};

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
fn kubernetes_without_a_node_name_is_refused() -> TestResult {
    let flag = "--kube-subnet-mgr";
    let output = run(&[flag])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let errors = lines_of(&said, "ERROR");
    assert!(matches!(&errors[..], [error] if error.contains("NODE_NAME")), "{said}");
    Ok(())
}

#[test]
fn invalid_flags_are_refused_by_name() -> TestResult {
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

/// Starts an agent with flags in one spelling, and checks that it becomes ready without BPF.
fn starts_with(spelled: fn(AgentBuilder, &Etcd) -> AgentBuilder) -> TestResult {
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
fn flags_work_with_one_dash_and_a_space() -> TestResult {
    starts_with(|agent, etcd| {
        let agent = agent.arg("-etcd-endpoints").arg(etcd.endpoint()).arg("-etcd-prefix").arg("/spelled");
        agent.arg("-dataplane").arg("netlink").arg("-v").arg("2")
    })
}

#[test]
fn flags_work_with_two_dashes_and_an_equals_sign() -> TestResult {
    starts_with(|agent, etcd| {
        let agent = agent.etcd(etcd).arg("--etcd-prefix=/spelled").arg("--dataplane=netlink");
        agent.arg("--ip-masq=false").arg("--v=0")
    })
}

#[test]
fn flags_work_as_environment_variables() -> TestResult {
    starts_with(|agent, etcd| {
        let agent =
            agent.env("FLANNELD_ETCD_ENDPOINTS", etcd.endpoint()).env("FLANNELD_ETCD_PREFIX", "/spelled");
        // An empty variable counts as unset.
        let agent = agent.env("FLANNELD_PUBLIC_IP", "").env("FLANNELD_HEALTHZ_PORT", "");
        agent.env("FLANNELD_DATAPLANE", "netlink").env("FLANNELD_IP_MASQ", "0")
    })
}

#[test]
fn a_flag_wins_over_its_variable() -> TestResult {
    starts_with(|agent, etcd| {
        let agent = agent.etcd(etcd).arg("--etcd-prefix=/spelled").arg("--dataplane=netlink");
        agent.env("FLANNELD_ETCD_ENDPOINTS", "http://127.0.0.1:1").env("FLANNELD_DATAPLANE", "bpf")
    })
}

#[test]
fn one_reachable_endpoint_of_several_is_enough() -> TestResult {
    starts_with(|agent, etcd| {
        let endpoints = format!("--etcd-endpoints=http://127.0.0.1:1,{}", etcd.endpoint());
        agent.arg(endpoints).arg("--etcd-prefix=/spelled").arg("--dataplane=netlink")
    })
}

#[test]
fn a_missing_interface_is_refused() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(NETWORK)?;
    let error = refusal(&cluster.nodes()[0], |agent| agent.etcd(&etcd).arg("--iface=eth7"))?;
    assert!(error.contains("eth7") && error.contains("eth0"), "{error}");
    Ok(())
}
