//! `flannel-agent cleanup` removes everything that the agent has set up.

use std::process::Output;

use anyhow::{Result, ensure};
use flannel_tests::agent::subcommand;
use flannel_tests::{Node, TestResult, eventually};

use super::{Bed, CLUSTER, FOREIGN, IPTABLES, NFTABLES, SOON};

/// Returns all state of a node that an agent could change.
fn state(node: &Node) -> Result<Vec<String>> {
    let mut state = [
        "ip -j link",
        "ip -j addr",
        "ip -j route show table all",
        "ip -6 -j route show table all",
        "ip -j neigh show nud permanent",
        "bridge -j fdb",
        "tc qdisc",
        "iptables-save",
        "ip6tables-save",
        "nft -s list ruleset",
    ]
    .into_iter()
    .map(|command| Ok(format!("{command}\n{}", without_times(&node.exec(command)?))))
    .collect::<Result<Vec<_>>>()?;
    for dir in [node.bpffs()?, node.dir()] {
        let mut names: Vec<_> =
            std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        names.retain(|name| !name.ends_with("agent.log") && !name.ends_with("notify"));
        names.sort();
        state.push(format!("{names:?}"));
    }
    Ok(state)
}

/// Waits until the kernel has added the addresses and routes of new links.
fn wait_settled(node: &Node) -> Result<()> {
    eventually("the links have their own addresses", SOON, || {
        let links = node.exec("ip link")?;
        ensure!(!links.contains("NO-CARRIER") && !links.contains("state DOWN"), "{links}");
        let multicast = node.exec("ip -6 route show table local type multicast")?;
        ensure!(multicast.lines().count() == 2, "{multicast}");
        let addresses = node.exec("ip -6 addr show scope link")?;
        ensure!(addresses.matches("fe80::").count() == 2, "{addresses}");
        Ok(())
    })
}

fn ensure_as(before: &[String], node: &Node) -> Result<()> {
    for (now, before) in state(node)?.iter().zip(before) {
        ensure!(now == before, "{now}\ninstead of\n{before}");
    }
    Ok(())
}

/// Removes times and counters from the output of iptables-save.
fn without_times(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().unwrap_or(line).to_owned() + "\n").collect()
}

fn cleanup(node: &Node) -> Result<Output> {
    Ok(subcommand(node, "cleanup")?.output()?)
}

fn leaves_nothing(config: &str, flags: &[&str]) -> Result<Vec<String>> {
    let mut bed = Bed::new(2, config)?;
    let node = &bed.cluster.nodes()[0];
    node.netns().exec_with("iptables-restore", FOREIGN)?;
    node.netns().ip(&["route add 10.5.3.0/24 via 192.168.64.2 proto static"])?;
    wait_settled(node)?;
    let before = state(node)?;
    bed.start(flags)?;
    let (node, agents) = (&bed.cluster.nodes()[0], &mut bed.agents);
    assert_ne!(state(node)?, before, "the agent has done nothing");
    eventually("the other node is known", SOON, || {
        ensure!(node.exec("ip route")?.contains("10.5.2.0/24 via"), "no route to it");
        Ok(())
    })?;
    let output = cleanup(node)?;
    let said = String::from_utf8(output.stderr)?;
    assert!(!output.status.success() && said.contains(&format!("(pid {})", agents[0].pid())), "{said}");
    agents[0].term()?;
    let output = cleanup(node)?;
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    ensure_as(&before, node)?;
    let again = cleanup(node)?;
    assert!(again.status.success() && again.stderr.is_empty(), "{again:?}");
    assert_eq!(String::from_utf8(again.stdout)?, "nothing to remove\n");
    ensure_as(&before, node)?;
    assert!(bed.store.leases()?.contains_key("10.5.1.0-24"), "the datastore was touched");
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

#[test]
fn cleanup_leaves_nothing() -> TestResult {
    let removed = leaves_nothing(IPTABLES, &["--ip-masq", "--ip-blackhole-route", "--dataplane=bpf"])?;
    for (line, start) in removed.iter().zip([
        "removed BPF programs and maps of VNI 1",
        "removed /",
        "removed device flannel.1 with its routes, neighbours and FDB entries",
        "removed route unreachable 10.5.0.0/16",
        "removed chain FLANNEL-POSTRTG in table nat of iptables",
        "removed chain FLANNEL-FWD in table filter of iptables",
        "removed route blackhole 10.5.1.0/24",
        "removed /",
        "removed /",
    ]) {
        assert!(line.starts_with(start), "{removed:#?}");
    }
    assert_eq!(removed.len(), 9, "{removed:#?}");
    Ok(())
}

#[test]
fn cleanup_leaves_nothing_of_nftables() -> TestResult {
    let removed = leaves_nothing(NFTABLES, &["--ip-masq"])?;
    assert!(removed.contains(&"removed table ip flannel-ipv4 of nftables".to_owned()), "{removed:#?}");
    Ok(())
}

#[test]
fn cleanup_leaves_no_direct_routes() -> TestResult {
    for backend in [r#"{"Type":"host-gw"}"#, r#"{"Type":"vxlan","DirectRouting":true}"#] {
        let config = format!(r#"{{"Network":"{CLUSTER}","Backend":{backend}}}"#);
        let removed = leaves_nothing(&config, &[])?;
        let line = "removed direct routes to other nodes' subnets: 1".to_owned();
        assert!(removed.contains(&line), "{removed:#?}");
    }
    Ok(())
}

#[test]
fn devices_of_every_backend_are_removed_and_others_stay() -> TestResult {
    let bed = Bed::new(1, IPTABLES)?;
    let node = bed.node(0);
    node.netns().ip(&[
        "link add flannel.7 type vxlan id 7 dstport 8472 local 192.168.64.1 dev eth0",
        "link add flannel-v6.1 type vxlan id 1 dstport 8472 local fd00:192:168:40::1 dev eth0",
        "tuntap add flannel0 mode tun",
        "link add vxlan.9 type vxlan id 9 dstport 4789 local 192.168.64.1 dev eth0",
        "link add flannel.8 type bridge",
    ])?;
    let output = cleanup(node)?;
    assert!(output.status.success(), "{output:?}");
    let links = node.exec("ip -o link show")?;
    let flannels = ["flannel.7", "flannel-v6.1", "flannel0"];
    assert!(!flannels.iter().any(|name| links.contains(&format!(" {name}:"))), "{links}");
    assert!(["vxlan.9", "flannel.8"].iter().all(|name| links.contains(&format!(" {name}:"))), "{links}");
    Ok(())
}

#[test]
fn a_failed_removal_is_named_and_the_rest_is_removed() -> TestResult {
    let mut bed = Bed::started(1, IPTABLES, &["--ip-masq"])?;
    bed.agents[0].term()?;
    let node = bed.node(0);
    node.exec("iptables -A INPUT -j FLANNEL-FWD")?;
    let output = cleanup(node)?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr)?;
    assert!(
        said.starts_with("not everything could be removed:\n") && said.contains("iptables-restore"),
        "{said}"
    );
    assert!(node.exec("ip link show type vxlan")?.is_empty(), "the device is still there");
    node.exec("iptables -D INPUT -j FLANNEL-FWD")?;
    let output = cleanup(node)?;
    assert!(output.status.success(), "{output:?}");
    assert!(!super::rules(node)?.contains("flannel") && !node.subnet_file().exists());
    Ok(())
}
