//! The one list of what the chores and tests call and apt can install.

use std::path::Path;

use crate::toolchain::program;

/// Something that the project calls.
#[derive(Debug, PartialEq)]
pub(crate) struct Tool {
    /// How to see that it is there: a program's name, or the path of a file.
    pub(crate) probe: &'static str,
    /// Debian's and Ubuntu's package.
    pub(crate) package: &'static str,
    /// Why it is needed, for the one who is asked to install it.
    pub(crate) purpose: &'static str,
}

impl Tool {
    /// Whether it is here.
    pub(crate) fn present(&self) -> bool {
        if self.probe.starts_with('/') {
            Path::new(self.probe).exists()
        } else {
            program(self.probe).is_some()
        }
    }
}

const fn tool(probe: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool { probe, package, purpose }
}

/// What building, running and testing the agent calls.
pub(crate) const TOOLS: &[Tool] = &[
    tool("protoc", "protobuf-compiler", "compiles the interface of etcd's client"),
    tool("/usr/include/google/protobuf/descriptor.proto", "libprotobuf-dev", "what that interface imports"),
    tool("ip", "iproute2", "makes the test bed's nodes, links and pods"),
    tool("bridge", "iproute2", "shows the FDB that the agent programs"),
    tool("tc", "iproute2", "shows where programs are attached"),
    tool("sysctl", "procps", "sets forwarding in the test bed's nodes"),
    tool("ping", "iputils-ping", "tries paths and packet sizes between pods"),
    tool("ethtool", "ethtool", "switches offloads of the test bed's links"),
    tool("iptables", "iptables", "what the agent writes its masquerading rules with"),
    tool("nft", "nftables", "the same, for its nftables mode"),
    tool("bpftool", "bpftool", "shows programs and maps"),
    tool("etcd", "etcd-server", "the datastore under test"),
    tool("etcdctl", "etcd-client", "writes and reads that datastore as flannel's users do"),
    tool("iperf3", "iperf3", "load for the tests and the benchmark"),
    tool("tshark", "tshark", "decodes captured packets independently of this project"),
    tool("tcpdump", "tcpdump", "captures them"),
    tool("dockerd", "docker.io", "proves that Docker works with the options the agent makes for it"),
    tool("busybox", "busybox-static", "what the containers of that proof are made of"),
    tool("/usr/lib/cni/bridge", "containernetworking-plugins", "the CNI plugins that pods are made with"),
];

/// What the tests on another kernel take besides.
pub(crate) const VM_TOOLS: &[Tool] =
    &[tool("depmod", "kmod", "finds and loads the modules of the kernel in the virtual machine")];

/// What building bpf-linker takes, if it is missing.
pub(crate) const LINKER_TOOLS: &[Tool] = &[
    tool("/usr/lib/llvm-22/include/llvm-c/Core.h", "llvm-22-dev", "bpf-linker is LLVM's linker for BPF"),
    tool(
        "/usr/lib/llvm-22/lib/libPolly.a",
        "libpolly-22-dev",
        "a part of LLVM that its list of libraries names",
    ),
    tool("/usr/include/zlib.h", "zlib1g-dev", "a library that LLVM links"),
    tool("/usr/include/zstd.h", "libzstd-dev", "a library that LLVM links"),
];

/// A Rust that comes with the sources of `core`, where rustup cannot get them.
pub(crate) const DEBIAN_RUST: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"];

/// That Rust's clippy, where only the rest of it was installed.
pub(crate) const DEBIAN_CLIPPY: Tool =
    tool("/usr/bin/clippy-driver", "rust-web-clippy", "lints the BPF programs");

/// The tools of the list that are not here.
pub(crate) fn missing(tools: &'static [Tool], present: impl Fn(&Tool) -> bool) -> Vec<&'static Tool> {
    tools.iter().filter(|tool| !present(tool)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolchain::LLVM;

    #[test]
    fn only_what_is_not_present_is_missing() {
        assert_eq!(missing(TOOLS, |_| true), Vec::<&Tool>::new());
        let without_iproute2 = missing(TOOLS, |tool| tool.package != "iproute2");
        let probes: Vec<_> = without_iproute2.iter().map(|tool| tool.probe).collect();
        assert_eq!(probes, ["ip", "bridge", "tc"]);
    }

    #[test]
    fn linker_is_built_with_the_llvm_that_toolchains_are_chosen_for() {
        assert!(LINKER_TOOLS.iter().any(|tool| tool.package == format!("llvm-{LLVM}-dev")));
    }
}
