//! The agent and its datastore, a real etcd or a folder, that is late, gone, wrong, or full of nonsense. Needs root,
//! and says so.

mod bad_entries;
mod config;
mod docker_opts;
mod etcd;
mod flags;
mod format;
mod health;
mod local;
mod outage;
mod own_lease;
mod policy;
mod race;
