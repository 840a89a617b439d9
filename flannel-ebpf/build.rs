//! Tells `aya-ebpf`'s register layouts for which machine the programs are.
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
