//! The node's subnet, which the agent writes to subnet.env.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::error::{Code, Error};
use crate::env_file::assignments;

/// What pods of this node need to know.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Subnet {
    /// The cluster's networks, IPv4 before IPv6.
    pub(super) networks: Vec<IpNet>,
    /// The pods' gateways with the length of the node's subnets, IPv4 before IPv6.
    pub(super) gateways: Vec<IpNet>,
    /// The pods' MTU in bytes.
    pub(super) mtu: u32,
    /// Whether the agent masquerades.
    pub(super) ip_masq: bool,
}

impl Subnet {
    /// Reads subnet.env.
    ///
    /// # Errors
    /// [`Code::TryAgainLater`] where the file does not exist: the agent writes it once the node has its subnet.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        match fs::read_to_string(path) {
            Ok(text) => Self::of_text(path, &text),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(not_ready(path)),
            Err(error) => Err(Error::io("reading the node's subnet", path, &error)),
        }
    }

    /// Reads the text of subnet.env. The path is for messages.
    pub(super) fn of_text(path: &Path, text: &str) -> Result<Self, Error> {
        Self::parse(text).map_err(|problem| unreadable(path, &problem))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let networks = |key| list::<Ipv4Net>(text, key);
        let networks6 = |key| list::<Ipv6Net>(text, key);
        let required = |key: &str| value(text, key).ok_or_else(|| format!("{key} is missing"));
        let mut subnet = Self {
            networks: networks("FLANNEL_NETWORK")?,
            gateways: networks("FLANNEL_SUBNET")?,
            mtu: parsed("FLANNEL_MTU", required("FLANNEL_MTU")?)?,
            ip_masq: required("FLANNEL_IPMASQ")? == "true",
        };
        subnet.networks.extend(networks6("FLANNEL_IPV6_NETWORK")?);
        subnet.gateways.extend(networks6("FLANNEL_IPV6_SUBNET")?);
        if subnet.networks.is_empty() {
            return Err("FLANNEL_NETWORK and FLANNEL_IPV6_NETWORK are missing".to_owned());
        }
        if subnet.gateways.is_empty() {
            return Err("FLANNEL_SUBNET and FLANNEL_IPV6_SUBNET are missing".to_owned());
        }
        Ok(subnet)
    }
}

/// Returns the value of a key. An empty value counts as missing.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let last = assignments(text).rfind(|(name, _)| *name == key);
    last.map(|(_, value)| value).filter(|value| !value.is_empty())
}

/// Reads prefixes that are separated by commas. Returns each one once.
fn list<T: FromStr + Into<IpNet>>(text: &str, key: &str) -> Result<Vec<IpNet>, String> {
    let mut nets = Vec::new();
    for part in value(text, key).into_iter().flat_map(|value| value.split(',')) {
        let net = parsed::<T>(key, part)?.into();
        if !nets.contains(&net) {
            nets.push(net);
        }
    }
    Ok(nets)
}

fn parsed<T: FromStr>(key: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{key} has the value {text:?}"))
}

fn not_ready(path: &Path) -> Error {
    let details = format!(
        "{} does not exist yet: the agent writes it when the node has its subnet. If this lasts, read the agent's log",
        path.display()
    );
    Error::new(Code::TryAgainLater, "flannel-agent is not ready on this node", details)
}

fn unreadable(path: &Path, problem: &str) -> Error {
    let details =
        format!("{}: {problem}. Restart flannel-agent, which writes the file again", path.display());
    Error::new(Code::Decoding, "reading the node's subnet", details)
}
