//! What others do to programs and pins.

use std::fs;

use anyhow::Result;
use flannel_tests::Node;

use super::on;
use crate::inspect::pins;

fn detach(node: &Node, link: &str) -> Result<()> {
    node.exec(&format!("bpftool link detach pinned {}", pins(node)?.path(link).display())).map(drop)
}

faults! {
    detached_from_the_uplink: "underlay_ingress detached", Second, |overlay, node| {
        detach(&overlay.nodes()[node], "underlay_ingress_link")
    };

    detached_from_the_device: "programs of flannel.1 detached", Second, |overlay, node| {
        detach(&overlay.nodes()[node], "overlay_ingress_link")?;
        detach(&overlay.nodes()[node], "overlay_egress_link")
    };

    detached_from_a_port: "programs of pods' ports detached", Nothing, |overlay, node| {
        let node = &overlay.nodes()[node];
        let names = fs::read_dir(pins(node)?.path(""))?.flatten();
        let names = names.filter_map(|name| name.file_name().into_string().ok());
        let of_ports = names.filter(|name| name.starts_with("pod_") && name.contains("_link_"));
        of_ports.collect::<Vec<_>>().iter().try_for_each(|name| detach(node, name))
    };

    // The kernel detaches the programs one after the other, some time later.
    pins_deleted: "pins deleted", Second, |overlay, node| {
        let pins = pins(&overlay.nodes()[node])?;
        on(overlay, node, &format!("rm -r {}", pins.path("").display()))
    };

    bpf_filesystem_mounted_over: "another BPF filesystem mounted over", Nothing, |overlay, node| {
        let bpffs = overlay.nodes()[node].bpffs()?.display().to_string();
        on(overlay, node, &format!("mount -t bpf bpf {bpffs}"))
    };
}
