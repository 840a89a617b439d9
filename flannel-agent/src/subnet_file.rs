//! Writes and reads subnet.env, the file that the CNI plugin and mk-docker-opts.sh read (format: `WriteSubnetFile` in
//! flannel's pkg/subnet).

mod keeper;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::atomic_file;
use crate::config::NetworkConfig;
use crate::env_file::assignments;
use crate::lease::SubnetKey;
pub use keeper::SubnetFile;

/// Returns the file's text. A subnet is written as the address of its gateway, the first after the base address. `mtu`
/// is in bytes.
#[must_use]
pub fn render(config: &NetworkConfig, ip_masq: bool, own: SubnetKey, mtu: u32) -> String {
    let mut lines = Vec::new();
    if let (Some(range), Some(subnet)) = (config.ipv4, own.v4) {
        let gateway = Ipv4Addr::from_bits(subnet.network().to_bits() | 1);
        lines.push(format!("FLANNEL_NETWORK={}", range.network));
        lines.push(format!("FLANNEL_SUBNET={gateway}/{}", subnet.prefix_len()));
    }
    if let (Some(range), Some(subnet)) = (config.ipv6, own.v6) {
        let gateway = Ipv6Addr::from_bits(subnet.network().to_bits() | 1);
        lines.push(format!("FLANNEL_IPV6_NETWORK={}", range.network));
        lines.push(format!("FLANNEL_IPV6_SUBNET={gateway}/{}", subnet.prefix_len()));
    }
    lines.push(format!("FLANNEL_MTU={mtu}"));
    lines.push(format!("FLANNEL_IPMASQ={ip_masq}\n"));
    lines.join("\n")
}

/// Replaces the file atomically, so that readers see the old text or the new one. Creates its directory.
///
/// # Errors
/// The directory or the file cannot be written.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::create_dir_all(atomic_file::folder(path))?;
    atomic_file::replace(path, text.as_bytes(), 0o644)
}

/// Reads the subnet of an earlier run; `None` if the file is missing or has no subnet.
#[must_use]
pub fn read_previous(path: &Path) -> Option<SubnetKey> {
    parse_subnet(&fs::read_to_string(path).ok()?)
}

/// Reads the networks of an earlier run; empty if the file is missing or has none.
#[must_use]
pub fn read_networks(path: &Path) -> Vec<IpNet> {
    parse_networks(&fs::read_to_string(path).unwrap_or_default())
}

/// Returns the subnet in the file's text; `None` if it has none.
#[must_use]
pub fn parse_subnet(text: &str) -> Option<SubnetKey> {
    let key = SubnetKey {
        v4: value::<Ipv4Net>(text, "FLANNEL_SUBNET").map(|net| net.trunc()),
        v6: value::<Ipv6Net>(text, "FLANNEL_IPV6_SUBNET").map(|net| net.trunc()),
    };
    Some(key).filter(|key| key.nets().next().is_some())
}

/// Returns the pods' MTU in the file's text, in bytes.
#[must_use]
pub fn parse_mtu(text: &str) -> Option<u32> {
    value(text, "FLANNEL_MTU")
}

/// Returns the networks in the file's text.
#[must_use]
pub fn parse_networks(text: &str) -> Vec<IpNet> {
    ["FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"].into_iter().filter_map(|key| value(text, key)).collect()
}

fn value<T: FromStr>(text: &str, key: &str) -> Option<T> {
    assignments(text).rfind(|(name, _)| *name == key)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const V4: &str = r#"{"Network": "10.5.0.0/16"}"#;
    const DUAL: &str = r#"{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd44::/48"}"#;
    const V6: &str = r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd44::/48"}"#;

    fn rendered(config: &str, own: &str) -> String {
        render(&NetworkConfig::parse(config).unwrap(), true, own.parse().unwrap(), 1450)
    }

    #[test]
    fn the_text_is_the_one_that_flannel_writes() {
        assert_eq!(
            rendered(V4, "10.5.52.0-24"),
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.52.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
        assert_eq!(
            rendered(DUAL, "10.5.52.0-24&fd44:0:0:4b::-64"),
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.52.1/24\n\
             FLANNEL_IPV6_NETWORK=fd44::/48\nFLANNEL_IPV6_SUBNET=fd44:0:0:4b::1/64\n\
             FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
        assert_eq!(
            rendered(V6, "0.0.0.0-0&fd44:0:0:4b::-64"),
            "FLANNEL_IPV6_NETWORK=fd44::/48\nFLANNEL_IPV6_SUBNET=fd44:0:0:4b::1/64\n\
             FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
    }

    #[test]
    fn a_written_file_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/flannel/subnet.env");
        assert_eq!(read_previous(&path), None);
        for (config, own) in [
            (V4, "10.5.52.0-24"),
            (DUAL, "10.5.52.0-24&fd44:0:0:4b::-64"),
            (V6, "0.0.0.0-0&fd44:0:0:4b::-64"),
        ] {
            write(&path, &rendered(config, own)).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
            assert_eq!(read_previous(&path), Some(own.parse().unwrap()));
            let networks: Vec<_> = NetworkConfig::parse(config).unwrap().networks().collect();
            assert_eq!(read_networks(&path), networks);
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a temporary file is left");
    }

    #[test]
    fn a_file_without_a_subnet_gives_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subnet.env");
        for text in ["", "FLANNEL_MTU=1450\n", "FLANNEL_SUBNET=\n", "FLANNEL_SUBNET=10.5.52.1\n", "\0"] {
            fs::write(&path, text).unwrap();
            assert_eq!(read_previous(&path), None, "{text:?}");
            assert_eq!(read_networks(&path), [], "{text:?}");
        }
    }
}
