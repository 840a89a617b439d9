//! What others do to programs and pins.

use anyhow::Result;
use flannel_tests::{Node, TestResult};

use super::Bound::{Nothing, Second};
use super::endure;
use crate::inspect::pins;

fn detach(node: &Node, link: &str) -> Result<()> {
    node.exec(&format!("bpftool link detach pinned {}", pins(node)?.path(link).display())).map(drop)
}

#[test]
fn detached_from_the_uplink() -> TestResult {
    endure("underlay_ingress detached", Second, |overlay| {
        detach(&overlay.nodes()[0], "underlay_ingress_link")
    })
}

#[test]
fn detached_from_the_device() -> TestResult {
    endure("programs of flannel.1 detached", Second, |overlay| {
        detach(&overlay.nodes()[0], "overlay_ingress_link")?;
        detach(&overlay.nodes()[0], "overlay_egress_link")
    })
}

#[test]
fn detached_from_a_port() -> TestResult {
    endure("programs of a pod's port detached", Nothing, |overlay| {
        let node = &overlay.nodes()[0];
        let names = std::fs::read_dir(pins(node)?.path(""))?.flatten();
        let names = names.filter_map(|name| name.file_name().into_string().ok());
        let of_ports = names.filter(|name| name.starts_with("pod_") && name.contains("_link_"));
        of_ports.collect::<Vec<_>>().iter().try_for_each(|name| detach(node, name))
    })
}

#[test]
fn pins_deleted() -> TestResult {
    endure("pins deleted", Nothing, |overlay| {
        let node = &overlay.nodes()[0];
        node.exec(&format!("rm -r {}", pins(node)?.path("").display())).map(drop)
    })
}

#[test]
fn bpf_filesystem_mounted_over() -> TestResult {
    endure("another BPF filesystem mounted over", Nothing, |overlay| {
        let node = &overlay.nodes()[0];
        node.exec(&format!("mount -t bpf bpf {}", node.bpffs()?.display())).map(drop)
    })
}
