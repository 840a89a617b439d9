//! Lets `src/memory.rs` define functions that aya-ebpf defines as well. The linker takes those of the target.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,--allow-multiple-definition");
}
