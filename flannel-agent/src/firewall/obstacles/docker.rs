//! Docker's rules against packets from other machines. Pure.
//!
//! Since Docker 28 a container on a bridge has `-A PREROUTING -d <its address> ! -i <bridge> -j DROP` in table raw, and a bridge
//! has `-A DOCKER ! -i <bridge> -o <bridge> -j DROP` in table filter, after an exception for each port that is published.
//! Packets of other nodes come by the overlay's device, and so both rules are against them.

use ipnet::IpNet;

use super::Place;
use crate::netfilter::words;

/// Chains, as `iptables -S` lists them.
#[derive(Debug, Default)]
pub(super) struct Listings {
    /// `PREROUTING` of table raw.
    pub(super) raw: String,
    /// `FORWARD`, and the chains that it leads to, of table filter.
    pub(super) forward: String,
    pub(super) user: String,
    pub(super) docker_forward: String,
}

/// Returns whether the chain `DOCKER` drops what others send to a bridge.
pub(super) fn is_closed(docker: &str, bridge: &str) -> bool {
    rules(docker).any(|rule| rule.drops_unless_from(bridge) && rule.value("-o") == Some(bridge))
}

/// Returns a text for each way in which Docker drops packets of other nodes to this bridge, which [`is_closed`].
pub(super) fn obstacles(
    listings: &Listings,
    bridge: &str,
    Place { network, subnet, .. }: Place,
) -> Vec<String> {
    let mut found = Vec::new();
    if drops_direct(&listings.raw, bridge, subnet) {
        found.push(format!(
            "Docker drops all that other nodes send to containers of {bridge} (table raw, chain PREROUTING). The remedy is \
             dockerd's option --allow-direct-routing, which Docker has since 28.2, or for networks other than the default \
             one their option com.docker.network.bridge.trusted_host_interfaces with the overlay's device, such as flannel.1"
        ));
    }
    if !is_opened(listings) {
        found.push(format!(
            "Docker drops what other nodes send to ports of {bridge}'s containers that are not published (table filter, \
             chain DOCKER). The remedy is `iptables -I DOCKER-USER -s {network} -d {subnet} -j ACCEPT`, or to publish them"
        ));
    }
    found
}

/// Whether a rule drops what others send to an address of the subnet. An interface that may (`trusted_host_interfaces`) has a
/// rule of its own before it.
fn drops_direct(raw: &str, bridge: &str, subnet: IpNet) -> bool {
    let mut trusted = Vec::new();
    rules(raw).any(|rule| {
        let Some(to) = rule.value("-d").map(str::to_owned) else { return false };
        if rule.target() == Some("ACCEPT") && rule.value("-i").is_some() {
            trusted.push(to);
            return false;
        }
        let is_ours = to.parse::<IpNet>().is_ok_and(|to| subnet.contains(&to));
        is_ours && rule.drops_unless_from(bridge) && !trusted.contains(&to)
    })
}

/// Whether something accepts packets before the chain `DOCKER` drops them: a rule of the operator's, or flannel's.
fn is_opened(Listings { forward, user, docker_forward, .. }: &Listings) -> bool {
    let jump = |target| rules(forward).position(|rule| rule.target() == Some(target));
    let flannel_is_first = match (jump("FLANNEL-FWD"), jump("DOCKER-FORWARD")) {
        (Some(flannel), Some(docker)) => flannel < docker,
        (_, None) => true,
        (None, Some(_)) => false,
    };
    let by_user = rules(user).any(|rule| rule.accepts_all_ports());
    // dockerd's option --bridge-accept-fwmark.
    let by_mark =
        rules(docker_forward).any(|rule| rule.target() == Some("ACCEPT") && rule.value("--mark").is_some());
    flannel_is_first || by_user || by_mark
}

/// A line that appends a rule, in words.
struct Rule(Vec<String>);

fn rules(listing: &str) -> impl Iterator<Item = Rule> {
    listing.lines().filter(|line| line.starts_with("-A ")).map(|line| Rule(words(line)))
}

impl Rule {
    /// Returns the value of an option that is not negated.
    fn value(&self, option: &str) -> Option<&str> {
        let at = self.0.iter().position(|word| *word == option)?;
        (self.0[at - 1] != "!").then(|| self.0.get(at + 1).map(String::as_str))?
    }

    fn has(&self, option: &str) -> bool {
        self.0.iter().any(|word| word == option)
    }

    fn target(&self) -> Option<&str> {
        self.value("-j")
    }

    /// Whether it drops packets that come by another interface, of all protocols.
    fn drops_unless_from(&self, bridge: &str) -> bool {
        let negated = self.0.windows(3).any(|words| words == ["!", "-i", bridge]);
        negated && self.target() == Some("DROP") && !self.has("-p")
    }

    fn accepts_all_ports(&self) -> bool {
        self.target() == Some("ACCEPT") && !self.has("-p") && !self.has("-m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DROP: &str = "-A PREROUTING -d 10.5.1.2/32 ! -i docker0 -j DROP";

    fn place() -> Place {
        Place {
            network: "10.5.0.0/16".parse().unwrap(),
            subnet: "10.5.1.0/24".parse().unwrap(),
            has_services: false,
        }
    }

    #[test]
    fn docker_before_28_closes_nothing() {
        let older = "-N DOCKER\n-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT";
        assert!(!is_closed(older, "docker0") && !is_closed("", "docker0"));
        let newer = format!("{older}\n-A DOCKER ! -i docker0 -o docker0 -j DROP");
        assert!(is_closed(&newer, "docker0") && !is_closed(&newer, "cni0"));
    }

    #[test]
    fn rules_of_table_raw_count_if_they_are_against_the_subnet_and_nothing_is_trusted() {
        let subnet = place().subnet;
        for (raw, expected) in [
            ("-P PREROUTING ACCEPT".to_owned(), false),
            (DROP.to_owned(), true),
            (DROP.replace("10.5.1.2/32", "10.5.1.0/24"), true),
            (DROP.replace("10.5.1.2", "172.17.0.2"), false),
            (DROP.replace("docker0", "br-1"), false),
            (format!("-A PREROUTING -d 10.5.1.2/32 -i flannel.1 -j ACCEPT\n{DROP}"), false),
            (format!("-A PREROUTING -d 10.5.1.3/32 -i flannel.1 -j ACCEPT\n{DROP}"), true),
            (format!("{DROP}\n-A PREROUTING -d 10.5.1.2/32 -i flannel.1 -j ACCEPT"), true),
        ] {
            assert_eq!(drops_direct(&raw, "docker0", subnet), expected, "{raw}");
        }
        let six = "-A PREROUTING -d fd44:0:0:1::2/128 ! -i docker0 -j DROP";
        assert!(drops_direct(six, "docker0", "fd44:0:0:1::/64".parse().unwrap()));
    }

    #[test]
    fn the_chain_docker_counts_unless_packets_are_accepted_before() {
        let (docker, flannel) =
            ("-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD", "-A FORWARD -j FLANNEL-FWD");
        let after = format!("{docker}\n{flannel}");
        let before = format!("{flannel}\n{docker}");
        for (forward, user, docker_forward, expected) in [
            (&after[..], "", "", false),
            (docker, "", "", false),
            (&before, "", "", true),
            (&after, "-A DOCKER-USER -s 10.5.0.0/16 -d 10.5.1.0/24 -j ACCEPT", "", true),
            (&after, "-A DOCKER-USER -i flannel.1 -p tcp -m tcp --dport 80 -j ACCEPT", "", false),
            (&after, "-A DOCKER-USER -j RETURN", "", false),
            (&after, "", "-A DOCKER-FORWARD -m mark --mark 0x1 -j ACCEPT", true),
            (&after, "", "-A DOCKER-FORWARD -i docker0 -j ACCEPT", false),
        ] {
            let [forward, user, docker_forward] = [forward, user, docker_forward].map(str::to_owned);
            let listings = Listings { raw: DROP.to_owned(), forward, user, docker_forward };
            assert_eq!(is_opened(&listings), expected, "{listings:?}");
            let texts = obstacles(&listings, "docker0", place());
            assert_eq!(texts.len(), if expected { 1 } else { 2 }, "{texts:?}");
        }
    }
}
