//! Which of the two variants of iptables to use. A host uses one of them, and a container may have both: rules have to go
//! where those of the host are.
//!
//! As the Kubernetes project's iptables-wrappers do, it is the variant in which kubelet has left a mark, else the one with
//! more rules. Otherwise `iptables` decides, which is the administrator's choice on a host.

use tracing::info;

use super::super::rules::IpVersion;
use crate::netfilter::tool::{ToolError, run};

/// Chains by which kubelet marks its variant: the first since Kubernetes 1.24, the second since 1.17.
const MARKS: [&str; 2] = [":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY "];

/// The programs of iptables to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::firewall) enum Variant {
    /// Whatever has the name `iptables`.
    #[default]
    Unspecified,
    Nft,
    Legacy,
}

impl Variant {
    /// The variants with programs of their own.
    pub(in crate::firewall) const NAMED: [Self; 2] = [Self::Nft, Self::Legacy];

    /// Looks for the variant that the host uses.
    ///
    /// # Errors
    /// One of them does not answer, which would look as if it were not installed.
    pub(in crate::firewall) async fn detect() -> Result<Self, ToolError> {
        let variant = chosen(Self::Nft.saved().await?.as_deref(), Self::Legacy.saved().await?.as_deref());
        if variant != Self::Unspecified {
            info!("the host's firewall rules are those of {}", variant.command(IpVersion::V4));
        }
        Ok(variant)
    }

    /// Returns the variant that the host does not use, if one is used.
    pub(in crate::firewall) const fn other(self) -> Option<Self> {
        match self {
            Self::Unspecified => None,
            Self::Nft => Some(Self::Legacy),
            Self::Legacy => Some(Self::Nft),
        }
    }

    /// Returns the name of its program for an address family.
    pub(super) const fn command(self, version: IpVersion) -> &'static str {
        match (self, version) {
            (Self::Unspecified, IpVersion::V4) => "iptables",
            (Self::Unspecified, IpVersion::V6) => "ip6tables",
            (Self::Nft, IpVersion::V4) => "iptables-nft",
            (Self::Nft, IpVersion::V6) => "ip6tables-nft",
            (Self::Legacy, IpVersion::V4) => "iptables-legacy",
            (Self::Legacy, IpVersion::V6) => "ip6tables-legacy",
        }
    }

    /// Returns whether it has chains of flannel.
    pub(in crate::firewall) async fn has_flannel_chains(self) -> bool {
        matches!(self.saved().await, Ok(Some(saved)) if saved.contains(":FLANNEL-"))
    }

    /// Lists the rules of all tables that are loaded, IPv4's and IPv6's; `None` if it is not installed or cannot be used.
    /// To name a table would load its module.
    async fn saved(self) -> Result<Option<String>, ToolError> {
        let mut all = String::new();
        for version in IpVersion::ALL {
            match run(&format!("{}-save", self.command(version)), "").await {
                Ok(saved) => all += &saved,
                Err(error) if error.is_late() => return Err(error),
                Err(_) if version == IpVersion::V4 => return Ok(None),
                Err(_) => {}
            }
        }
        Ok(Some(all))
    }
}

/// Chooses by the rules of the two variants; `None` is not installed. Pure.
fn chosen(nft: Option<&str>, legacy: Option<&str>) -> Variant {
    let (Some(nft), Some(legacy)) = (nft, legacy) else { return Variant::Unspecified };
    let marked = |saved: &str| MARKS.iter().any(|mark| saved.lines().any(|line| line.starts_with(mark)));
    // Rules of earlier agents show nothing.
    let rules = |saved: &str| {
        saved.lines().filter(|line| line.starts_with("-A") && !line.contains("FLANNEL-")).count()
    };
    match (marked(nft), marked(legacy)) {
        (true, _) => Variant::Nft,
        (false, true) => Variant::Legacy,
        (false, false) if rules(nft) > rules(legacy) => Variant::Nft,
        (false, false) if rules(legacy) > rules(nft) => Variant::Legacy,
        (false, false) => Variant::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelet_s_mark_decides_then_the_number_of_rules_then_the_name_iptables() {
        const HINT: &str = "*mangle\n:PREROUTING ACCEPT [0:0]\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n";
        const CANARY: &str = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n";
        const ONE: &str = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n";
        const TWO: &str = "*filter\n-A INPUT -j ACCEPT\n-A OUTPUT -j ACCEPT\nCOMMIT\n";
        const OURS: &str =
            "*filter\n-A FORWARD -j FLANNEL-FWD\n-A FLANNEL-FWD -s 10.5.0.0/16 -j ACCEPT\nCOMMIT\n";
        for (nft, legacy, expected) in [
            (None, None, Variant::Unspecified),
            (Some(HINT), None, Variant::Unspecified),
            (None, Some(TWO), Variant::Unspecified),
            (Some(""), Some(""), Variant::Unspecified),
            (Some(HINT), Some(TWO), Variant::Nft),
            (Some(TWO), Some(HINT), Variant::Legacy),
            (Some(TWO), Some(CANARY), Variant::Legacy),
            (Some(HINT), Some(CANARY), Variant::Nft),
            (Some(TWO), Some(ONE), Variant::Nft),
            (Some(ONE), Some(TWO), Variant::Legacy),
            (Some(ONE), Some(ONE), Variant::Unspecified),
            (Some(OURS), Some(ONE), Variant::Legacy),
            (Some(OURS), Some(""), Variant::Unspecified),
        ] {
            assert_eq!(chosen(nft, legacy), expected, "nft: {nft:?}, legacy: {legacy:?}");
        }
    }
}
