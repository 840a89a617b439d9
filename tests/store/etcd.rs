//! etcd as in production: with certificates, users, several members, and several agents.

pub(crate) mod certificates;
mod changed_config;
pub(crate) mod login;
pub(super) mod managers;
mod members;
mod requests;
mod routes;
mod tls;
mod watch;
