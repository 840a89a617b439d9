//! The keys of leases: a node's subnets as text.

use std::fmt;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The IPv4 half of a key without an IPv4 subnet: Go's zero value (flannel's pkg/subnet: `MakeSubnetKey`).
const NO_IPV4: &str = "0.0.0.0-0";

/// The pod subnets of a node: one of each address family, or of one alone.
///
/// Keys are `10.5.52.0-24`, `10.244.6.0-24&fd44:0:0:4b::-64`, and for IPv6 alone `0.0.0.0-0&fd44:0:0:4b::-64`.
/// No two texts are the same key: a text that flannel would write otherwise is refused.
///
/// ```
/// use flannel_agent::lease::SubnetKey;
///
/// let key: SubnetKey = "10.5.52.0-24".parse()?;
/// assert_eq!(key.v4, Some("10.5.52.0/24".parse()?));
/// assert_eq!(key.to_string(), "10.5.52.0-24");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubnetKey {
    /// IPv4 subnet.
    pub v4: Option<Ipv4Net>,
    /// IPv6 subnet.
    pub v6: Option<Ipv6Net>,
}

/// Why a text is not the key of a lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is not an address with a prefix length.
    #[error("{0:?} is not address-prefixlength, as in 10.5.52.0-24 or 10.244.6.0-24&fd44:0:0:4b::-64")]
    Form(String),
    /// Its address is not the first of the subnet.
    #[error("{key:?} has host bits set; the subnet is {subnet}")]
    HostBits {
        /// The text.
        key: String,
        /// The subnet of the address.
        subnet: IpNet,
    },
    /// flannel writes the same subnets in another way.
    #[error("{key:?} is not how flannel writes that subnet, which is {canonical}")]
    Spelling {
        /// The text.
        key: String,
        /// The key as flannel writes it.
        canonical: SubnetKey,
    },
}

impl SubnetKey {
    /// Returns the subnets, IPv4 first.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> {
        self.v4.map(IpNet::V4).into_iter().chain(self.v6.map(IpNet::V6))
    }

    /// Returns true if the two have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.nets().any(|net| other.nets().any(|other| overlap(net, other)))
    }
}

/// Returns true if two networks have an address in common, so that one of them contains the other.
#[must_use]
pub fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// Returns true if two networks are of the same address family.
pub(super) fn same_family(one: IpNet, other: IpNet) -> bool {
    one.addr().is_ipv4() == other.addr().is_ipv4()
}

impl fmt::Display for SubnetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.v4 {
            Some(v4) => write!(f, "{}-{}", v4.addr(), v4.prefix_len())?,
            None => f.write_str(NO_IPV4)?,
        }
        match self.v6 {
            Some(v6) => write!(f, "&{}-{}", v6.addr(), v6.prefix_len()),
            None => Ok(()),
        }
    }
}

impl FromStr for SubnetKey {
    type Err = KeyError;

    fn from_str(key: &str) -> Result<Self, KeyError> {
        let (v4, v6) = key.split_once('&').map_or((key, None), |(v4, v6)| (v4, Some(v6)));
        let v4 = Some(v4).filter(|v4| v6.is_none() || *v4 != NO_IPV4);
        let parsed = Self {
            v4: v4.map(|half| subnet(key, half)).transpose()?,
            v6: v6.map(|half| subnet(key, half)).transpose()?,
        };
        if let Some(net) = parsed.nets().find(|net| net.addr() != net.network()) {
            return Err(KeyError::HostBits { key: key.to_owned(), subnet: net.trunc() });
        }
        if parsed.to_string() == key {
            Ok(parsed)
        } else {
            Err(KeyError::Spelling { key: key.to_owned(), canonical: parsed })
        }
    }
}

/// Parses one half of a key: a network in the usual notation, but with a dash.
fn subnet<N: FromStr>(key: &str, half: &str) -> Result<N, KeyError> {
    let refused = || KeyError::Form(key.to_owned());
    let (address, len) = half.split_once('-').ok_or_else(refused)?;
    format!("{address}/{len}").parse().map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip() {
        for (key, v4, v6) in [
            ("10.5.52.0-24", Some("10.5.52.0/24"), None),
            ("10.244.6.0-24&fd44:0:0:4b::-64", Some("10.244.6.0/24"), Some("fd44:0:0:4b::/64")),
            ("0.0.0.0-0&fd44:0:0:4b::-64", None, Some("fd44:0:0:4b::/64")),
            ("10.5.52.4-30", Some("10.5.52.4/30"), None),
        ] {
            let parsed: SubnetKey = key.parse().unwrap();
            assert_eq!(parsed.v4.map(|net| net.to_string()).as_deref(), v4);
            assert_eq!(parsed.v6.map(|net| net.to_string()).as_deref(), v6);
            assert_eq!(parsed.to_string(), key);
        }
    }

    #[test]
    fn a_text_that_is_not_a_key_is_refused_with_the_reason() {
        for (key, why) in [
            ("", "\"\" is not address-prefixlength"),
            ("garbage", "\"garbage\" is not address-prefixlength"),
            ("10.5.52.0", "\"10.5.52.0\" is not address-prefixlength"),
            ("10.5.52.0/24", "\"10.5.52.0/24\" is not address-prefixlength"),
            ("10.5.52.0-33", "\"10.5.52.0-33\" is not address-prefixlength"),
            ("10.5.52-24", "\"10.5.52-24\" is not address-prefixlength"),
            ("10.5.52.0-24&", "\"10.5.52.0-24&\" is not address-prefixlength"),
            ("10.5.52.0-24&fd44::-129", "\"10.5.52.0-24&fd44::-129\" is not address-prefixlength"),
            ("fd44:0:0:4b::-64", "\"fd44:0:0:4b::-64\" is not address-prefixlength"),
            ("10.5.52.0-24\n", "\"10.5.52.0-24\\n\" is not address-prefixlength"),
            ("x10.5.52.0-24", "\"x10.5.52.0-24\" is not address-prefixlength"),
            ("10.5.52.1-24", "\"10.5.52.1-24\" has host bits set; the subnet is 10.5.52.0/24"),
            (
                "10.5.0.0-16&fd44::1-64",
                "\"10.5.0.0-16&fd44::1-64\" has host bits set; the subnet is fd44::/64",
            ),
            ("10.5.52.0-24&FD44::-64", "\"10.5.52.0-24&FD44::-64\" is not how flannel writes that subnet"),
            ("10.5.52.0-024", "\"10.5.52.0-024\" is not address-prefixlength"),
            (
                "10.5.52.0-24&fd44:0::-64",
                "\"10.5.52.0-24&fd44:0::-64\" is not how flannel writes that subnet",
            ),
        ] {
            let message = key.parse::<SubnetKey>().unwrap_err().to_string();
            assert!(message.starts_with(why), "{key}: {message}");
        }
    }

    #[test]
    fn keys_overlap_in_either_address_family() {
        let key = |text: &str| text.parse::<SubnetKey>().unwrap();
        let one = key("10.5.52.0-24&fd44::-64");
        for (other, expected) in [
            ("10.5.52.0-24", true),
            ("10.5.52.128-25", true),
            ("10.5.0.0-16", true),
            ("10.5.53.0-24", false),
            ("10.5.53.0-24&fd44::-64", true),
            ("10.5.53.0-24&fd44:0:0:1::-64", false),
        ] {
            assert_eq!(one.overlaps(&key(other)), expected, "{other}");
        }
    }
}
