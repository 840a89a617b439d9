//! etcd as in production: with certificates, users, several members, and several agents.

pub(crate) mod certificates;
pub(crate) mod login;
pub(super) mod managers;
mod members;
mod requests;
mod routes;
mod tls;
mod watch;
