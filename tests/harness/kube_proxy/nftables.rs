//! kube-proxy's rules in nftables mode.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::{AFFINITY, Family, KubeProxy, MASQUERADE, Service, hash};

/// Chains at hooks: name, type, hook, priority.
const HOOKED: [(&str, &str, &str, &str); 7] = [
    ("filter-prerouting", "filter", "prerouting", "dstnat - 10"),
    ("filter-input", "filter", "input", "filter"),
    ("filter-forward", "filter", "forward", "filter"),
    ("filter-output", "filter", "output", "-110"),
    ("nat-prerouting", "nat", "prerouting", "dstnat"),
    ("nat-output", "nat", "output", "-100"),
    ("nat-postrouting", "nat", "postrouting", "srcnat"),
];

/// The other chains that are there without any service.
const CHAINS: [&str; 6] =
    ["services", "masquerading", "mark-for-masquerade", "firewall-check", "endpoints-check", "reject-chain"];

/// The maps from address, protocol and port of services to what happens to their packets.
const MAPS: [&str; 2] = ["service-ips", "no-endpoint-services"];

const TABLE: &str = "kube-proxy";

impl Family {
    /// Returns nftables' words for the family: of a table and of a header's fields, and of an address.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::V4 => ("ip", "ipv4_addr"),
            Self::V6 => ("ip6", "ipv6_addr"),
        }
    }
}

fn run(proxy: &KubeProxy<'_>, script: &str) -> Result<()> {
    proxy.netns.exec_with("nft -f -", script).map(drop).with_context(|| format!("write\n{script}"))
}

/// Makes the table, its chains and maps, and all rules that are not of a service.
pub(super) fn start(proxy: &KubeProxy<'_>, family: Family) -> Result<()> {
    let (ip, address) = family.words();
    let mut script = format!("add table {ip} {TABLE}\n");
    for (name, kind, hook, priority) in HOOKED {
        let _ = writeln!(
            script,
            "add chain {ip} {TABLE} {name} {{ type {kind} hook {hook} priority {priority}; }}"
        );
    }
    CHAINS.iter().for_each(|chain| _ = writeln!(script, "add chain {ip} {TABLE} {chain}"));
    for map in MAPS {
        let _ = writeln!(
            script,
            "add map {ip} {TABLE} {map} {{ type {address} . inet_proto . inet_service : verdict; }}"
        );
    }
    let rules = [
        "filter-prerouting ct state new jump firewall-check".to_owned(),
        "filter-output ct state new jump firewall-check".to_owned(),
        "filter-input ct state new jump endpoints-check".to_owned(),
        "filter-forward ct state new jump endpoints-check".to_owned(),
        "filter-output ct state new jump endpoints-check".to_owned(),
        "nat-prerouting jump services".to_owned(),
        "nat-output jump services".to_owned(),
        "nat-postrouting jump masquerading".to_owned(),
        format!("mark-for-masquerade mark set mark or {MASQUERADE:#x}"),
        format!("masquerading mark and {MASQUERADE:#x} == 0 return"),
        format!("masquerading mark set mark xor {MASQUERADE:#x}"),
        "masquerading masquerade fully-random".to_owned(),
        "reject-chain reject".to_owned(),
        format!("endpoints-check {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services"),
        format!("services {ip} daddr . meta l4proto . th dport vmap @service-ips"),
    ];
    rules.iter().for_each(|rule| _ = writeln!(script, "add rule {ip} {TABLE} {rule}"));
    run(proxy, &script)
}

/// Writes the chains of services and their endpoints, and the maps that lead to them. Clients keep their endpoints.
pub(super) fn sync(
    proxy: &KubeProxy<'_>,
    family: Family,
    network: &str,
    services: &[&Service],
) -> Result<()> {
    let local = (!proxy.masquerade_all).then_some(network);
    let mut script = Script { family, lines: String::new() };
    MAPS.iter().for_each(|map| script.line("flush map", map, ""));
    services.iter().for_each(|service| script.service(service, local));
    run(proxy, &script.lines)
}

/// Removes the table.
pub(super) fn remove(proxy: &KubeProxy<'_>, family: Family) -> Result<()> {
    run(proxy, &format!("delete table {} {TABLE}\n", family.words().0))
}

/// Lines for nft.
struct Script {
    family: Family,
    lines: String,
}

impl Script {
    fn line(&mut self, verb: &str, object: &str, rest: &str) {
        let _ = writeln!(self.lines, "{verb} {} {TABLE} {object} {rest}", self.family.words().0);
    }

    /// Makes a chain, or empties it.
    fn chain(&mut self, name: &str) {
        self.line("add chain", name, "");
        self.line("flush chain", name, "");
    }

    /// Adds a service. Clients outside `local` are masqueraded; all are if it is None.
    fn service(&mut self, service: &Service, local: Option<&str>) {
        let (ip, type_of_address) = self.family.words();
        let Service { name, protocol, address, endpoints, affinity } = service;
        let (vip, port) = (address.ip(), address.port());
        let key = format!("{vip} . {protocol} . {port}");
        if endpoints.is_empty() {
            self.line("add element", "no-endpoint-services", &format!("{{ {key} : goto reject-chain }}"));
            return;
        }
        let chain = format!("service-{}-{name}", hash(name));
        let word = |kind: &str, endpoint| format!("{kind}-{}-{name}", hash(&format!("{name} {endpoint}")));
        self.chain(&chain);
        endpoints.iter().for_each(|endpoint| self.chain(&word("endpoint", endpoint)));
        self.line("add element", "service-ips", &format!("{{ {key} : goto {chain} }}"));
        let foreign = local.map(|network| format!(" {ip} saddr != {network}")).unwrap_or_default();
        let masquerade =
            format!("{ip} daddr {vip} {protocol} dport {port}{foreign} jump mark-for-masquerade");
        self.line("add rule", &chain, &masquerade);
        if *affinity {
            for endpoint in endpoints {
                let (set, goto) = (word("affinity", endpoint), word("endpoint", endpoint));
                let about = format!("type {type_of_address}; flags dynamic,timeout; timeout {AFFINITY}s;");
                self.line("add set", &set, &format!("{{ {about} }}"));
                self.line("add rule", &chain, &format!("{ip} saddr @{set} goto {goto}"));
            }
        }
        let choices: Vec<_> = endpoints
            .iter()
            .enumerate()
            .map(|(number, endpoint)| format!("{number} : goto {}", word("endpoint", endpoint)))
            .collect();
        let choice = format!("numgen random mod {} vmap {{ {} }}", choices.len(), choices.join(", "));
        self.line("add rule", &chain, &choice);
        for endpoint in endpoints {
            let chain = word("endpoint", endpoint);
            self.line("add rule", &chain, &format!("{ip} saddr {} jump mark-for-masquerade", endpoint.ip()));
            if *affinity {
                let set = word("affinity", endpoint);
                self.line("add rule", &chain, &format!("update @{set} {{ {ip} saddr }}"));
            }
            self.line("add rule", &chain, &format!("meta l4proto {protocol} dnat to {endpoint}"));
        }
    }
}
