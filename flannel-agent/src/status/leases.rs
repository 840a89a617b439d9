//! The leases, as the datastore has them. Pure.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use flannel_common::lease::{NODE, OWN};
use ipnet::IpNet;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::agent::Agent;
use super::peers::is_of_other;
use super::sources::Sources;
use crate::config::BackendType;
use crate::dataplane::bpf::dry_run::known::Held;
use crate::lease::{LastKnown, LeaseAttrs, LeaseEnd, PublicIps, SubnetKey, TTL, VxlanData};
use crate::mac::Mac;
use crate::output::clean;
use crate::report::{Lease, spoken};

/// The leases of all networks.
#[derive(Debug, Serialize)]
pub(super) struct LeaseList {
    schema: u32,
    networks: Vec<LeasesOfNetwork>,
}

#[derive(Debug, Serialize)]
struct LeasesOfNetwork {
    network: Option<String>,
    datastore: Option<String>,
    /// `answers`, or why the agent does not.
    agent: String,
    /// Where the leases were read; `None` if nothing is known.
    source: Option<Source>,
    leases: Vec<Row>,
}

/// Where the leases were read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Source {
    /// The file of what the agent knew last, which it writes after each change.
    File { path: PathBuf, seconds_old: u64 },
    /// The maps of the BPF programs. They do not have everything.
    Maps,
}

/// A lease.
#[derive(Debug, Serialize)]
struct Row {
    /// IPv4 first.
    #[serde(serialize_with = "as_texts")]
    subnets: Vec<IpNet>,
    public_ips: Vec<IpAddr>,
    backend_type: Option<String>,
    /// As the datastore has it.
    backend_data: Option<Box<RawValue>>,
    backend_v6_data: Option<Box<RawValue>>,
    end: End,
    /// Whether it is this node's.
    own: bool,
    /// For how many seconds it is still held, although the datastore no longer has it.
    held: Option<u64>,
}

fn as_texts<S: Serializer>(subnets: &[IpNet], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(subnets.iter().map(ToString::to_string))
}

/// When a lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum End {
    /// After so many seconds, unless it is renewed.
    Ends { left: u64 },
    /// It has ended, and was not renewed as far as is known.
    Ended,
    /// It is a reservation, or that of a Node.
    Never,
    /// Within so many seconds, unless it is renewed. The datastore does not tell more.
    Within { left: u64 },
    /// The datastore no longer has it.
    Gone,
    /// Only the agent knows, or the agent itself has had no answer.
    Unknown,
}

impl LeaseList {
    pub(super) fn of(schema: u32, networks: &[Sources], now: SystemTime) -> Self {
        Self { schema, networks: networks.iter().map(|network| LeasesOfNetwork::of(network, now)).collect() }
    }
}

impl LeasesOfNetwork {
    fn of(sources: &Sources, now: SystemTime) -> Self {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let agent = match &sources.agent {
            Agent::Answers { .. } => "answers".to_owned(),
            other => clean(&other.to_string()),
        };
        let (source, leases) = match (&sources.known, &sources.overlay) {
            (Some((known, _)), _) => {
                let path = sources.known_file().unwrap_or_default();
                let written =
                    sources.known_at.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
                let seconds_old = written.map_or(0, |time| now.saturating_sub(time.as_secs()));
                (Some(Source::File { path, seconds_old }), of_file(known, own_end(&sources.agent), now))
            }
            (None, Some(overlay)) => {
                let row =
                    |(net, lease): (&IpNet, &Held)| Row::of_map(*net, lease, sources.vni, &sources.agent);
                let is_lease = |lease: &Held| lease.flags & (OWN | NODE) == OWN || is_of_other(lease);
                let leases = overlay.leases.iter().filter(|(_, lease)| is_lease(lease));
                (Some(Source::Maps), leases.map(row).collect())
            }
            (None, None) => (None, Vec::new()),
        };
        Self { network: sources.network(), datastore: sources.datastore(), agent, source, leases }
    }
}

/// Returns the leases in the file of what the agent knew last, by subnet.
fn of_file(known: &LastKnown, own_end: End, now: u64) -> Vec<Row> {
    let other = |lease: &crate::lease::RawLease| {
        let subnet: SubnetKey = lease.key.parse().ok()?;
        let held = known.held.get(&subnet).map(|until| until.saturating_sub(now));
        let end = if held.is_some() { End::Gone } else { End::of(lease.end, now) };
        let attrs = LeaseAttrs::parse(&lease.value).ok();
        Some((subnet, Row { held, ..Row::new(&subnet, attrs.as_ref(), end) }))
    };
    let own = Row { own: true, ..Row::new(&known.subnet, known.node.attrs.as_ref(), own_end) };
    let mut leases: Vec<_> = known.leases.iter().filter_map(other).collect();
    leases.push((known.subnet, own));
    leases.sort_by_key(|(subnet, _)| *subnet);
    leases.into_iter().map(|(_, row)| row).collect()
}

/// Returns when the node's own lease ends, as the agent says it.
fn own_end(agent: &Agent) -> End {
    match agent {
        Agent::Answers { report } => match report.lease {
            Lease::Ends { left } => End::Ends { left },
            Lease::Reserved => End::Never,
            Lease::None => End::Unknown,
        },
        Agent::Silent { .. } | Agent::Absent | Agent::Closed { .. } => End::Unknown,
    }
}

impl End {
    const fn of(end: LeaseEnd, now: u64) -> Self {
        match end {
            LeaseEnd::Unknown => Self::Within { left: TTL.as_secs() },
            LeaseEnd::Never => Self::Never,
            LeaseEnd::At(end) if end > now => Self::Ends { left: end - now },
            LeaseEnd::At(_) => Self::Ended,
        }
    }
}

impl Row {
    fn new(subnet: &SubnetKey, attrs: Option<&LeaseAttrs>, end: End) -> Self {
        Self {
            subnets: subnet.nets().collect(),
            public_ips: attrs.iter().flat_map(|attrs| PublicIps::from(*attrs).addresses()).collect(),
            backend_type: attrs.map(|attrs| attrs.backend_type.clone()),
            backend_data: attrs.and_then(|attrs| attrs.backend_data.clone()),
            backend_v6_data: attrs.and_then(|attrs| attrs.backend_v6_data.clone()),
            end,
            own: false,
            held: None,
        }
    }

    /// Returns what a map has of a lease.
    fn of_map(subnet: IpNet, lease: &Held, vni: Option<u32>, agent: &Agent) -> Self {
        // Without a tunnel, no device has a MAC.
        let data = (lease.vtep_mac != Mac::default()).then_some(VxlanData { vni, vtep_mac: lease.vtep_mac });
        let backend_type = data.as_ref().map(|_| BackendType::Vxlan.name().to_owned());
        let data = data.and_then(|data| serde_json::value::to_raw_value(&data).ok());
        let own = lease.flags & OWN != 0;
        let is_v6 = subnet.addr().is_ipv6();
        let (backend_data, backend_v6_data) = if is_v6 { (None, data) } else { (data, None) };
        Self {
            subnets: vec![subnet],
            public_ips: vec![lease.public_ip],
            backend_type,
            backend_data,
            backend_v6_data,
            end: if own { own_end(agent) } else { End::Unknown },
            own,
            held: None,
        }
    }

    /// Returns the backend, and what the lease has for it in an address family.
    fn backend(&self, is_v6: bool) -> String {
        let data = if is_v6 { &self.backend_v6_data } else { &self.backend_data };
        let kind = clean(self.backend_type.as_deref().unwrap_or("-"));
        match data.as_ref().and_then(|data| VxlanData::parse(data).ok()) {
            Some(VxlanData { vni: Some(vni), vtep_mac }) => format!("{kind} VNI {vni} {vtep_mac}"),
            Some(VxlanData { vni: None, vtep_mac }) => format!("{kind} {vtep_mac}"),
            None => kind,
        }
    }
}

/// Writes a line for each subnet. Networks have headings if there are several. Where the agent does not answer, a line says so, and
/// where the leases come from.
impl fmt::Display for LeaseList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for network in &self.networks {
            if self.networks.len() > 1 {
                writeln!(f, "{}", network.network.as_deref().unwrap_or("another network"))?;
            }
            if network.agent != "answers" {
                match &network.source {
                    Some(source) => writeln!(f, "the agent {}; {source}", network.agent)?,
                    None => writeln!(f, "the agent {}; no leases are known", network.agent)?,
                }
            }
            network.leases.iter().try_for_each(|row| write!(f, "{row}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, seconds_old } => {
                write!(f, "as {} had them {} ago", path.display(), spoken(*seconds_old))
            }
            Self::Maps => write!(f, "as the BPF maps have them"),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for subnet in &self.subnets {
            let is_v6 = subnet.addr().is_ipv6();
            let public_ip = self.public_ips.iter().find(|ip| ip.is_ipv6() == is_v6);
            let public_ip = public_ip.map_or_else(|| "-".to_owned(), IpAddr::to_string);
            let (subnet, backend) = (subnet.to_string(), self.backend(is_v6));
            write!(f, "{subnet:<18} {public_ip:<15} {backend:<29} {}", self.end)?;
            if self.own {
                write!(f, ", own")?;
            }
            if let Some(left) = self.held {
                write!(f, ", held for {}", spoken(left))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ends { left } => write!(f, "ends in {}", spoken(*left)),
            Self::Ended => write!(f, "has ended"),
            Self::Never => write!(f, "never ends"),
            Self::Within { left } => {
                write!(f, "ends within {} h", Duration::from_secs(*left).as_secs() / 3600)
            }
            Self::Gone => write!(f, "not in the datastore"),
            Self::Unknown => write!(f, "end not known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::NetworkConfig;
    use crate::lease::{KnownNode, RawLease};
    use crate::report::AgentReport;

    const NOW: u64 = 1_800_000_000;

    fn value(number: u8) -> String {
        format!(
            r#"{{"PublicIP":"192.168.64.{number}","PublicIPv6":"fd00::{number}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:0{number}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"02:00:00:00:06:0{number}"}}}}"#
        )
    }

    fn known() -> LastKnown {
        let lease = |key: &str, number, end| RawLease {
            end,
            ..RawLease::new(key.to_owned(), value(number).into_bytes())
        };
        LastKnown {
            network: NetworkConfig::parse(r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}"#)
                .unwrap(),
            node: KnownNode { attrs: serde_json::from_str(&value(3)).unwrap(), ..KnownNode::default() },
            subnet: "10.5.3.0-24".parse().unwrap(),
            leases: vec![
                lease("10.5.9.0-24", 1, LeaseEnd::Unknown),
                lease("10.5.1.0-24&fd44::-64", 2, LeaseEnd::At(NOW + 3600)),
                lease("10.5.4.0-24", 4, LeaseEnd::Never),
                lease("10.5.5.0-24", 5, LeaseEnd::At(NOW)),
                lease("10.5.6.0-24", 6, LeaseEnd::At(NOW + 60)),
            ],
            held: BTreeMap::from([("10.5.6.0-24".parse().unwrap(), NOW + 90)]),
        }
    }

    fn text(agent: Agent) -> String {
        let known = Some((known(), "etcd /coreos.com/network".to_owned()));
        let sources = Sources { agent, known, ..Sources::default() };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        LeaseList::of(1, &[sources], now).to_string()
    }

    #[test]
    fn each_lease_has_its_line_and_says_when_it_ends() {
        let report = AgentReport { lease: Lease::Ends { left: 7200 }, ..AgentReport::default() };
        let expected = "\
10.5.1.0/24        192.168.64.2    vxlan VNI 1 02:00:00:00:00:02 ends in 1 h 0 min
fd44::/64          fd00::2         vxlan VNI 1 02:00:00:00:06:02 ends in 1 h 0 min
10.5.3.0/24        192.168.64.3    vxlan VNI 1 02:00:00:00:00:03 ends in 2 h 0 min, own
10.5.4.0/24        192.168.64.4    vxlan VNI 1 02:00:00:00:00:04 never ends
10.5.5.0/24        192.168.64.5    vxlan VNI 1 02:00:00:00:00:05 has ended
10.5.6.0/24        192.168.64.6    vxlan VNI 1 02:00:00:00:00:06 not in the datastore, held for 1 min 30 s
10.5.9.0/24        192.168.64.1    vxlan VNI 1 02:00:00:00:00:01 ends within 24 h
";
        assert_eq!(text(Agent::Answers { report: Box::new(report) }), expected);
        let without = text(Agent::Absent);
        assert!(without.starts_with("the agent does not run; as "), "{without}");
        assert!(without.contains("02:00:00:00:00:03 end not known, own\n"), "{without}");
    }

    #[test]
    fn maps_have_subnet_address_and_device() {
        let held = |flags| Held {
            public_ip: [192, 168, 64, 2].into(),
            vtep_mac: "02:00:00:00:00:02".parse().unwrap(),
            flags,
        };
        let row = |flags| Row::of_map("10.5.2.0/24".parse().unwrap(), &held(flags), Some(7), &Agent::Absent);
        let line = "10.5.2.0/24        192.168.64.2    vxlan VNI 7 02:00:00:00:00:02 end not known";
        assert_eq!(row(0).to_string(), format!("{line}\n"));
        assert_eq!(row(OWN).to_string(), format!("{line}, own\n"));
        let json = serde_json::to_value(row(0)).unwrap();
        assert_eq!(json["backend_data"], serde_json::json!({"VNI": 7, "VtepMAC": "02:00:00:00:00:02"}));
    }
}
