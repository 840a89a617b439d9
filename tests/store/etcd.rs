//! etcd as it is run in earnest: with certificates and users, several members, and more than one agent at a time.

mod certificates;
mod login;
pub(super) mod managers;
mod members;
mod requests;
mod routes;
mod tls;
mod watch;
