//! Damage by other programs is repaired long before the next periodic check.

mod lasting;
mod nexthops;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_common::abi;
use flannel_common::outcome::Hook;
use flannel_tests::traffic::ping;
use flannel_tests::wait::throughout;
use flannel_tests::{AgentBuilder, Node, TestResult, Topology, eventually};
use nix::sys::signal::Signal;

use crate::inspect::{self, DEVICE, Link, Peer, UPLINK};
use crate::overlay::{Overlay, lines_of};

/// Time limit for a repair. The periodic check comes every 60 s.
const SOON: Duration = Duration::from_secs(10);
const WHILE: Duration = Duration::from_millis(500);

/// Without the sender check, which drops what comes in while the uplink's program is detached.
const UNCHECKED: &str =
    r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.63.0","Backend":{"Type":"vxlan","SourceCheck":"off"}}"#;

fn floor() -> Result<Overlay> {
    Overlay::start(Topology::segment(2), &["--dataplane=netlink"; 2], 1)
}

/// Returns MAC and address of the vxlan device. Fails if its MTU, state or address is wrong.
fn device(node: &Node) -> Result<(String, String)> {
    let link = node.exec(&format!("ip -o link show {DEVICE}"))?;
    let state = ["mtu 1450", ",UP,"].iter().all(|mark| link.contains(mark));
    let addresses = node.exec(&format!("ip -o -4 address show dev {DEVICE} scope global"))?;
    let address = addresses.split_whitespace().nth(3).unwrap_or_default().to_owned();
    ensure!(state && !address.is_empty(), "{link} {addresses}");
    Ok((inspect::link(node, DEVICE)?.mac, address))
}

/// Runs damaging commands and waits until the first node knows the second again and their pods reach each other.
fn heals(overlay: &Overlay, damage: &str) -> Result<()> {
    let node = &overlay.nodes()[0];
    let (before, peer) = (device(node)?, overlay.peer(1)?);
    for command in damage.split("; ") {
        node.exec(command)?;
    }
    eventually(damage, SOON, || {
        inspect::ensure_knows(node, std::slice::from_ref(&peer))?;
        let now = device(node)?;
        ensure!(now == before, "{now:?}, not {before:?}");
        Ok(())
    })?;
    let (one, other) = overlay.two_pods();
    ping(one, other.ip()).with_context(|| format!("after {damage}"))?;
    ping(other, one.ip()).with_context(|| format!("after {damage}")).map(drop)
}

#[test]
fn removed_or_changed_entries_come_back() -> TestResult {
    let mut overlay = floor()?;
    let Peer { base, mac, .. } = overlay.peer(1)?;
    for damage in [
        format!("ip route del {base}/24"),
        format!("ip route replace {base}/24 via 192.168.64.9 dev eth0"),
        format!("ip neigh del {base} dev {DEVICE}"),
        format!("ip neigh replace {base} lladdr 02:00:00:00:00:99 dev {DEVICE} nud permanent"),
        format!("ip neigh replace {base} lladdr {mac} dev {DEVICE} nud reachable"),
        format!("bridge fdb del {mac} dev {DEVICE}"),
        format!("bridge fdb replace {mac} dst 192.168.64.9 dev {DEVICE}"),
        format!("ip route flush dev {DEVICE}"),
        "ip route flush root 10.5.0.0/16 proto boot".to_owned(),
        format!("ip neigh flush dev {DEVICE} nud permanent"),
        format!("bridge fdb flush dev {DEVICE}"),
        // Both entries, as in tutorials that show how a ping restores them.
        format!("ip neigh del {base} dev {DEVICE}; bridge fdb del {mac} dev {DEVICE}"),
    ] {
        heals(&overlay, &damage)?;
    }
    overlay.agents[0].ensure_running()?;
    assert_eq!(lines_of(&overlay.agents[0].log(), "ERROR"), [""; 0]);
    Ok(())
}

#[test]
fn a_changed_or_deleted_device_comes_back_with_its_mac() -> TestResult {
    for flag in ["--dataplane=netlink", "--dataplane=bpf"] {
        let mut overlay = Overlay::start(Topology::segment(2), &[flag; 2], 1)?;
        let base = overlay.base(0)?;
        for damage in [
            format!("ip link set {DEVICE} down"),
            format!("ip link set {DEVICE} mtu 1300"),
            format!("ip address del {base}/32 dev {DEVICE}"),
            format!("ip link del {DEVICE}"),
            format!("ip link del {DEVICE}"),
        ] {
            heals(&overlay, &damage)?;
        }
        overlay.agents[0].ensure_running()?;
        if flag == "--dataplane=bpf" {
            let before = inspect::carried(&overlay.nodes()[0])?;
            let (one, other) = overlay.two_pods();
            ping(one, other.ip())?;
            let now = inspect::carried(&overlay.nodes()[0])?;
            assert!(
                now.0 > before.0 && now.1 > before.1,
                "BPF is not on the new device: {before:?}, {now:?}"
            );
        }
    }
    Ok(())
}

/// Detaches programs by each of these commands, and waits until all are attached again and carry packets. `checked`: with
/// the sender check, which lets packets pass again when the uplink's program is back. Without it none may be lost.
fn programs_come_back(overlay: &Overlay, damages: &[String], checked: bool) -> TestResult {
    const HOOKS: usize = 3;
    let node = &overlay.nodes()[0];
    let pins = inspect::pins(node)?;
    let streams = overlay.streams()?;
    for (damage, times) in damages.iter().zip(1..) {
        node.exec(damage)?;
        eventually(damage, SOON, || {
            // Until the uplink's program is back no packet is known to be checked.
            let told = lines_of(&overlay.agents[0].log(), "WARN").into_iter();
            let told: Vec<_> = told.filter(|line| !line.contains("unchecked-sender")).collect();
            ensure!(
                told.len() == times && told.iter().all(|line| line.contains("programs were detached")),
                "{told:?}"
            );
            let programs = [UPLINK, DEVICE].map(|interface| inspect::programs(node, interface));
            let programs = programs.into_iter().collect::<Result<Vec<_>>>()?.concat();
            ensure!(programs.len() == HOOKS && pins.path(abi::LEASES).exists(), "{programs:?}");
            Ok(())
        })?;
        let before = inspect::carried(node)?;
        eventually("BPF carries again", SOON, || {
            let now = inspect::carried(node)?;
            ensure!(now.0 > before.0 && now.1 > before.1, "{before:?}, {now:?}");
            Ok(())
        })?;
    }
    assert_eq!(lines_of(&overlay.agents[0].log(), "ERROR"), [""; 0]);
    if checked { Ok(()) } else { Ok(streams.ensure_whole()?) }
}

#[test]
fn detached_links_come_back() -> TestResult {
    let flags = ["--dataplane=bpf"; 2];
    let overlay = Overlay::start_in(UNCHECKED, Topology::segment(2), &flags, 1, |agent| agent)?;
    let pins = inspect::pins(&overlay.nodes()[0])?;
    let links = ["underlay_ingress_link", "overlay_ingress_link", "overlay_egress_link"];
    let mut damages =
        links.map(|link| format!("bpftool link detach pinned {}", pins.path(link).display())).to_vec();
    damages.push(format!("rm -r {}", pins.path("").display()));
    programs_come_back(&overlay, &damages, false)
}

#[test]
fn a_sender_check_that_was_detached_comes_back() -> TestResult {
    let overlay = Overlay::bpf(1)?;
    let node = &overlay.nodes()[0];
    node.exec("ip link add more type veth peer name more-end")?;
    let pin = inspect::pins(node)?.path(&format!("side_ingress_link_{}", inspect::link(node, "more")?.index));
    let wait_checked = || {
        eventually("senders are checked", SOON, || {
            let programs = inspect::programs(node, "more")?;
            ensure!(programs == [Hook::SideIngress.program()], "{programs:?}");
            Ok(())
        })
    };
    wait_checked()?;
    node.exec(&format!("bpftool link detach pinned {}", pin.display()))?;
    wait_checked()?;
    Ok(())
}

#[test]
fn deleted_filters_come_back() -> TestResult {
    let flags = ["--dataplane=bpf"; 2];
    let overlay = Overlay::start_with(Topology::segment(2), &flags, 1, AgentBuilder::without_tcx)?;
    let places = [(UPLINK, "ingress"), (DEVICE, "ingress"), (DEVICE, "egress")];
    let delete = |(interface, direction)| format!("tc filter del dev {interface} {direction}");
    programs_come_back(&overlay, &places.map(delete), true)
}

#[test]
fn an_uplink_carries_traffic_again_after_it_was_down() -> TestResult {
    for flag in ["--dataplane=netlink", "--dataplane=bpf"] {
        let overlay = Overlay::start(Topology::segment(2), &[flag; 2], 1)?;
        let up = "ip link set eth0 up; ip route replace default via 192.168.64.254";
        overlay.nodes()[0].exec("ip link set eth0 down")?;
        eventually("the agent logs it", SOON, || {
            let warnings = lines_of(&overlay.agents[0].log(), "WARN");
            ensure!(warnings.iter().any(|line| line.contains("staying with eth0")), "{warnings:?}");
            Ok(())
        })?;
        heals(&overlay, up)?;
        heals(&overlay, &format!("ip link set eth0 down; {up}"))?;
        assert_eq!(lines_of(&overlay.agents[0].log(), "ERROR"), [""; 0]);
    }
    Ok(())
}

#[test]
fn foreign_entries_are_not_changed() -> TestResult {
    let overlay = floor()?;
    let node = &overlay.nodes()[0];
    let base = overlay.base(1)?;
    let foreign = [
        format!("ip route add 10.99.0.0/24 via 10.99.0.0 dev {DEVICE} onlink proto static"),
        format!("ip route add {base}/24 via 192.168.64.2 dev eth0 metric 50"),
        "ip route add 10.98.0.0/24 via 192.168.64.2 dev eth0".to_owned(),
        format!("bridge fdb append 00:00:00:00:00:00 dst 192.168.64.2 dev {DEVICE}"),
    ];
    for command in &foreign {
        node.exec(command)?;
    }
    let shown = || anyhow::Ok((node.exec("ip route")?, node.exec(&format!("bridge fdb show dev {DEVICE}"))?));
    let before = shown()?;
    // A repair of another entry does not change them.
    node.exec(&format!("ip neigh del {base} dev {DEVICE}"))?;
    eventually("the neighbour is back", SOON, || {
        let neighbour = node.exec(&format!("ip neigh show {base} dev {DEVICE}"))?;
        ensure!(neighbour.contains("PERMANENT"), "{neighbour:?}");
        Ok(())
    })?;
    throughout("foreign entries stay", WHILE, || {
        let now = shown()?;
        ensure!(now == before, "{now:?}, not {before:?}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn lost_netlink_events_do_not_prevent_a_repair() -> TestResult {
    let overlay = floor()?;
    let (node, peer) = (&overlay.nodes()[0], overlay.peer(1)?);
    overlay.agents[0].signal(Signal::SIGSTOP)?;
    // More events than the socket holds, and the relevant one last.
    node.exec("ip link add noise type veth peer name noise1")?;
    let noise: String =
        (0..4000).map(|n| format!("route add 10.{}.{}.0/24 dev noise\n", 100 + n / 250, n % 250)).collect();
    let batch = node.dir().join("noise");
    std::fs::write(&batch, noise)?;
    for end in ["noise", "noise1"] {
        node.exec(&format!("ip link set {end} up"))?;
    }
    node.exec(&format!("ip -batch {}", batch.display()))?;
    node.exec(&format!("ip route del {}/24", peer.base))?;
    overlay.agents[0].signal(Signal::SIGCONT)?;
    eventually("the route is back", SOON, || inspect::ensure_knows(node, std::slice::from_ref(&peer)))?;
    Ok(())
}

#[test]
fn the_kernels_question_for_the_mac_of_an_address_is_answered() -> TestResult {
    let overlay = floor()?;
    let (node, other) = (&overlay.nodes()[0], &overlay.pods[1][0]);
    let Link { mac, .. } = inspect::link(&overlay.nodes()[1], DEVICE)?;
    // A route without a gateway, as in the oldest flannel: the kernel asks for the pod's own MAC.
    node.exec(&format!("ip route add {}/32 dev {DEVICE}", other.ip()))?;
    node.exec(&format!("ping -c 1 -W 3 {}", other.ip()))?;
    let neighbour = node.exec(&format!("ip neigh show {} dev {DEVICE}", other.ip()))?;
    assert!(neighbour.contains(&mac) && !neighbour.contains("PERMANENT"), "{neighbour}");
    Ok(())
}

#[test]
fn unleased_subnets_are_unreachable() -> TestResult {
    let overlay = floor()?;
    let (node, (pod, _)) = (&overlay.nodes()[0], overlay.two_pods());
    let said = node.exec("ip route get 10.5.0.7").unwrap_err();
    assert!(format!("{said:#}").contains("No route to host"), "{said:#}");
    let said = format!("{:#}", pod.exec("ping -c 1 -W 5 10.5.0.7").unwrap_err());
    assert!(said.contains("Unreachable"), "{said}");
    // A foreign route has priority.
    node.exec("ip route add 10.5.0.0/18 via 192.168.64.254 dev eth0 onlink")?;
    assert!(node.exec("ip route get 10.5.0.7")?.contains("via 192.168.64.254"));
    Ok(())
}
