//! BPF.
fn main() {}
