//! kube-proxy's rules in iptables mode.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use super::{AFFINITY, Family, KubeProxy, MASQUERADE, Mode, Service, hash};

/// Chains of a table, and the rules by which its own chains lead to them, in their order: before all rules of others.
struct Table {
    name: &'static str,
    chains: &'static [&'static str],
    jumps: &'static [&'static str],
}

const TABLES: [Table; 2] = [
    Table {
        name: "nat",
        chains: &["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"],
        jumps: &[
            r#"PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
            r#"OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
            r#"POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING"#,
        ],
    },
    Table {
        name: "filter",
        chains: &["KUBE-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL"],
        // Each is put in front of the ones before.
        jumps: &[
            r#"FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD"#,
            r#"FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
            r#"OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
            r#"FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL"#,
        ],
    },
];

impl Mode {
    /// Returns the name of one of iptables' programs: `restore`, `save`.
    fn program(self, family: Family, verb: &str) -> String {
        let tables = if family == Family::V4 { "iptables" } else { "ip6tables" };
        let kind = if self == Self::LegacyIptables { "legacy" } else { "nft" };
        format!("{tables}-{kind}-{verb}")
    }
}

pub(super) fn restore(proxy: &KubeProxy<'_>, family: Family, flags: &str, rules: &str) -> Result<()> {
    let line = format!("{} {flags}", proxy.mode.program(family, "restore"));
    proxy.netns.exec_with(&line, rules).map(drop).with_context(|| format!("write\n{rules}"))
}

/// Makes the chains and the jumps to them.
pub(super) fn start(proxy: &KubeProxy<'_>, family: Family) -> Result<()> {
    let mut rules = String::new();
    for Table { name, chains, jumps } in TABLES {
        let _ = writeln!(rules, "*{name}");
        chains.iter().for_each(|chain| _ = writeln!(rules, ":{chain} - [0:0]"));
        jumps.iter().for_each(|jump| _ = writeln!(rules, "-I {jump}"));
        rules.push_str("COMMIT\n");
    }
    restore(proxy, family, "-w --noflush", &rules)
}

/// Writes what is in the chains.
pub(super) fn sync(
    proxy: &KubeProxy<'_>,
    family: Family,
    network: &str,
    services: &[&Service],
) -> Result<()> {
    let (mut filter, mut nat) = (Rules::of(&TABLES[1]), Rules::of(&TABLES[0]));
    filter.add("KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP");
    filter.add(&format!(
        r#"KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark {MASQUERADE:#x}/{MASQUERADE:#x} -j ACCEPT"#
    ));
    filter.add(
        r#"KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"#,
    );
    nat.add(&format!("KUBE-POSTROUTING -m mark ! --mark {MASQUERADE:#x}/{MASQUERADE:#x} -j RETURN"));
    nat.add(&format!("KUBE-POSTROUTING -j MARK --xor-mark {MASQUERADE:#x}"));
    nat.add(
        r#"KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully"#,
    );
    nat.add(&format!("KUBE-MARK-MASQ -j MARK --or-mark {MASQUERADE:#x}"));
    for service in services {
        if service.endpoints.is_empty() {
            let (name, to) = (&service.name, destination(service));
            filter.add(&format!(
                r#"KUBE-SERVICES -m comment --comment "{name} has no endpoints" {to} -j REJECT"#
            ));
        } else {
            nat.service(service, if proxy.masquerade_all { None } else { Some(network) });
        }
    }
    nat.add(
        r#"KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"#,
    );
    restore(proxy, family, "-w --noflush", &(filter.end() + &nat.end()))
}

/// Removes the jumps and the chains.
pub(super) fn remove(proxy: &KubeProxy<'_>, family: Family) -> Result<()> {
    for Table { name, .. } in TABLES {
        let saved = proxy.netns.exec(&format!("{} -t {name}", proxy.mode.program(family, "save")))?;
        let others: String =
            saved.lines().filter(|line| !line.contains("KUBE-")).flat_map(|line| [line, "\n"]).collect();
        restore(proxy, family, "-w", &others)?;
    }
    Ok(())
}

fn destination(service: &Service) -> String {
    let Service { protocol, address, .. } = service;
    format!("-d {} -p {protocol} -m {protocol} --dport {}", address.ip(), address.port())
}

/// The text of a table for iptables-restore.
struct Rules {
    chains: String,
    rules: String,
}

impl Rules {
    fn of(table: &Table) -> Self {
        let mut chains = format!("*{}\n", table.name);
        table.chains.iter().for_each(|chain| _ = writeln!(chains, ":{chain} - [0:0]"));
        Self { chains, rules: String::new() }
    }

    fn chain(&mut self, name: &str) {
        let _ = writeln!(self.chains, ":{name} - [0:0]");
    }

    fn add(&mut self, rule: &str) {
        let _ = writeln!(self.rules, "-A {rule}");
    }

    fn end(self) -> String {
        self.chains + &self.rules + "COMMIT\n"
    }

    /// Adds a service with endpoints. Clients outside `local` are masqueraded; all are if it is None.
    fn service(&mut self, service: &Service, local: Option<&str>) {
        let (name, to) = (&service.name, destination(service));
        let chain = format!("KUBE-SVC-{}", hash(name));
        self.chain(&chain);
        self.add(&format!(r#"KUBE-SERVICES -m comment --comment "{name} cluster IP" {to} -j {chain}"#));
        let foreign = local.map(|network| format!("! -s {network} ")).unwrap_or_default();
        self.add(&format!(
            r#"{chain} {foreign}{to} -m comment --comment "{name} cluster IP" -j KUBE-MARK-MASQ"#
        ));
        let endpoint_chain =
            |endpoint: &SocketAddr| format!("KUBE-SEP-{}", hash(&format!("{name} {endpoint}")));
        if service.affinity {
            for endpoint in service.endpoints.iter().map(endpoint_chain) {
                self.add(&format!(
                    "{chain} -m recent --name {endpoint} --rcheck --seconds {AFFINITY} --reap -j {endpoint}"
                ));
            }
        }
        for (endpoint, chance) in service.choices() {
            let choice = if chance < 1.0 {
                format!(" -m statistic --mode random --probability {chance:.10}")
            } else {
                String::new()
            };
            self.add(&format!(
                r#"{chain} -m comment --comment "{name} -> {endpoint}"{choice} -j {}"#,
                endpoint_chain(&endpoint)
            ));
        }
        for endpoint in &service.endpoints {
            let (chain, protocol) = (endpoint_chain(endpoint), service.protocol);
            self.chain(&chain);
            self.add(&format!("{chain} -m comment --comment {name} -s {} -j KUBE-MARK-MASQ", endpoint.ip()));
            let set =
                if service.affinity { format!(" -m recent --name {chain} --set") } else { String::new() };
            self.add(&format!(
                "{chain} -m comment --comment {name}{set} -p {protocol} -m {protocol} -j DNAT --to-destination {endpoint}"
            ));
        }
    }
}
