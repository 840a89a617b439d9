//! Reads and writes subnet.env, in which a node daemon gives its subnet to CNI plugins.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow};

/// An address with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net<A> {
    /// The address. In `FLANNEL_SUBNET`, the gateway's.
    pub addr: A,
    /// The length of the prefix.
    pub len: u8,
}

impl<A: FromStr> FromStr for Net<A> {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || anyhow!("{text:?} is not an address with a prefix length");
        let (addr, len) = text.split_once('/').ok_or_else(bad)?;
        Ok(Self { addr: addr.parse().map_err(|_| bad())?, len: len.parse().map_err(|_| bad())? })
    }
}

impl<A: std::fmt::Display> std::fmt::Display for Net<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// The contents of `subnet.env`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetEnv {
    /// `FLANNEL_NETWORK`.
    pub network: Option<Net<Ipv4Addr>>,
    /// `FLANNEL_SUBNET`: the address of the pods' gateway.
    pub subnet: Option<Net<Ipv4Addr>>,
    /// `FLANNEL_IPV6_NETWORK`.
    pub ipv6_network: Option<Net<Ipv6Addr>>,
    /// `FLANNEL_IPV6_SUBNET`.
    pub ipv6_subnet: Option<Net<Ipv6Addr>>,
    /// `FLANNEL_MTU`.
    pub mtu: u32,
    /// `FLANNEL_IPMASQ`.
    pub ip_masq: bool,
}

impl SubnetEnv {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        text.parse().with_context(|| format!("parse {}", path.display()))
    }

    /// Writes the file as flanneld does.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = String::new();
        let mut line = |key: &str, value: Option<String>| {
            text.extend(value.map(|value| format!("{key}={value}\n")));
        };
        line("FLANNEL_NETWORK", self.network.map(|net| net.to_string()));
        line("FLANNEL_SUBNET", self.subnet.map(|net| net.to_string()));
        line("FLANNEL_IPV6_NETWORK", self.ipv6_network.map(|net| net.to_string()));
        line("FLANNEL_IPV6_SUBNET", self.ipv6_subnet.map(|net| net.to_string()));
        line("FLANNEL_MTU", Some(self.mtu.to_string()));
        line("FLANNEL_IPMASQ", Some(self.ip_masq.to_string()));
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// Returns the pods' gateways, IPv4 before IPv6.
    pub fn gateways(&self) -> Vec<Net<IpAddr>> {
        let v4 = self.subnet.map(|net| Net { addr: IpAddr::V4(net.addr), len: net.len });
        let v6 = self.ipv6_subnet.map(|net| Net { addr: IpAddr::V6(net.addr), len: net.len });
        v4.into_iter().chain(v6).collect()
    }
}

impl FromStr for SubnetEnv {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let lines =
            text.lines().map(|line| line.split_once('=').with_context(|| format!("no `=` in {line:?}")));
        let values = lines.collect::<Result<HashMap<_, _>>>()?;
        let given = |key: &str| values.get(key).copied().with_context(|| format!("{key} is missing"));
        Ok(Self {
            network: parsed(&values, "FLANNEL_NETWORK")?,
            subnet: parsed(&values, "FLANNEL_SUBNET")?,
            ipv6_network: parsed(&values, "FLANNEL_IPV6_NETWORK")?,
            ipv6_subnet: parsed(&values, "FLANNEL_IPV6_SUBNET")?,
            mtu: given("FLANNEL_MTU")?.parse().context("FLANNEL_MTU")?,
            ip_masq: given("FLANNEL_IPMASQ")?.parse().context("FLANNEL_IPMASQ")?,
        })
    }
}

fn parsed<T: FromStr<Err = anyhow::Error>>(values: &HashMap<&str, &str>, key: &str) -> Result<Option<T>> {
    let value = values.get(key).filter(|value| !value.is_empty());
    value.map(|value| value.parse()).transpose().with_context(|| key.to_owned())
}
