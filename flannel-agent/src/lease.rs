//! Leases: which node holds which pod subnet, as flannel's datastore has it.
//!
//! [`SubnetManager`] is the interface of a datastore. `policy` has the rules by which a node takes and keeps its
//! subnet. [`set`] has the leases of all nodes, without the bad entries.

mod backoff;
mod change_notifier;
mod config_file;
mod entry;
pub mod etcd;
mod free;
pub mod key;
pub mod kube;
mod last_known;
pub mod local;
mod manager;
mod notice;
mod policy;
mod public_ips;
mod rival;
pub mod set;
mod transaction;
mod url;
mod watch;

pub use entry::{LeaseAttrs, LeaseEnd, RawLease, TTL, VxlanData};
pub use key::SubnetKey;
pub use last_known::LastKnown;
pub use manager::{KnownNode, LeaseUpdate, OwnLease, SubnetManager};
pub use notice::{Notice, Severity};
pub use policy::{Loss, Standing, Traces};
pub use public_ips::PublicIps;
pub use rival::{Rival, rival};
