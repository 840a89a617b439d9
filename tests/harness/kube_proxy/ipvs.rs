//! kube-proxy's rules in ipvs mode: services of the kernel's load balancer, whose addresses are the node's own, and rules of
//! iptables that masquerade by sets.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use super::iptables::restore;
use super::{AFFINITY, Family, KubeProxy, MASQUERADE, Protocol, Service};

/// The device that has the services' addresses. It is never up.
const DEVICE: &str = "kube-ipvs0";
/// What kube-proxy sets: the connection tracker knows the balancer's connections, and those to an endpoint that has gone end.
const SYSCTLS: [(&str, &str); 4] = [
    ("net/ipv4/vs/conntrack", "1"),
    ("net/ipv4/vs/conn_reuse_mode", "0"),
    ("net/ipv4/vs/expire_nodest_conn", "1"),
    ("net/ipv4/vs/expire_quiescent_template", "1"),
];

/// A set of ipset: its name after that of the family, and its type.
type Set = (&'static str, &'static str);
/// Addresses and ports of services.
const CLUSTER_IP: Set = ("CLUSTER-IP", "hash:ip,port");
/// Endpoints as they reach themselves.
const LOOP_BACK: Set = ("LOOP-BACK", "hash:ip,port,ip");
/// Addresses of services.
const IPVS_IPS: Set = ("IPVS-IPS", "hash:ip");
const SETS: [Set; 3] = [CLUSTER_IP, LOOP_BACK, IPVS_IPS];

impl Family {
    fn set(self, (name, _): Set) -> String {
        if self == Self::V4 { format!("KUBE-{name}") } else { format!("KUBE-6-{name}") }
    }
}

/// Makes the device, the sets and all rules.
pub(super) fn start(proxy: &KubeProxy<'_>, family: Family, network: &str) -> Result<()> {
    // Loads the module.
    proxy.netns.exec("ipvsadm -S -n").context("this needs the kernel module ip_vs")?;
    proxy.netns.set(&SYSCTLS)?;
    if proxy.netns.exec(&format!("ip link show {DEVICE}")).is_err() {
        proxy.netns.exec(&format!("ip link add {DEVICE} type dummy"))?;
    }
    let of = if family == Family::V4 { "inet" } else { "inet6" };
    let made: String = SETS.map(|set| format!("create {} {} family {of}\n", family.set(set), set.1)).concat();
    proxy.netns.exec_with("ipset restore", &made)?;
    let [cluster_ip, loop_back, ips] = SETS.map(|set| family.set(set));
    let foreign = if proxy.masquerade_all { String::new() } else { format!("! -s {network} ") };
    let rules = format!(
        r#"*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-MARK-MASQ - [0:0]
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-SERVICES {foreign}-m comment --comment "Kubernetes service cluster ip + port for masquerade purpose" -m set --match-set {cluster_ip} dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-SERVICES -m set --match-set {cluster_ip} dst,dst -j ACCEPT
-A KUBE-POSTROUTING -m comment --comment "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose" -m set --match-set {loop_back} dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark {MASQUERADE:#x}/{MASQUERADE:#x} -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark {MASQUERADE:#x}
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark {MASQUERADE:#x}
COMMIT
*filter
:KUBE-FORWARD - [0:0]
:KUBE-IPVS-FILTER - [0:0]
-I FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-I INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark {MASQUERADE:#x}/{MASQUERADE:#x} -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-IPVS-FILTER -m set --match-set {cluster_ip} dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set {ips} dst -j REJECT
COMMIT
"#
    );
    restore(proxy, family, "-w --noflush", &rules)
}

/// Writes the services and their endpoints, the device's addresses and the sets.
pub(super) fn sync(proxy: &KubeProxy<'_>, family: Family, services: &[&Service]) -> Result<()> {
    let [cluster_ip, loop_back, ips] = SETS.map(|set| family.set(set));
    let mut sets: String = SETS.map(|set| format!("flush {}\n", family.set(set))).concat();
    let mut addresses = Vec::new();
    for Service { protocol, address, endpoints, .. } in services {
        let (ip, port) = (address.ip(), address.port());
        let _ = writeln!(sets, "add {cluster_ip} {ip},{protocol}:{port}\nadd {ips} {ip}");
        for endpoint in endpoints {
            let (ip, port) = (endpoint.ip(), endpoint.port());
            let _ = writeln!(sets, "add {loop_back} {ip},{protocol}:{port},{ip}");
        }
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        addresses.push(format!("addr replace {ip}/{bits} dev {DEVICE}"));
    }
    proxy.netns.exec_with("ipset restore -exist", &sets)?;
    proxy.netns.ip(&addresses)?;
    let wanted = Balancer::of(services);
    let changes = Balancer::now(proxy, family)?.changes(&wanted);
    proxy.netns.exec_with("ipvsadm -R", &changes).map(drop).with_context(|| format!("write\n{changes}"))
}

/// Removes everything.
pub(super) fn remove(proxy: &KubeProxy<'_>, family: Family) -> Result<()> {
    super::iptables::remove(proxy, family)?;
    SETS.iter()
        .try_for_each(|set| proxy.netns.exec(&format!("ipset destroy {}", family.set(*set))).map(drop))?;
    let changes = Balancer::now(proxy, family)?.changes(&Balancer::default());
    proxy.netns.exec_with("ipvsadm -R", &changes)?;
    let flag = if family == Family::V4 { "-4" } else { "-6" };
    proxy.netns.exec(&format!("ip {flag} addr flush dev {DEVICE}")).map(drop)
}

/// The services of the kernel's load balancer as ipvsadm writes them (`-t 10.96.0.10:80`), each with its options and the weights
/// of its endpoints.
#[derive(Default)]
struct Balancer(BTreeMap<String, (String, BTreeMap<String, u32>)>);

impl Balancer {
    fn of(services: &[&Service]) -> Self {
        let key = |protocol, address: SocketAddr| match protocol {
            Protocol::Tcp => format!("-t {address}"),
            Protocol::Udp => format!("-u {address}"),
        };
        let entry = |service: &&Service| {
            let persistent = if service.affinity { format!(" -p {AFFINITY}") } else { String::new() };
            let endpoints = service.endpoints.iter().map(|endpoint| (endpoint.to_string(), 1)).collect();
            (key(service.protocol, service.address), (format!("-s rr{persistent}"), endpoints))
        };
        Self(services.iter().map(entry).collect())
    }

    /// Reads those of a family.
    fn now(proxy: &KubeProxy<'_>, family: Family) -> Result<Self> {
        let mut balancer = Self::default();
        for line in proxy.netns.exec("ipvsadm -S -n")?.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let [verb, protocol, address, rest @ ..] = &words[..] else { continue };
            if address.starts_with('[') == (family == Family::V4) {
                continue;
            }
            let service = balancer.0.entry(format!("{protocol} {address}")).or_default();
            match (*verb, rest) {
                ("-A", options) => service.0 = options.join(" "),
                (_, ["-r", endpoint, .., weight]) => {
                    _ = service.1.insert((*endpoint).to_owned(), weight.parse()?);
                }
                _ => {}
            }
        }
        Ok(balancer)
    }

    /// Returns the lines for `ipvsadm -R` that make these services of those that are there. An endpoint of TCP that goes gets no new
    /// connections, and keeps those that it has.
    fn changes(&self, wanted: &Self) -> String {
        let mut lines = String::new();
        for service in self.0.keys().filter(|service| !wanted.0.contains_key(*service)) {
            let _ = writeln!(lines, "-D {service}");
        }
        for (service, (options, endpoints)) in &wanted.0 {
            let none = BTreeMap::new();
            let before = self.0.get(service).map_or(&none, |(_, endpoints)| endpoints);
            if !self.0.contains_key(service) {
                let _ = writeln!(lines, "-A {service} {options}");
            }
            for endpoint in endpoints.keys() {
                let verb = if before.contains_key(endpoint) { "-e" } else { "-a" };
                let _ = writeln!(lines, "{verb} {service} -r {endpoint} -m -w 1");
            }
            for endpoint in before.keys().filter(|endpoint| !endpoints.contains_key(*endpoint)) {
                let _ = match service.starts_with("-t") {
                    true => writeln!(lines, "-e {service} -r {endpoint} -m -w 0"),
                    false => writeln!(lines, "-d {service} -r {endpoint}"),
                };
            }
        }
        lines
    }
}
