//! The promises of SECURITY.md that no other test holds: files, secrets, open ports, and the privileges of the agent.

mod datastore;
mod files;
mod ports;
mod privileges;
mod secrets;
mod unit;

/// A user of the node without privileges. No such user has to exist.
const USER: u32 = 4711;
