//! Writes rules with iptables or nft, and removes those of the other tool.

use ipnet::IpNet;
use tracing::debug;

use super::iptables::{self, Variant};
use super::log;
use super::nftables::{self, Nftables};
use super::rules::{self, Chain, IpVersion, Owner};
use crate::netfilter::tool::ToolError;

/// The tool that writes the rules.
pub(super) enum Writer {
    /// With the variant that the host uses, once that is known.
    Iptables(Option<Variant>),
    Nftables(Nftables),
}

impl Writer {
    pub(super) fn new(nftables: bool) -> Self {
        if nftables { Self::Nftables(Nftables::default()) } else { Self::Iptables(None) }
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Iptables(_) => "iptables",
            Self::Nftables(_) => "nftables",
        }
    }

    /// Writes what differs from these chains of `network`. Returns a line of text for each change.
    pub(super) async fn apply(
        &mut self,
        version: IpVersion,
        chains: &[Chain],
        network: IpNet,
        owner: Owner<'_>,
    ) -> Result<Vec<String>, ToolError> {
        match self {
            Self::Iptables(variant) => {
                let variant = match variant {
                    Some(variant) => *variant,
                    None => *variant.insert(Variant::detect().await?),
                };
                iptables::apply(variant, version, chains, owner).await
            }
            Self::Nftables(nftables) => nftables.apply(version, chains, network, owner).await,
        }
    }

    /// Lists a chain of iptables, also where nft writes the agent's rules; `None` if there is none.
    pub(super) async fn list(
        &self,
        version: IpVersion,
        table: &str,
        chain: &str,
    ) -> Result<Option<String>, ToolError> {
        let variant = match self {
            Self::Iptables(variant) => variant.unwrap_or_default(),
            Self::Nftables(_) => Variant::Unspecified,
        };
        iptables::list(variant, version, table, chain).await
    }

    /// Removes the rules that an agent left in the other mode, or with the other variant of iptables. Counts rules that
    /// cannot be listed as absent.
    pub(super) async fn clear_other_mode(&self, owner: Owner<'_>) {
        let mut removed = Vec::new();
        for version in IpVersion::ALL {
            match self {
                Self::Iptables(variant) => {
                    removed.push(nftables::remove(version, owner).await);
                    if let Some(other) = variant.and_then(Variant::other)
                        && other.has_flannel_chains().await
                    {
                        removed.push(iptables::apply(other, version, &rules::none(), owner).await);
                    }
                }
                Self::Nftables(_) => {
                    removed.push(iptables::apply(Variant::Unspecified, version, &rules::none(), owner).await);
                }
            }
        }
        for removed in removed {
            match removed {
                Ok(changes) => log(changes),
                Err(error) => debug!("looking for rules of the other mode: {error}"),
            }
        }
    }
}
