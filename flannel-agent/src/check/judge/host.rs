//! Settings of the host that decide about packets, and what else identifies it. Pure.

use std::collections::BTreeMap;

use crate::check::model::{Check, Finding};
use crate::firewall::obstacles::UNANSWERED;

/// Settings below /proc/sys by their path: `net/ipv4/ip_forward`. Those that do not exist are left out.
pub(in crate::check) type Settings = BTreeMap<String, String>;

/// The interfaces of a network in one address family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::check) struct Interfaces {
    pub(in crate::check) v6: bool,
    /// The vxlan device.
    pub(in crate::check) overlay: Option<String>,
    pub(in crate::check) uplink: Option<String>,
    pub(in crate::check) bridge: Option<String>,
}

impl Interfaces {
    fn names(&self) -> impl Iterator<Item = &String> {
        [&self.overlay, &self.uplink, &self.bridge].into_iter().flatten()
    }

    /// Returns the path of the setting for all interfaces.
    fn forwarding(&self) -> &'static str {
        if self.v6 { "net/ipv6/conf/all/forwarding" } else { "net/ipv4/ip_forward" }
    }

    /// Returns the paths of the settings that are judged.
    pub(in crate::check) fn settings(&self) -> Vec<String> {
        let family = if self.v6 { "ipv6" } else { "ipv4" };
        let of = |name: &str, key: &str| format!("net/{family}/conf/{name}/{key}");
        let mut paths = vec![self.forwarding().to_owned(), of("all", "rp_filter")];
        paths.extend(self.names().flat_map(|name| [of(name, "forwarding"), of(name, "rp_filter")]));
        paths
    }
}

/// Judges whether the host forwards packets of pods.
pub(in crate::check) fn forwarding(of: &[Interfaces], settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_off = |path: &str| settings.get(path).is_some_and(|value| value == "0");
    for interfaces in of {
        let all = interfaces.forwarding();
        if is_off(all) {
            findings.push(turned_off(all, "all interfaces"));
            continue;
        }
        let family = if interfaces.v6 { "ipv6" } else { "ipv4" };
        for name in [&interfaces.overlay, &interfaces.bridge].into_iter().flatten() {
            let path = format!("net/{family}/conf/{name}/forwarding");
            // IPv6 has the setting for all interfaces alone: that of one says whether it is a router there.
            if !interfaces.v6 && is_off(&path) {
                findings.push(turned_off(&path, name));
            }
        }
    }
    if findings.is_empty() {
        findings.push(Check::Forwarding.ok("on"));
    }
    findings
}

fn turned_off(path: &str, place: &str) -> Finding {
    Check::Forwarding.error(
        format!("the host forwards nothing at {place}: /proc/sys/{path} is 0"),
        format!(
            "sysctl -w {path}=1 (at each boot: a line in /etc/sysctl.d). A CNI plugin, kubelet or Docker may have been relied on \
             before, and firewalld, ufw or a sysctl file may set it to 0"
        ),
    )
}

/// Judges the reverse path filter. `has_direct`: whether some peers are reached without the tunnel.
pub(in crate::check) fn reverse_path(
    of: &[Interfaces],
    settings: &Settings,
    has_direct: bool,
) -> Vec<Finding> {
    const STRICT: &str = "1";
    let value = |name: &str| settings.get(&format!("net/ipv4/conf/{name}/rp_filter")).map(String::as_str);
    // The larger one of both counts.
    let is_strict = |name: &str| {
        let values = [value("all"), value(name)];
        values.contains(&Some(STRICT)) && !values.contains(&Some("2"))
    };
    let v4 = of.iter().filter(|interfaces| !interfaces.v6);
    let strict: Vec<_> = v4
        .flat_map(|interfaces| [&interfaces.overlay, &interfaces.uplink].into_iter().flatten())
        .filter(|name| is_strict(name))
        .map(String::as_str)
        .collect();
    if strict.is_empty() {
        return vec![Check::ReversePath.ok("not strict")];
    }
    let names = strict.join(" and ");
    let found = format!(
        "strict at {names}: packets are dropped there without a word if the answer to them would leave by another interface"
    );
    let remedy = strict
        .iter()
        .map(|name| format!("sysctl -w net/ipv4/conf/{name}/rp_filter=2"))
        .collect::<Vec<_>>()
        .join("; ");
    if has_direct {
        let found = format!("{found}. Some nodes are reached without the tunnel, and may send through it");
        return vec![Check::ReversePath.warning(found, remedy)];
    }
    let remedy = format!("nothing, unless packets are lost that arrive: then {remedy} (2 is loose)");
    vec![Check::ReversePath.note(found, remedy)]
}

/// Judges whether iptables sees packets between pods of this node. `missing`: what is wrong, and the remedy, for each address family.
pub(in crate::check) fn bridged(missing: &[(String, String)], has_services: bool) -> Vec<Finding> {
    let finding = |(what, remedy): &(String, String)| {
        let found = format!("{what}: {UNANSWERED}");
        if has_services {
            Check::Bridged.warning(found, remedy)
        } else {
            let remedy = format!("nothing without Kubernetes. With Services: {remedy}");
            Check::Bridged.note(found, remedy)
        }
    };
    match missing {
        [] => vec![Check::Bridged.ok("iptables sees packets between pods of this node")],
        missing => missing.iter().map(finding).collect(),
    }
}

/// Judges the text of /etc/machine-id; `None` if there is no such file.
pub(in crate::check) fn machine_id(text: Option<&str>) -> Finding {
    const REMEDY: &str = "systemd-machine-id-setup makes one. Machines cloned with one ID also have the same DHCP identity, and \
                          often the same MACs: empty /etc/machine-id in the image";
    match text.map(str::trim) {
        None => Check::MachineId.note("there is no /etc/machine-id", REMEDY),
        Some("" | "uninitialized") => Check::MachineId.note("/etc/machine-id is empty", REMEDY),
        // Whether others have the same one, no datastore of flannel tells.
        Some(_) => Check::MachineId.ok("there is one"),
    }
}

/// Judges whether the kernel says that its clock is synchronised; `Err` if it does not answer.
pub(in crate::check) fn clock(is_synchronised: Result<bool, String>) -> Finding {
    const REMEDY: &str = "timedatectl set-ntp true, or start chrony. Certificates of etcd and Kubernetes are refused when clocks differ";
    match is_synchronised {
        Ok(true) => Check::Clock.ok("the kernel says that it is synchronised"),
        Ok(false) => Check::Clock.note("the kernel says that nothing synchronises it", REMEDY),
        Err(why) => Check::Clock.note(format!("not known: {why}"), REMEDY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::model::Level;

    fn interfaces(v6: bool) -> Interfaces {
        let name = |text: &str| Some(text.to_owned());
        Interfaces { v6, overlay: name("flannel.1"), uplink: name("eth0"), bridge: name("cni0") }
    }

    fn settings(values: &[(&str, &str)]) -> Settings {
        values.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn forwarding_that_is_off_is_an_error() {
        use Level::{Error, Ok as Well};
        for (v6, values, expected) in [
            (false, &[("net/ipv4/ip_forward", "1")][..], &[Well][..]),
            (false, &[], &[Well]),
            (false, &[("net/ipv4/ip_forward", "0")], &[Error]),
            (
                false,
                &[("net/ipv4/conf/flannel.1/forwarding", "0"), ("net/ipv4/conf/cni0/forwarding", "0")],
                &[Error; 2],
            ),
            (false, &[("net/ipv4/conf/eth0/forwarding", "0")], &[Well]),
            (true, &[("net/ipv4/ip_forward", "0")], &[Well]),
            (true, &[("net/ipv6/conf/all/forwarding", "0")], &[Error]),
            (true, &[("net/ipv6/conf/flannel.1/forwarding", "0")], &[Well]),
        ] {
            let found = forwarding(&[interfaces(v6)], &settings(values));
            assert_eq!(found.iter().map(|one| one.level).collect::<Vec<_>>(), expected, "{values:?}");
        }
        assert!(interfaces(false).settings().contains(&"net/ipv4/ip_forward".to_owned()));
    }

    #[test]
    fn a_strict_filter_matters_if_packets_may_come_by_another_way() {
        use Level::{Note, Ok as Well, Warning};
        let (all, device) = ("net/ipv4/conf/all/rp_filter", "net/ipv4/conf/flannel.1/rp_filter");
        for (values, has_direct, expected) in [
            (&[(all, "0"), (device, "0")][..], true, Well),
            (&[(all, "0"), (device, "1")], false, Note),
            (&[(all, "0"), (device, "1")], true, Warning),
            (&[(all, "1"), (device, "0")], true, Warning),
            (&[(all, "1"), (device, "2")], true, Warning),
            (&[(all, "2"), (device, "1")], true, Well),
        ] {
            let found = reverse_path(&[interfaces(false)], &settings(values), has_direct);
            assert_eq!(found[0].level, expected, "{values:?}: {found:?}");
            assert_eq!(reverse_path(&[interfaces(true)], &settings(values), has_direct)[0].level, Well);
        }
        let loose = reverse_path(&[interfaces(false)], &settings(&[(all, "1"), (device, "2")]), true);
        assert!(!loose[0].found.contains("flannel.1"), "{loose:?}");
    }

    #[test]
    fn packets_that_iptables_does_not_see_matter_with_services() {
        let missing = [("it is 0".to_owned(), "sysctl".to_owned())];
        assert_eq!(bridged(&missing, true)[0].level, Level::Warning);
        assert_eq!(bridged(&missing, false)[0].level, Level::Note);
        assert_eq!(bridged(&[], true)[0].level, Level::Ok);
    }

    #[test]
    fn a_machine_without_an_id_or_a_clock_is_noted() {
        for (text, expected) in [
            (Some("0123456789abcdef\n"), Level::Ok),
            (Some("\n"), Level::Note),
            (Some("uninitialized\n"), Level::Note),
            (None, Level::Note),
        ] {
            assert_eq!(machine_id(text).level, expected, "{text:?}");
        }
        assert_eq!(clock(Ok(true)).level, Level::Ok);
        assert_eq!(clock(Ok(false)).level, Level::Note);
        assert_eq!(clock(Err("EPERM".to_owned())).level, Level::Note);
    }
}
