//! Other daemons, devices and programs on this node. Pure.

use std::net::IpAddr;

use crate::check::model::{Check, Finding};
use crate::netlink::link::Link;

/// A daemon of flannel in this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::check) struct Daemon {
    pub(in crate::check) pid: u32,
    /// The name of its process.
    pub(in crate::check) name: String,
    /// Whether it serves the network of the given subnet file.
    pub(in crate::check) is_same_network: bool,
}

/// Judges whether one daemon alone serves the network. `Err`: why that is not known.
pub(in crate::check) fn agents(daemons: &Result<Vec<Daemon>, String>) -> Finding {
    let daemons = match daemons {
        Ok(daemons) => daemons,
        Err(why) => return Check::OtherAgents.note(format!("not known: {why}"), "run this command as root"),
    };
    let same: Vec<_> = daemons.iter().filter(|daemon| daemon.is_same_network).collect();
    if same.len() > 1 {
        let named =
            same.iter().map(|daemon| format!("{} (pid {})", daemon.name, daemon.pid)).collect::<Vec<_>>();
        return Check::OtherAgents.error(
            format!("several daemons serve one network, and each undoes what the other does: {}", named.join(", ")),
            "stop all but one: systemctl disable --now flanneld (or flannel-agent), or delete the DaemonSet. Two that take turns \
             during an update are no problem",
        );
    }
    Check::OtherAgents.ok(match daemons.len() - same.len() {
        0 => "none".to_owned(),
        others => format!("none of this network, and {others} of others"),
    })
}

/// The vxlan device of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::check) struct ExpectedDevice {
    pub(in crate::check) name: String,
    pub(in crate::check) vni: u32,
    /// Its UDP port, if the network's is known.
    pub(in crate::check) port: Option<u16>,
}

/// Judges the vxlan devices. `addresses`: those of this node.
pub(in crate::check) fn devices(
    expected: &[ExpectedDevice],
    links: &[Link],
    addresses: &[IpAddr],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for device in expected {
        let Some(link) = links.iter().find(|link| link.name == device.name) else { continue };
        if let Some(wrong) = wrong_with(device, link, addresses) {
            let name = &device.name;
            findings.push(Check::Devices.error(
                format!("{name} is not what the agent makes: {wrong}"),
                format!("ip link del {name}: a running agent makes it anew at once. If another program makes it, stop that one"),
            ));
        }
    }
    for link in links.iter().filter(|link| !expected.iter().any(|device| device.name == link.name)) {
        findings.extend(beside(link, expected));
    }
    if findings.is_empty() {
        let names = expected.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(" and ");
        let found = if names.is_empty() {
            "the network has none".to_owned()
        } else {
            format!("{names} as it should be")
        };
        findings.push(Check::Devices.ok(found));
    }
    findings
}

fn wrong_with(device: &ExpectedDevice, link: &Link, addresses: &[IpAddr]) -> Option<String> {
    let Some(vxlan) = link.vxlan() else { return Some("it is no vxlan device".to_owned()) };
    if vxlan.vni != device.vni {
        return Some(format!("its VNI is {}, not {}", vxlan.vni, device.vni));
    }
    if let Some(port) = device.port.filter(|port| *port != vxlan.port) {
        return Some(format!("its UDP port is {}, not {port}", vxlan.port));
    }
    let foreign = vxlan.local.filter(|local| !addresses.contains(local));
    foreign.map(|local| format!("its local address {local} is no address of this node"))
}

/// Judges a device of others that may want the same packets.
fn beside(link: &Link, expected: &[ExpectedDevice]) -> Option<Finding> {
    let vxlan = link.vxlan()?;
    // The agent has such a device for a moment, and other networks of flannel have theirs.
    if link.is_flannel_device() {
        return None;
    }
    let device = expected.iter().find(|device| device.port == Some(vxlan.port))?;
    let (name, port) = (&link.name, vxlan.port);
    Some(if vxlan.vni == device.vni {
        Check::Devices.error(
            format!("{name} has the VNI {} and the UDP port {port} of {} as well", vxlan.vni, device.name),
            format!("ip link del {name} and start the agent again, or give the network another VNI"),
        )
    } else {
        Check::Devices.note(
            format!("{name} of another program uses UDP port {port} as well"),
            "nothing as long as its VNIs are others. If packets are lost, set Backend.Port to another port on all nodes",
        )
    })
}

/// A BPF program of others on the way of packets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::check) struct ForeignProgram {
    pub(in crate::check) interface: String,
    /// The hook: `tcx ingress`, `XDP`.
    pub(in crate::check) hook: &'static str,
    /// Its name, if the kernel tells it.
    pub(in crate::check) name: Option<String>,
}

/// Says which programs of others see packets of the network. `Err`: why that is not known.
pub(in crate::check) fn programs(found: &Result<Vec<ForeignProgram>, String>) -> Finding {
    match found {
        Err(why) => Check::OtherPrograms.note(format!("not known: {why}"), "run this command as root"),
        Ok(programs) if programs.is_empty() => Check::OtherPrograms.ok("none on uplink and tunnel devices"),
        Ok(programs) => {
            let named = |program: &ForeignProgram| {
                let name = program.name.as_deref().unwrap_or("?");
                format!("{name} at {} ({})", program.interface, program.hook)
            };
            let named: Vec<_> = programs.iter().map(named).collect();
            Check::OtherPrograms.note(
                named.join(", "),
                "nothing, if the program is known (cil_* is Cilium's, cali_* is Calico's): the agent leaves to the kernel what would \
                 pass it by. It may drop packets by itself",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::model::Level;
    use crate::netlink::link::{LinkKind, VxlanOptions};

    #[test]
    fn two_daemons_of_one_network_are_an_error() {
        let daemon = |pid, is_same_network| Daemon { pid, name: "flanneld".to_owned(), is_same_network };
        for (daemons, expected) in [
            (vec![], Level::Ok),
            (vec![daemon(7, true)], Level::Ok),
            (vec![daemon(7, true), daemon(8, false)], Level::Ok),
            (vec![daemon(7, true), daemon(8, true)], Level::Error),
        ] {
            assert_eq!(agents(&Ok(daemons.clone())).level, expected, "{daemons:?}");
        }
        assert_eq!(agents(&Err("no /proc".to_owned())).level, Level::Note);
    }

    #[test]
    fn a_device_of_others_is_told_from_the_agents() {
        let expected = [ExpectedDevice { name: "flannel.1".to_owned(), vni: 1, port: Some(8472) }];
        let own: IpAddr = [192, 168, 64, 1].into();
        let link = |name: &str, vni, port, local| Link {
            name: name.to_owned(),
            kind: LinkKind::Vxlan(VxlanOptions { vni, port, local, ..VxlanOptions::default() }),
            ..Link::default()
        };
        for (link, expected_level) in [
            (link("flannel.1", 1, 8472, Some(own)), Level::Ok),
            (link("flannel.1", 1, 8472, None), Level::Ok),
            (link("flannel.1", 2, 8472, Some(own)), Level::Error),
            (link("flannel.1", 1, 4789, Some(own)), Level::Error),
            (link("flannel.1", 1, 8472, Some([10, 0, 0, 9].into())), Level::Error),
            (Link { name: "flannel.1".to_owned(), ..Link::default() }, Level::Error),
            (link("flannel.2", 2, 8472, Some(own)), Level::Ok),
            (link("cilium_vxlan", 0, 8472, None), Level::Note),
            (link("mine", 1, 8472, None), Level::Error),
            (link("mine", 1, 4789, None), Level::Ok),
        ] {
            let found = devices(&expected, std::slice::from_ref(&link), &[own]);
            assert_eq!((found.len(), found[0].level), (1, expected_level), "{link:?}: {found:?}");
        }
    }

    #[test]
    fn programs_of_others_are_named() {
        let program = ForeignProgram {
            interface: "eth0".to_owned(),
            hook: "tcx ingress",
            name: Some("cil_from_netdev".to_owned()),
        };
        let finding = programs(&Ok(vec![program]));
        assert_eq!(
            (finding.level, finding.found.as_str()),
            (Level::Note, "cil_from_netdev at eth0 (tcx ingress)")
        );
        assert_eq!(programs(&Ok(vec![])).level, Level::Ok);
    }
}
