//! Room in front of pods' packets for outer headers: measured by the memory that a datagram takes which waits for a neighbour.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use flannel_agent::dataplane::kernel::headroom::ROOM;
use flannel_agent::netlink::link::headroom_devices;
use flannel_tests::{Node, Pod, TestResult, eventually};

use crate::overlay::Overlay;

const SOON: Duration = Duration::from_secs(10);
/// Payloads between which the kernel takes a larger piece of memory, with room and without.
const PAYLOADS: [usize; 2] = [400, 900];

/// Returns the bytes of memory that a datagram with this payload takes.
fn memory_of(pod: &Pod, payload: usize) -> Result<usize> {
    let socket = pod.netns().udp_bind(pod.ip(), 0)?;
    // Nobody has this address in the pod's subnet.
    let IpAddr::V4(own) = pod.ip() else { bail!("a pod without an IPv4 address") };
    let [a, b, c, _] = own.octets();
    socket.send_to(&vec![0; payload], (Ipv4Addr::new(a, b, c, 250), 9))?;
    let shown = pod.exec(&format!("ss -Hanum sport = :{}", socket.local_addr()?.port()))?;
    let taken = shown.split(['(', ',']).find_map(|field| field.strip_prefix('t')?.parse().ok());
    let taken = taken.with_context(|| format!("no memory in {shown:?}"))?;
    ensure!(taken > payload, "{payload} bytes take {taken}: the datagram has been sent");
    Ok(taken)
}

/// Returns the smallest payload that takes more memory than [`PAYLOADS`]' first. More room means a smaller one.
fn step(pod: &Pod) -> Result<usize> {
    let [mut low, mut high] = PAYLOADS;
    let least = memory_of(pod, low)?;
    ensure!(memory_of(pod, high)? > least, "{low} and {high} bytes take {least}");
    while high - low > 1 {
        let middle = low.midpoint(high);
        if memory_of(pod, middle)? > least { high = middle } else { low = middle }
    }
    Ok(high)
}

/// Waits until a pod leaves this much more room than another, and the devices for that are gone.
fn wait_room(node: &Node, pod: &Pod, other: &Pod) -> Result<()> {
    eventually("the pod leaves room", SOON, || {
        let (with, without) = (step(pod)?, step(other)?);
        ensure!(without - ROOM == with, "{with}, and {without} without");
        let links = node.exec("ip -o link show")?;
        let left = headroom_devices(1).into_iter().find(|name| links.contains(name));
        ensure!(left.is_none(), "{left:?} is still there");
        Ok(())
    })
}

#[test]
fn pods_leave_room_for_outer_headers() -> TestResult {
    let mut overlay = Overlay::mixed()?;
    let (pod, without) = overlay.two_pods();
    let node = &overlay.nodes()[0];
    wait_room(node, pod, without)?;
    let later = node.add_pod()?;
    wait_room(node, &later, without)?;
    let bridge = || node.exec("ip -o link show cni0");
    let before = bridge()?;

    // As an agent leaves it that is killed in between.
    let [lower, port] = headroom_devices(1);
    node.netns().ip(&[
        format!("link add {lower} mtu 65471 type vxlan id 1 dstport 9"),
        format!("link add {port} mtu 65421 type vxlan id 1 dev {lower} dstport 10"),
        format!("link set {port} master cni0"),
    ])?;
    let streams = overlay.streams()?;
    overlay.agents[0].restart()?;
    let (pod, without) = overlay.two_pods();
    wait_room(&overlay.nodes()[0], pod, without)?;
    streams.ensure_whole()?;
    let after = overlay.nodes()[0].exec("ip -o link show cni0")?;
    assert_eq!(after, before, "the bridge is another one");
    Ok(())
}

#[test]
fn what_is_left_of_a_killed_agent_is_cleaned_up() -> TestResult {
    let mut overlay = Overlay::bpf(1)?;
    overlay.wait_plugged()?;
    let [lower, port] = headroom_devices(1);
    let node = &overlay.nodes()[0];
    node.netns().ip(&[
        format!("link add {lower} type vxlan id 1 dstport 9"),
        format!("link add {port} type vxlan id 1 dev {lower} dstport 10"),
        format!("link set {port} master cni0"),
    ])?;
    overlay.agents[0].clean_up()?;
    let links = overlay.nodes()[0].exec("ip -o link show")?;
    assert!(!links.contains("flannel."), "{links}");
    Ok(())
}
