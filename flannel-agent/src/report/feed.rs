//! What happens on this node, told as it happens to whoever listens: `flannel-agent monitor`. It costs nothing while nobody does.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::mac::Mac;
use crate::peer::Peer;

/// So many happenings wait for a listener that does not keep up. Older ones are left out, and counted.
const WAITING: usize = 1024;

/// The happenings of this agent.
pub static FEED: LazyLock<Feed> = LazyLock::new(Feed::default);

/// Tells listeners what happens.
#[derive(Debug)]
pub struct Feed(broadcast::Sender<Happening>);

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// Milliseconds since 1970 (UTC).
    pub at: u64,
    /// What it is.
    #[serde(flatten)]
    pub what: What,
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident $name:literal $fields:tt,)+) => {
        /// What happens, by its kind.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        pub enum What {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $variant $fields,)+
        }

        /// The kinds of what happens.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
        pub enum Kind {
            $($(#[doc = $doc])+ #[value(name = $name)] $variant,)+
        }

        impl What {
            /// Returns its kind.
            #[must_use]
            pub const fn kind(&self) -> Kind {
                match self { $(Self::$variant { .. } => Kind::$variant),+ }
            }
        }

        impl Kind {
            /// Returns its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

kinds! {
    /// A program has dropped a packet, by the sender check
    Drop "drop" {
        /// The outcome under which it is counted.
        outcome: String,
        /// The inner source.
        source: IpAddr,
        /// The outer source: the node that it comes from. `None` if that is this node itself, or is not known.
        node: Option<IpAddr>,
    },
    /// A packet waits for a peer that is not known: the programs or the kernel have asked for it
    Miss "miss" {
        /// What is asked for: `lease`, or `neighbour` or `fdb` of the vxlan device.
        wanted: String,
        /// The address or MAC that it is asked for.
        of: String,
    },
    /// A program has counted packets that are not shown one by one: drops and misses beyond 50 a second and CPU, and drops for other reasons
    Counted "counted" {
        /// The outcome.
        outcome: String,
        /// How many packets.
        packets: u64,
    },
    /// A direction of a flow takes the shortcut past the host stack, or does so no longer
    Flow "flow" {
        /// IP protocol: tcp or udp.
        protocol: String,
        /// The pod of this node.
        pod: SocketAddr,
        /// Where the pod sends to.
        remote: SocketAddr,
        /// The pod behind a service.
        behind: Option<SocketAddr>,
        /// `proven` or `ended`.
        state: String,
    },
    /// The lease of another node has come, changed or gone
    Peer "peer" {
        /// `joined`, `changed` or `left`.
        change: Change,
        /// Its subnet.
        subnet: IpNet,
        /// Its public address.
        public_ip: IpAddr,
        /// MAC of its vxlan device.
        vtep_mac: Option<Mac>,
    },
    /// The node has taken its lease, or lost it
    Lease "lease" {
        /// Whether it holds one.
        held: bool,
    },
    /// Something that others had changed or removed was put right, or a problem is over
    Repair "repair" {
        /// What is right again.
        text: String,
    },
    /// Something fails, and is tried again
    Problem "problem" {
        /// What kind of work, as in `flannel_failures_total`.
        work: String,
        /// What has failed.
        texts: Vec<String>,
    },
    /// The datastore answers again, or does not answer
    Datastore "datastore" {
        /// Whether it answers.
        connected: bool,
        /// Why not.
        why: Option<String>,
    },
    /// The listener has not kept up
    LeftOut "left-out" {
        /// So many happenings are not told.
        count: u64,
    },
}

/// What has become of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It is new.
    Joined,
    /// Its public address or MAC is another one.
    Changed,
    /// It has gone.
    Left,
}

impl Change {
    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Changed => "changed",
            Self::Left => "left",
        }
    }
}

impl Happening {
    /// Returns what happens now.
    #[must_use]
    pub fn now(what: What) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { at: since.as_millis().try_into().unwrap_or(u64::MAX), what }
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self(broadcast::Sender::new(WAITING))
    }
}

impl Feed {
    /// Tells it. Nothing is called if nobody listens.
    pub fn tell<I: IntoIterator<Item = What>>(&self, what: impl FnOnce() -> I) {
        if self.0.receiver_count() == 0 {
            return;
        }
        for what in what() {
            // Fails if the last listener has just gone.
            let _ = self.0.send(Happening::now(what));
        }
    }

    /// Begins to listen.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Happening> {
        self.0.subscribe()
    }
}

/// Returns how the peers `after` differ from those `before`, by subnet.
#[must_use]
pub fn changes(before: &[Peer], after: &[Peer]) -> Vec<What> {
    let by_subnet = |peers: &[Peer]| -> BTreeMap<IpNet, Peer> {
        peers.iter().map(|peer| (peer.subnet, peer.clone())).collect()
    };
    let (before, after) = (by_subnet(before), by_subnet(after));
    let left = before.values().filter(|peer| !after.contains_key(&peer.subnet));
    let left = left.map(|peer| (Change::Left, peer));
    let changed = after.values().filter_map(|peer| match before.get(&peer.subnet) {
        None => Some((Change::Joined, peer)),
        Some(known) => (known != peer).then_some((Change::Changed, peer)),
    });
    let what = |(change, peer): (Change, &Peer)| {
        let Peer { subnet, public_ip, vtep_mac } = *peer;
        What::Peer { change, subnet, public_ip, vtep_mac }
    };
    left.chain(changed).map(what).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(subnet: &str, public_ip: &str) -> Peer {
        Peer { subnet: subnet.parse().unwrap(), public_ip: public_ip.parse().unwrap(), vtep_mac: None }
    }

    #[test]
    fn peers_join_change_and_leave() {
        let before = [peer("10.5.1.0/24", "192.0.2.1"), peer("10.5.2.0/24", "192.0.2.2")];
        let after = [peer("10.5.2.0/24", "192.0.2.9"), peer("10.5.3.0/24", "192.0.2.3")];
        let changes: Vec<_> = changes(&before, &after)
            .into_iter()
            .map(|what| match what {
                What::Peer { change, subnet, public_ip, .. } => {
                    format!("{} {subnet} {public_ip}", change.name())
                }
                what => panic!("{what:?}"),
            })
            .collect();
        let expected =
            ["left 10.5.1.0/24 192.0.2.1", "changed 10.5.2.0/24 192.0.2.9", "joined 10.5.3.0/24 192.0.2.3"];
        assert_eq!(changes, expected);
    }

    #[test]
    fn nothing_is_made_for_nobody_and_each_listener_gets_all() {
        let feed = Feed::default();
        feed.tell(|| -> [What; 0] { panic!("nobody listens") });
        let mut listeners = [feed.listen(), feed.listen()];
        feed.tell(|| [What::Lease { held: true }]);
        for listener in &mut listeners {
            assert_eq!(listener.try_recv().unwrap().what, What::Lease { held: true });
        }
    }

    #[test]
    fn a_line_of_json_is_read_back() {
        let what =
            What::Drop { outcome: "unknown-sender".to_owned(), source: [10, 5, 1, 2].into(), node: None };
        let happening = Happening { at: 1, what };
        let line = serde_json::to_string(&happening).unwrap();
        assert_eq!(
            line,
            r#"{"at":1,"kind":"drop","outcome":"unknown-sender","source":"10.5.1.2","node":null}"#
        );
        assert_eq!(serde_json::from_str::<Happening>(&line).unwrap(), happening);
    }
}
