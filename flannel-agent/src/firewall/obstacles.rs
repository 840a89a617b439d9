//! What stands in the way of pods' packets on this node, and is not the agent's to change: rules of Docker, and bridged packets
//! that iptables does not see. An operator is told, with the remedy.

mod docker;

use std::{fs, io};

use anyhow::Result;
use ipnet::IpNet;
use rtnetlink::Handle;

use super::rules::IpVersion;
use super::writer::Writer;
use crate::dataplane::kernel::bridge_of;
use crate::netfilter::Stamp;
use crate::netlink::link::Link;
use docker::Listings;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The pods' network.
    pub(super) network: IpNet,
    /// The part of it that is this node's.
    pub(super) subnet: IpNet,
    /// Whether pods reach Services of Kubernetes.
    pub(super) has_services: bool,
}

/// What was found last.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// The rules and bridges that were looked at.
    seen: Option<(Stamp, Vec<(Place, String)>)>,
    /// What Docker's rules do there.
    docker: Vec<String>,
}

impl Looks {
    /// Returns a text for each obstacle. There is none until a bridge has a subnet, and thereby pods. Runs iptables only if
    /// `rules`, or the bridges, are others than those of the last time.
    pub(super) async fn find(
        &mut self,
        netlink: &Handle,
        writer: &Writer,
        places: &[Place],
        rules: Option<&Stamp>,
    ) -> Result<Vec<String>> {
        let mut bridged = Vec::new();
        for place in places {
            let bridge = bridge_of(netlink, place.subnet).await?;
            bridged.extend(bridge.map(|Link { name, .. }| (*place, name)));
        }
        let with_services = bridged.iter().filter(|(place, _)| place.has_services);
        let mut found: Vec<_> =
            with_services.filter_map(|(place, _)| unfiltered(IpVersion::of(place.subnet))).collect();
        let now = rules.map(|rules| (rules.clone(), bridged.clone()));
        if now.is_none() || now != self.seen {
            self.seen = None;
            self.docker = docker(writer, &bridged).await?;
            self.seen = now;
        }
        found.extend_from_slice(&self.docker);
        Ok(found)
    }
}

/// Returns a text for each thing that Docker's rules do at these bridges.
async fn docker(writer: &Writer, bridged: &[(Place, String)]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (place, bridge) in bridged {
        if let Some(listings) = listings(writer, IpVersion::of(place.subnet), bridge).await? {
            found.extend(docker::obstacles(&listings, bridge, *place));
        }
    }
    Ok(found)
}

/// Returns Docker's rules; `None` without a Docker that closes this bridge. Asks for little where there is none.
async fn listings(writer: &Writer, version: IpVersion, bridge: &str) -> Result<Option<Listings>> {
    let list = async |table, chain| {
        Ok::<_, anyhow::Error>(writer.list(version, table, chain).await?.unwrap_or_default())
    };
    let docker = list("filter", "DOCKER").await?;
    if !docker::is_closed(&docker, bridge) {
        return Ok(None);
    }
    Ok(Some(Listings {
        raw: list("raw", "PREROUTING").await?,
        forward: list("filter", "FORWARD").await?,
        user: list("filter", "DOCKER-USER").await?,
        docker_forward: list("filter", "DOCKER-FORWARD").await?,
    }))
}

/// Returns a text if packets between two pods of the node do not pass iptables. kube-proxy then translates what a pod sends
/// to a Service, and not the answer of an endpoint on the same bridge.
fn unfiltered(version: IpVersion) -> Option<String> {
    let key = match version {
        IpVersion::V4 => "bridge-nf-call-iptables",
        IpVersion::V6 => "bridge-nf-call-ip6tables",
    };
    let value = fs::read_to_string(format!("/proc/sys/net/bridge/{key}"));
    missing_filter(key, value)
}

fn missing_filter(key: &str, value: io::Result<String>) -> Option<String> {
    let (what, remedy) = missing_setting(key, value)?;
    Some(format!("{what}: {UNANSWERED}. The remedy is {remedy}"))
}

/// What does not work without the setting.
pub(crate) const UNANSWERED: &str =
    "a pod that connects to a Service gets no answer from an endpoint on this same node";

/// Returns what is wrong with a setting of br_netfilter, given its value or the error of reading it, and the remedy.
pub(crate) fn missing_setting(key: &str, value: io::Result<String>) -> Option<(String, String)> {
    let (what, remedy) = match value {
        Ok(value) if value.trim() == "0" => (format!("net.bridge.{key} is 0"), String::new()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (
            "the module br_netfilter is not loaded".to_owned(),
            "`modprobe br_netfilter` (at each boot: a line in /etc/modules-load.d) and ".to_owned(),
        ),
        _ => return None,
    };
    let set = format!("`sysctl -w net.bridge.{key}=1` (at each boot: a line in /etc/sysctl.d)");
    Some((what, remedy + &set))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_for_what_is_missing() {
        let text = |value| missing_filter("bridge-nf-call-iptables", value);
        assert_eq!(text(Ok("1\n".into())), None);
        // A setting that cannot be read shows nothing.
        assert_eq!(text(Err(io::ErrorKind::PermissionDenied.into())), None);
        let off = text(Ok("0\n".into())).unwrap();
        assert!(
            off.starts_with("net.bridge.bridge-nf-call-iptables is 0") && !off.contains("modprobe"),
            "{off}"
        );
        let missing = text(Err(io::ErrorKind::NotFound.into())).unwrap();
        assert!(missing.contains("`modprobe br_netfilter`") && missing.contains("`sysctl -w"), "{missing}");
    }
}
