//! The labels of the metrics. All of them have few values: none is an address, a key or a name of a node.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

/// Makes an enum of the values of a label, from one list of their names.
macro_rules! label_values {
    ($(#[$doc:meta])* $name:ident: $($(#[$about:meta])* $variant:ident $text:literal,)+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$about])* $variant,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the value as `/metrics` shows it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                EncodeLabelValue::encode(&self.name(), encoder)
            }
        }
    };
}

/// Labels of a change to the kernel's entries.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Action {
    /// `route`, `neighbour`, `fdb`, `nexthop` or `cloud-route`.
    pub object: &'static str,
    /// `set` or `remove`.
    pub action: &'static str,
}

/// Labels of a failure.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Failure {
    /// What failed.
    pub kind: FailureKind,
}

label_values! {
    /// What can fail.
    FailureKind:
    /// A request to the datastore.
    Datastore "datastore",
    /// An entry of the datastore that is not a usable lease.
    Refused "refused-lease",
    /// Renewing the node's own lease.
    Renewal "renewal",
    /// Another node with this node's address has written the node's own lease.
    Contested "contested-lease",
    /// Writing an entry to the kernel or a map.
    Dataplane "dataplane",
    /// Reading or writing firewall rules.
    Firewall "firewall",
    /// Writing the subnet file.
    SubnetFile "subnet-file",
    /// What others have set up on the node and drops pods' packets.
    NodeSetup "node-setup",
    /// Attaching the BPF programs again, or recognising an earlier agent's.
    Programs "programs",
    /// Reading or writing the cloud's routes, or a setting of the cloud that keeps packets from pods.
    Cloud "cloud",
    /// Answering at the health endpoint.
    Health "health",
    /// Another node does not answer (`--probe-interval`).
    Unreachable "unreachable-peer",
}

/// Labels of the peers that were probed.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Probed {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// What their answers say.
    pub reachable: Reachable,
}

label_values! {
    /// Whether another node is reached.
    Reachable:
    /// It has answered.
    Yes "yes",
    /// It has not.
    No "no",
    /// It has not been probed yet; or it has answered at its public address, and has no address among those of pods that could answer.
    Unknown "unknown",
}

/// Labels of what was repaired.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Repair {
    /// What it was.
    pub object: Repaired,
}

label_values! {
    /// What another program has changed or removed, and the agent has put right.
    Repaired:
    /// The vxlan device, made again.
    Device "device",
    /// A route to a peer.
    Route "route",
    /// A nexthop object of a peer.
    Nexthop "nexthop",
    /// A neighbour entry of a peer.
    Neighbour "neighbour",
    /// An FDB entry of a peer.
    Fdb "fdb",
    /// The BPF programs, attached again.
    Programs "programs",
    /// A change of firewall rules.
    Firewall "firewall",
    /// The subnet file.
    SubnetFile "subnet-file",
}

impl Repaired {
    /// Returns what has been put right, as `flannel-agent status` shows it.
    #[must_use]
    pub const fn is_right(self) -> &'static str {
        match self {
            Self::Device => "a vxlan device was gone, and was made again",
            Self::Route => "routes to peers had been changed, and are as they were",
            Self::Nexthop => "nexthop objects had been changed, and are as they were",
            Self::Neighbour => "neighbour entries had been changed, and are as they were",
            Self::Fdb => "FDB entries had been changed, and are as they were",
            Self::Programs => "BPF programs that others had detached are attached again",
            Self::Firewall => "firewall rules had been changed or removed, and are as they were",
            Self::SubnetFile => "the subnet file had been changed or removed, and is as it was",
        }
    }
}

/// Labels of a comparison of the firewall rules with the wanted ones.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct FirewallSync {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// How it ended.
    pub result: SyncResult,
}

label_values! {
    /// How a comparison of the firewall rules with the wanted ones has ended.
    SyncResult:
    /// All rules were as wanted.
    Unchanged "unchanged",
    /// Rules were written or removed.
    Changed "changed",
    /// They could not be read or written.
    Failed "failed",
}

/// Labels of a request.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// How it has ended.
    pub result: RequestResult,
}

label_values! {
    /// How a request to the datastore has ended.
    RequestResult:
    /// The datastore has answered.
    Answered "answered",
    /// There was no answer that can be used, or none in time.
    Failed "failed",
    /// The agent did not wait for its end: something else has made it needless, or the agent wanted an answer sooner.
    Dropped "dropped",
}

/// Labels of a question that a lease answers.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct MissLabels {
    /// `neighbour` (the kernel: which MAC has this address), `fdb` (the kernel: which node has this MAC) or
    /// `lease` (the programs: which node leases this address).
    pub kind: &'static str,
    /// `lease` if there is one, else `none`.
    pub answer: &'static str,
}

/// Labels of an event.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct EventLabels {
    /// Name of the [`Outcome`](flannel_common::outcome::Outcome).
    pub outcome: &'static str,
}

/// Labels of the dataplane in use.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Dataplane {
    /// `bpf`, `netlink`, or the backend's name.
    pub name: &'static str,
}

/// Labels of what there is for each address family.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Family {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
}
