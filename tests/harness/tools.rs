//! The one list of tools that the project's chores and its test bed run.

mod program;
pub mod python;

use std::env;
use std::path::{Path, PathBuf};

use Part::{Bench, Cluster, Cross, Descriptors, Etcd, Fuzz, Kubernetes, Lint, Release, Run, Suite, Vm};
pub use program::find as find_program;

/// A part of the chores' work: a chore is made of parts, and a tool names the parts that need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Checking the sources without running them.
    Lint,
    /// Building the agent.
    Build,
    /// Building and running fuzz targets.
    Fuzz,
    /// Building static binaries, for another architecture too.
    Cross,
    /// Clusters of network namespaces, with agents and traffic.
    Cluster,
    /// Clusters that keep their leases in etcd.
    Etcd,
    /// The commands that `cargo xtask run` suggests to its user.
    Run,
    /// What `cargo xtask bench` compares the agent with.
    Bench,
    /// The integration suite.
    Suite,
    /// Building Kubernetes, and running its nodes.
    Kubernetes,
    /// The virtual machine.
    Vm,
    /// Making the files of a release.
    Release,
    /// Compiling the interface of etcd's client.
    Descriptors,
}

/// Where a tool comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A package of Debian and Ubuntu.
    Package(&'static str),
    /// A component of the Rust toolchain that runs the chore. The probe is its program in the toolchain's `bin`.
    Component(&'static str),
    /// A crate that `cargo install` builds.
    Crate {
        /// Its name.
        name: &'static str,
        /// The oldest version that will do, and the one that is installed.
        version: &'static str,
    },
    /// Packages of PyPI, which [`python`] has. The probe is one of their programs.
    Python {
        /// Names and versions of all of them, as pip reads them.
        requirements: &'static str,
    },
}

/// Something that a chore or the test bed runs or reads.
#[derive(Debug, PartialEq, Eq)]
pub struct Tool {
    /// What shows that it is installed: a program's name, or the path of a file.
    pub probe: &'static str,
    /// Where it comes from.
    pub source: Source,
    /// What it is needed for.
    pub purpose: &'static str,
    /// The parts that need it.
    pub parts: &'static [Part],
}

impl Tool {
    /// Returns the file that shows that the tool is installed.
    pub fn find(&self) -> Option<PathBuf> {
        match (self.source, sysroot()) {
            (Source::Python { requirements }, _) => python::find(self.probe, requirements),
            (Source::Component(_), Some(sysroot)) => {
                Some(sysroot.join("bin").join(self.probe)).filter(|file| file.is_file())
            }
            _ if self.probe.starts_with('/') => {
                Some(self.probe.into()).filter(|file: &PathBuf| file.exists())
            }
            _ => find_program(self.probe),
        }
    }
}

/// Returns the folder of the toolchain whose cargo runs this process.
fn sysroot() -> Option<PathBuf> {
    let cargo = env::var_os("CARGO")?;
    Path::new(&cargo).ancestors().nth(2).map(Path::to_owned)
}

/// Debian's cross compilers; the machine's own compiler has such a name, too.
const CC_X86_64: &str = if cfg!(target_arch = "x86_64") { "gcc" } else { "gcc-x86-64-linux-gnu" };
const CC_AARCH64: &str = if cfg!(target_arch = "aarch64") { "gcc" } else { "gcc-aarch64-linux-gnu" };
/// The headers of the C library for the other architecture, and their package.
const FOREIGN_HEADERS: (&str, &str) = if cfg!(target_arch = "x86_64") {
    ("/usr/aarch64-linux-gnu/include/stdint.h", "libc6-dev-arm64-cross")
} else {
    ("/usr/x86_64-linux-gnu/include/stdint.h", "libc6-dev-amd64-cross")
};

/// The library that gives agents another clock.
const FAKETIME: &str = if cfg!(target_arch = "x86_64") {
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
} else {
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"
};

/// Every tool that can be installed by itself. `xtask/src/setup` adds what takes more than that: a Rust toolchain for
/// the BPF target, and bpf-linker.
pub const TOOLS: &[Tool] = &[
    component("rustfmt", "rustfmt", "formats the sources", &[Lint]),
    component("clippy-driver", "clippy", "lints the sources", &[Lint]),
    from_crate("cargo-deny", "0.20.2", "checks licences, duplicates and sources of dependencies", &[Lint]),
    package("c++", "g++", "compiles libFuzzer, and links the fuzz targets", &[Lint, Fuzz]),
    package("x86_64-linux-gnu-gcc", CC_X86_64, "compiles ring's C code, and links", &[Cross]),
    package("aarch64-linux-gnu-gcc", CC_AARCH64, "compiles ring's C code, and links", &[Cross]),
    package(FOREIGN_HEADERS.0, FOREIGN_HEADERS.1, "is included by ring's C code", &[Cross]),
    package("ip", "iproute2", "makes the nodes, links and pods of a cluster", &[Cluster]),
    package("bridge", "iproute2", "shows the FDB that the agent writes", &[Cluster]),
    package("iptables", "iptables", "writes and lists firewall rules", &[Cluster]),
    package("iptables-restore", "iptables", "writes the agent's firewall rules, many at once", &[Cluster]),
    package("bpftool", "bpftool", "shows programs and maps", &[Cluster]),
    package("etcd", "etcd-server", "is the datastore under test", &[Etcd]),
    package("etcdctl", "etcd-client", "writes and reads etcd as flannel's users do", &[Etcd]),
    package("tcpdump", "tcpdump", "shows packets on the wire, and reads recorded ones", &[Run, Suite]),
    package("tc", "iproute2", "shows where programs are attached", &[Suite]),
    package("ping", "iputils-ping", "shows which ICMP errors a pod gets", &[Suite]),
    package("ethtool", "ethtool", "switches offloads of the nodes' links", &[Suite]),
    package("nft", "nftables", "writes the agent's rules in nftables mode, and flowtables", &[Suite, Bench]),
    package("tshark", "tshark", "decodes captured packets independently of this project", &[Suite]),
    package(
        "/usr/lib/cni/bridge",
        "containernetworking-plugins",
        "has the plugins that make pods' interfaces for the CNI plugin",
        &[Suite, Kubernetes],
    ),
    package("ipvsadm", "ipvsadm", "writes kube-proxy's services in ipvs mode", &[Vm]),
    package("ipset", "ipset", "writes kube-proxy's sets in ipvs mode", &[Vm]),
    package("wg", "wireguard-tools", "makes the nodes' uplinks of WireGuard", &[Vm]),
    package("prometheus", "prometheus", "reads the agents' metrics, as in operation", &[Suite]),
    package("promtool", "prometheus", "checks metrics and rules of alerts", &[Suite]),
    package(FAKETIME, "libfaketime", "sets the clock of agents", &[Suite]),
    package("jq", "jq", "runs the filters of JSON that documents show", &[Suite]),
    package("setpriv", "util-linux", "starts agents without privileges", &[Suite]),
    package(
        "dockerd",
        "docker.io",
        "proves that Docker accepts the options the agent makes for it",
        &[Suite],
    ),
    package(
        "busybox",
        "busybox-static",
        "is what containers and the virtual machine start with",
        &[Suite, Kubernetes, Vm],
    ),
    package(
        "unshare",
        "util-linux",
        "starts nodes, and a machine for the Debian package",
        &[Suite, Kubernetes],
    ),
    package("nsenter", "util-linux", "runs commands on them", &[Suite, Kubernetes]),
    package(
        "/lib/systemd/systemd",
        "systemd",
        "is the first process of the Debian package's machine",
        &[Suite],
    ),
    package("dpkg-source", "dpkg-dev", "unpacks the source of Kubernetes", &[Kubernetes]),
    package("/usr/lib/go-1.19/bin/go", "golang-1.19-go", "compiles Kubernetes", &[Kubernetes]),
    package(
        "/usr/share/gocode/src/github.com/modern-go/reflect2",
        "golang-github-modern-go-reflect2-dev",
        "replaces a library in Kubernetes that breaks with this Go",
        &[Kubernetes],
    ),
    package("gcc", "gcc", "compiles the program of Kubernetes' pause containers", &[Kubernetes]),
    package(
        "/usr/share/gocode/src/github.com/Masterminds/sprig",
        "golang-github-masterminds-sprig-dev",
        "has the functions that Helm charts use",
        &[Kubernetes],
    ),
    package(
        "/usr/share/gocode/src/github.com/ghodss/yaml",
        "golang-github-ghodss-yaml-dev",
        "reads the values of Helm charts",
        &[Kubernetes],
    ),
    package("containerd", "containerd", "runs the containers of Kubernetes' nodes", &[Kubernetes]),
    package("runc", "runc", "starts containers for containerd", &[Kubernetes]),
    package(
        "openssl",
        "openssl",
        "makes the certificates of Kubernetes, and keys of service accounts",
        &[Suite, Kubernetes],
    ),
    package("pgrep", "procps", "finds agents on Kubernetes' nodes", &[Kubernetes]),
    package("python3", "python3-venv", "runs what the suite has of Python", &[Suite]),
    Tool {
        probe: "moto_server",
        source: Source::Python { requirements: include_str!("cloud/requirements.txt") },
        purpose: "is the EC2 that the backend aws-vpc is tried on",
        parts: &[Suite],
    },
    package("conntrack", "conntrack", "removes connections for kube-proxy", &[Suite, Kubernetes]),
    package("readelf", "binutils", "shows which libraries the image's programs need", &[Suite]),
    package("zsh", "zsh", "completes command lines", &[Suite]),
    package("fish", "fish", "completes command lines", &[Suite]),
    package("depmod", "kmod", "finds the modules of the virtual machine's kernel", &[Vm]),
    package("xz", "xz-utils", "decompresses the modules of the virtual machine's kernel", &[Vm]),
    from_crate("cargo-auditable", "0.7.7", "lists a binary's crates in the binary", &[Release]),
    from_crate("cargo-deb", "3.8.0", "makes the Debian package", &[Release]),
    package("protoc", "protobuf-compiler", "compiles the interface of etcd's client", &[Descriptors]),
    package(
        "/usr/include/google/protobuf/descriptor.proto",
        "libprotobuf-dev",
        "is imported by the interface of etcd's client",
        &[Descriptors],
    ),
];

const fn package(
    probe: &'static str,
    name: &'static str,
    purpose: &'static str,
    parts: &'static [Part],
) -> Tool {
    Tool { probe, source: Source::Package(name), purpose, parts }
}

const fn component(
    probe: &'static str,
    name: &'static str,
    purpose: &'static str,
    parts: &'static [Part],
) -> Tool {
    Tool { probe, source: Source::Component(name), purpose, parts }
}

const fn from_crate(
    name: &'static str,
    version: &'static str,
    purpose: &'static str,
    parts: &'static [Part],
) -> Tool {
    Tool { probe: name, source: Source::Crate { name, version }, purpose, parts }
}
