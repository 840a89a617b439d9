//! The integration suite: one binary, run by `cargo xtask test`.

mod packets;
mod program;
