//! Judges the facts about the node, network by network. Pure.

use super::facts::network::{Host, Network};
use super::facts::{Facts, NodeFacts, Processes};
use super::judge::firewall::{Rules, Tunnel};
use super::judge::{agent, cni, firewall, host, kernel, leases, managers, mtu, others};
use super::model::{Check, Finding};
use crate::netfilter::rules::Table;

/// The rules of the packet filters, or why they are not known.
pub(super) type Tables = Result<Vec<Table>, String>;

/// Returns what is found on this node. `cni_folder`: where the CNI configurations are.
pub(super) fn findings(facts: &Facts, node: &NodeFacts, tables: &Tables, cni_folder: &str) -> Vec<Finding> {
    let Facts { host, networks } = facts;
    let mut findings = of_node(facts, node, cni_folder);
    for (network, processes) in networks.iter().zip(&node.by_network) {
        let mut found = of_network(network, host, node, processes, tables);
        name(&mut found, network, networks.len());
        findings.append(&mut found);
    }
    findings
}

/// Returns what is found if the facts about the node are not there in time.
pub(super) fn without_node(Facts { networks, .. }: &Facts, error: &anyhow::Error) -> Vec<Finding> {
    let remedy = "a filesystem or a system call hangs: dmesg, and cat /proc/mounts, may tell which";
    let mut findings = vec![Check::Agent.warning(format!("most checks are left out: {error:#}"), remedy)];
    for network in networks {
        let mut found = agent::status(&network.status);
        name(&mut found, network, networks.len());
        findings.append(&mut found);
    }
    findings
}

/// Adds the network's name if there are several.
pub(super) fn name(findings: &mut [Finding], network: &Network, networks: usize) {
    if networks > 1 {
        let name = network.status.network.clone().unwrap_or_else(|| "another network".to_owned());
        findings.iter_mut().for_each(|finding| finding.network = Some(name.clone()));
    }
}

fn of_node(Facts { host: of_host, networks }: &Facts, node: &NodeFacts, cni_folder: &str) -> Vec<Finding> {
    let wants_bpf = networks.iter().any(Network::wants_bpf);
    let has_direct = networks.iter().any(Network::has_direct);
    let is_kubernetes = networks.iter().any(Network::is_kubernetes);
    let mut devices: Vec<_> = networks.iter().flat_map(|network| network.managed(of_host)).collect();
    let files = &node.files;
    let mut findings = kernel::bpf(&node.kernel, wants_bpf);
    findings.push(kernel::bpffs(&node.bpffs, wants_bpf));
    findings.extend(host::bridged(&files.bridged, is_kubernetes));
    findings.push(host::machine_id(files.machine_id.as_deref()));
    findings.push(host::clock(files.clock.clone()));
    let configurations = files.cni.as_ref().map(Vec::as_slice).map_err(String::as_str);
    findings.push(cni::judge(cni_folder, configurations, is_kubernetes));
    findings.push(managers::network_manager(&files.network_manager, &devices));
    devices.push(managers::Managed::of_pods());
    let settings = &files.networkd_settings;
    findings.extend(managers::networkd(&files.networkd, settings, &devices, has_direct));
    findings
}

fn of_network(
    network: &Network,
    host: &Host,
    NodeFacts { files, .. }: &NodeFacts,
    Processes { agent: process, daemons, programs }: &Processes,
    tables: &Tables,
) -> Vec<Finding> {
    let interfaces = network.interfaces(host);
    let own = network.own(host);
    let peers = &network.status.peers;
    let mut findings = agent::status(&network.status);
    findings.extend(kernel::capabilities(*process, network.wants_bpf()));
    findings.extend(host::forwarding(&interfaces, &files.settings));
    findings.extend(host::reverse_path(&interfaces, &files.settings, network.has_direct()));
    let forwarded: Rules =
        tables.as_ref().map(|tables| network.forwarded(host, tables)).map_err(Clone::clone);
    findings.push(firewall::forward(&forwarded));
    if let Some(port) = network.port(host) {
        let passages = tables.as_ref().map(|tables| network.tunnelled(host, port, tables));
        let [received, sent]: [Rules; 2] = match passages {
            Ok([received, sent]) => [Ok(received), Ok(sent)],
            Err(why) => [Err(why.clone()), Err(why.clone())],
        };
        findings.extend(firewall::tunnel(
            &received,
            &sent,
            Tunnel { port, is_early: network.is_early(host) },
        ));
    }
    findings.extend(mtu::judge(&network.mtus(host)));
    findings.extend(others::devices(&network.expected_devices(), &host.links, &host.addresses));
    findings.extend(leases::addresses(&own, peers));
    findings.extend(leases::macs(&own, peers));
    findings.push(others::agents(daemons));
    findings.push(others::programs(programs));
    findings
}
