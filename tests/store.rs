//! Tests of the agent with its datastore, a real etcd or a folder: late, unreachable, wrong, or with bad entries. Needs
//! root.

mod bad_entries;
mod clock;
mod config;
mod docker_opts;
pub(crate) mod etcd;
mod flags;
mod format;
mod health;
mod last_known;
mod local;
mod mutated;
mod outage;
mod own_lease;
mod policy;
mod race;
mod rivals;
