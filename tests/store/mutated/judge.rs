//! Rules by which the test judges what an agent believes. They share no code with the agent.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::Written;
use crate::inspect::Peer;

/// A lease of IPv4: first address and length of the subnet, address and MAC of its node.
struct Lease {
    base: Ipv4Addr,
    len: u32,
    public_ip: Ipv4Addr,
    mac: String,
}

impl Lease {
    /// Reads an entry. `None` if it is no lease that a node with vxlan and VNI 1 in 10.5.0.0/16 may use.
    fn read(key: &str, value: &str) -> Option<Self> {
        let (base, len) = key.split('&').next()?.split_once('-')?;
        let (base, len): (Ipv4Addr, u32) = (base.parse().ok()?, len.parse().ok()?);
        let is_inside = base.octets()[..2] == [10, 5] && (16..=32).contains(&len);
        let host_bits = u64::from(base.to_bits()) & ((1_u64 << (32 - len.min(32))) - 1);
        let value: Value = serde_json::from_str(value).ok()?;
        let public_ip: Ipv4Addr = value["PublicIP"].as_str()?.parse().ok()?;
        let data = &value["BackendData"];
        let mac = data["VtepMAC"].as_str()?.to_ascii_lowercase();
        let bytes: Vec<u8> =
            mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().ok()?;
        let is_mac = bytes.len() == 6 && mac.len() == 17 && bytes[0] & 1 == 0 && bytes != [0; 6];
        let is_host = !public_ip.is_unspecified() && !public_ip.is_multicast() && !public_ip.is_broadcast();
        let is_ours = value["BackendType"] == "vxlan" && (data["VNI"].is_null() || data["VNI"] == 1);
        let is_valid = is_inside && host_bits == 0 && is_mac && is_host && is_ours && value.is_object();
        is_valid.then_some(Self { base, len, public_ip, mac })
    }

    /// Returns its route, neighbour and FDB entry, as `ip` and `bridge` print them.
    fn entries(&self) -> [String; 3] {
        let Self { base, len, public_ip, mac } = self;
        let net = if *len == 32 { base.to_string() } else { format!("{base}/{len}") };
        [
            format!("{net} via {base} onlink"),
            format!("{base} lladdr {mac} PERMANENT"),
            format!("{mac} dst {public_ip} self permanent"),
        ]
    }
}

/// Fails unless each route, neighbour and FDB entry is of one of the good peers, or of a valid lease that was written, and no two routes
/// overlap. Returns the number of mutated leases with a route.
pub(super) fn ensure_all_valid(floor: &BTreeSet<String>, written: &Written, good: &[&Peer]) -> Result<usize> {
    let values = |(key, values): (&String, &Vec<String>)| {
        values.iter().filter_map(|value| Lease::read(key, value)).collect::<Vec<_>>()
    };
    let good = good.iter().filter_map(|peer| Lease::read(&peer.name(), &peer.value()));
    let good: BTreeSet<_> = good.flat_map(|lease| lease.entries()).collect();
    let valid: BTreeSet<_> = written.iter().flat_map(values).flat_map(|lease| lease.entries()).collect();
    let mut routes = Vec::new();
    let mut believed = 0;
    for line in floor {
        ensure!(valid.contains(line) || good.contains(line), "nothing that was written allows {line:?}");
        if let Some((net, _)) = line.split_once(" via ") {
            routes.push(range(net)?);
            believed += usize::from(!good.contains(line));
        }
    }
    routes.sort_unstable();
    for pair in routes.windows(2) {
        ensure!(pair[0].1 < pair[1].0, "two routes overlap: {pair:?}");
    }
    Ok(believed)
}

/// Returns the first and the last address of a destination.
fn range(net: &str) -> Result<(u32, u32)> {
    let (base, len) = net.split_once('/').unwrap_or((net, "32"));
    let base = base.parse::<Ipv4Addr>().with_context(|| net.to_owned())?.to_bits();
    let Some(hosts) = u32::MAX.checked_shr(len.parse()?) else {
        return Ok((base, base));
    };
    Ok((base, base | hosts))
}

/// Fails unless each line of a log is one that the agent has begun: no data of others ends a line.
pub(super) fn ensure_whole_lines(log: &str) -> Result<()> {
    for line in log.lines() {
        let level = line.split_whitespace().nth(1).unwrap_or_default();
        if !["TRACE", "DEBUG", "INFO", "WARN", "ERROR"].contains(&level) || line.contains('\u{1b}') {
            bail!("a line that the agent has not begun: {line:?}");
        }
    }
    Ok(())
}
