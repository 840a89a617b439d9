//! `flannel-agent docker-opts`, run as by ExecStartPost of a systemd unit.

use std::fs;
use std::process::Output;

use anyhow::Result;
use flannel_tests::agent::agent_binary;
use flannel_tests::{NetNs, TestResult};

const SUBNET_ENV: &str =
    "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.44.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
const DOCKER_ENV: &str = "DOCKER_OPT_BIP=\"--bip=10.1.44.1/24\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=false\"\n\
    DOCKER_OPT_MTU=\"--mtu=1450\"\nDOCKER_OPTS=\"--debug  --bip=10.1.44.1/24 --ip-masq=false --mtu=1450\"\n";

/// Runs it in the namespace. Returns its output and the file it has written.
fn run(netns: &NetNs) -> Result<(Output, String)> {
    let dir = tempfile::tempdir()?;
    let (from, to) = (dir.path().join("subnet.env"), dir.path().join("docker_opts.env"));
    fs::write(&from, SUBNET_ENV)?;
    let mut command = netns.command(agent_binary()?);
    command.env_clear().env("DOCKER_OPTS", "--debug").env("FLANNELD_HEALTHZ_PORT", "300");
    let output = command.arg("docker-opts").arg("-f").arg(&from).arg("-d").arg(&to).output()?;
    Ok((output, fs::read_to_string(&to)?))
}

#[test]
fn the_subnet_file_and_the_environment_become_options() -> TestResult {
    flannel_tests::require_root()?;
    let (output, written) = run(&NetNs::new("docker")?)?;
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(written, DOCKER_ENV);
    Ok(())
}

#[test]
fn a_subnet_that_is_routed_elsewhere_is_an_error() -> TestResult {
    flannel_tests::require_root()?;
    let netns = NetNs::new("docker")?;
    netns.ip(&[
        "link add eth0 type veth peer name eth1",
        "link set eth0 up",
        "addr add 192.168.64.1/24 dev eth0",
        "route add 10.1.44.0/24 dev eth0",
    ])?;
    assert!(run(&netns)?.0.status.success(), "the subnet is on this machine");
    netns.ip(&["route replace 10.1.44.0/24 via 192.168.64.2"])?;
    let (output, written) = run(&netns)?;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr)?,
        "Your routing table already contains the subnet: 10.1.44.0/24 via 192.168.64.2\n"
    );
    assert_eq!(written, DOCKER_ENV);
    Ok(())
}
