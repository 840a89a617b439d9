//! Programs that configure interfaces: whether they leave flannel's alone, by their files. Pure.

use crate::check::model::{Check, Finding};

/// A file of settings: its path, and its text.
pub(in crate::check) type File = (String, String);

/// What is known of such a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::check) struct Manager {
    /// Whether it runs in this network namespace.
    pub(in crate::check) runs: bool,
    /// Its files, in the order in which they count.
    pub(in crate::check) files: Vec<File>,
}

/// An interface, as systemd-networkd and NetworkManager match it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::check) struct Managed {
    pub(in crate::check) name: String,
    /// `Type=` and `Kind=` of a .network file.
    pub(in crate::check) types: [&'static str; 2],
}

impl Managed {
    /// Returns the node's end of any pod's interface.
    pub(in crate::check) fn of_pods() -> Self {
        Self { name: "veth0a1b2c3d".to_owned(), types: ["ether", "veth"] }
    }
}

/// The sections of a text, each with its name and its assignments.
type Sections<'a> = Vec<(&'a str, Vec<(&'a str, &'a str)>)>;

fn sections(text: &str) -> Sections<'_> {
    let mut sections = Sections::new();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    for line in lines {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            sections.push((name, Vec::new()));
        } else if let Some(((_, assignments), (key, value))) = sections.last_mut().zip(line.split_once('=')) {
            assignments.push((key.trim_end(), value.trim()));
        }
    }
    sections
}

/// Judges whether NetworkManager leaves these interfaces alone.
pub(in crate::check) fn network_manager(manager: &Manager, interfaces: &[Managed]) -> Finding {
    if !manager.runs {
        return Check::NetworkManager.ok("does not run");
    }
    let specs = unmanaged(&manager.files);
    let is_left = |name: &str| specs.iter().any(|spec| is_spec_of(spec, name));
    let managed: Vec<_> =
        interfaces.iter().map(|interface| interface.name.as_str()).filter(|name| !is_left(name)).collect();
    if managed.is_empty() {
        return Check::NetworkManager.ok("runs, and leaves the agent's devices alone");
    }
    Check::NetworkManager.warning(
        format!("runs, and nothing tells it to leave {} alone: it may take addresses and routes away", managed.join(", ")),
        "write to /etc/NetworkManager/conf.d/flannel.conf, and systemctl reload NetworkManager:\n[keyfile]\n\
         unmanaged-devices+=interface-name:flannel.*;interface-name:flannel-v6.*;interface-name:flannel0;interface-name:cni0",
    )
}

/// Returns what NetworkManager leaves alone: `interface-name:flannel.*`.
fn unmanaged(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    let split = |list: &str| -> Vec<String> {
        list.split([';', ',']).map(str::trim).filter(|spec| !spec.is_empty()).map(str::to_owned).collect()
    };
    let mut of_devices = Vec::new();
    for (_, text) in files {
        for (section, assignments) in sections(text) {
            if section == "keyfile" {
                for (key, value) in &assignments {
                    match *key {
                        "unmanaged-devices" => found = split(value),
                        "unmanaged-devices+" => found.extend(split(value)),
                        _ => {}
                    }
                }
            }
            let value =
                |name: &str| assignments.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
            if section.starts_with("device") && matches!(value("managed"), Some("0" | "false" | "no")) {
                of_devices.extend(value("match-device").map(split).unwrap_or_default());
            }
        }
    }
    found.append(&mut of_devices);
    found
}

fn is_spec_of(spec: &str, name: &str) -> bool {
    let pattern = spec.strip_prefix("interface-name:").or_else(|| (spec == "*").then_some("*"));
    pattern.is_some_and(|pattern| is_match(pattern.trim_start_matches('='), name))
}

/// Judges whether systemd-networkd leaves these interfaces alone. `settings`: its own files. `has_direct`: whether some peers have routes
/// at the uplink.
pub(in crate::check) fn networkd(
    manager: &Manager,
    settings: &[File],
    interfaces: &[Managed],
    has_direct: bool,
) -> Vec<Finding> {
    if !manager.runs {
        return vec![Check::Networkd.ok("does not run")];
    }
    let mut findings = Vec::new();
    for interface in interfaces {
        let first = manager.files.iter().find(|(_, text)| matches(&sections(text), interface));
        let Some((path, _)) = first.filter(|(_, text)| !is_unmanaged(&sections(text))) else { continue };
        findings.push(Check::Networkd.warning(
            format!("runs, and {path} matches {}: it may take addresses and routes away", interface.name),
            "make that file's [Match] narrower, or write to /etc/systemd/network/10-flannel.network, and networkctl reload:\n[Match]\n\
             Name=flannel.* flannel-v6.* flannel0 cni0\n[Link]\nUnmanaged=yes",
        ));
    }
    if has_direct && !keeps_foreign_routes(settings) {
        findings.push(Check::Networkd.note(
            "runs, and may remove routes of others at the uplink when it starts, those to other nodes among them",
            "nothing while the agent runs, which writes them again. To keep them: ManageForeignRoutes=no (and \
             ManageForeignRoutingPolicyRules=no for rules) in [Network] of /etc/systemd/networkd.conf",
        ));
    }
    if findings.is_empty() {
        findings.push(Check::Networkd.ok("runs, and leaves the agent's devices alone"));
    }
    findings
}

fn matches(sections: &Sections<'_>, interface: &Managed) -> bool {
    let mut of_match = sections.iter().filter(|(name, _)| *name == "Match").peekable();
    // Files without the section match nothing since systemd 245.
    of_match.peek().is_some()
        && of_match.all(|(_, assignments)| {
            !assignments.is_empty()
                && assignments.iter().all(|(key, value)| match *key {
                    "Name" => is_among(value, &[&interface.name]),
                    "Type" | "Kind" => is_among(value, &interface.types),
                    // An address or a driver of hardware.
                    _ => false,
                })
        })
}

/// Returns whether a list of patterns has one of these words. `!` before the first one turns the answer round.
fn is_among(list: &str, words: &[&str]) -> bool {
    let (list, negated) = list.strip_prefix('!').map_or((list, false), |list| (list, true));
    let found = list.split_whitespace().any(|pattern| words.iter().any(|word| is_match(pattern, word)));
    found != negated
}

fn is_unmanaged(sections: &Sections<'_>) -> bool {
    let mut of_link =
        sections.iter().filter(|(name, _)| *name == "Link").flat_map(|(_, assignments)| assignments);
    of_link.rfind(|(key, _)| *key == "Unmanaged").is_some_and(|(_, value)| is_yes(value))
}

fn keeps_foreign_routes(settings: &[File]) -> bool {
    let values = settings.iter().flat_map(|(_, text)| sections(text)).filter(|(name, _)| *name == "Network");
    let mut values =
        values.flat_map(|(_, assignments)| assignments).filter(|(key, _)| *key == "ManageForeignRoutes");
    values.next_back().is_some_and(|(_, value)| !is_yes(value))
}

fn is_yes(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "yes" | "true" | "1" | "on")
}

/// Returns whether a name has the form of a pattern with `*` and `?`.
fn is_match(pattern: &str, name: &str) -> bool {
    match (pattern.chars().next(), name.chars().next()) {
        (None, None) => true,
        (Some('*'), first) => {
            let rest = &pattern[1..];
            is_match(rest, name) || first.is_some_and(|first| is_match(pattern, &name[first.len_utf8()..]))
        }
        (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
            is_match(&pattern[wanted.len_utf8()..], &name[found.len_utf8()..])
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::model::Level;

    /// What the packages install.
    const NETWORK_MANAGER: &str = include_str!("../../../../deploy/network/flannel.conf");
    const NETWORKD: &str = include_str!("../../../../deploy/network/10-flannel.network");

    fn interfaces() -> [Managed; 3] {
        let managed = |name: &str, types| Managed { name: name.to_owned(), types };
        [managed("flannel.1", ["vxlan", "vxlan"]), managed("cni0", ["bridge", "bridge"]), Managed::of_pods()]
    }

    fn manager(runs: bool, texts: &[&str]) -> Manager {
        let files = texts.iter().enumerate().map(|(number, text)| (format!("/{number}"), (*text).to_owned()));
        Manager { runs, files: files.collect() }
    }

    #[test]
    fn network_manager_is_to_be_told_which_devices_are_not_its_own() {
        const SOME: &str = "[keyfile]\nunmanaged-devices=interface-name:cni0;mac:02:00:00:00:00:07\n";
        for (runs, files, expected) in [
            (false, &[][..], Level::Ok),
            (true, &[], Level::Warning),
            (true, &[NETWORK_MANAGER], Level::Ok),
            (true, &[SOME], Level::Warning),
            (true, &[SOME, NETWORK_MANAGER], Level::Ok),
            (true, &[NETWORK_MANAGER, SOME], Level::Warning),
            (true, &["[keyfile]\nunmanaged-devices=*\n"], Level::Ok),
            (
                true,
                &["[device-x]\nmatch-device=interface-name:flannel*,interface-name:cni?\nmanaged=0\n"],
                Level::Ok,
            ),
        ] {
            let found = network_manager(&manager(runs, files), &interfaces()[..2]);
            assert_eq!(found.level, expected, "{files:?}: {found:?}");
        }
        let found = network_manager(&manager(true, &[SOME]), &interfaces()[..2]);
        assert!(found.found.contains("leave flannel.1 alone"), "{found:?}");
    }

    #[test]
    fn the_first_file_that_matches_a_device_decides_for_networkd() {
        const ALL: &str = "[Match]\nName=*\n[Network]\nDHCP=yes\n";
        const WIRED: &str = "[Match]\nName=en*\nName=eth*\n[Network]\nDHCP=yes\n";
        for (files, expected) in [
            (&[][..], &[Level::Ok][..]),
            (&[WIRED], &[Level::Ok]),
            (&[ALL], &[Level::Warning; 3]),
            (&[NETWORKD, ALL], &[Level::Warning]),
            (&[NETWORKD, WIRED], &[Level::Ok]),
            (&["[Match]\nType=ether\n"], &[Level::Warning]),
            (&["[Match]\nKind=!veth\n"], &[Level::Warning; 2]),
            (&["[Match]\nDriver=virtio_net\n"], &[Level::Ok]),
            (&["[Network]\nDHCP=yes\n"], &[Level::Ok]),
        ] {
            let found = networkd(&manager(true, files), &[], &interfaces(), false);
            assert_eq!(
                found.iter().map(|one| one.level).collect::<Vec<_>>(),
                expected,
                "{files:?}: {found:?}"
            );
        }
        assert_eq!(networkd(&manager(false, &[ALL]), &[], &interfaces(), true)[0].level, Level::Ok);
    }

    #[test]
    fn routes_at_the_uplink_are_kept_by_a_setting() {
        let note = |settings: &str, has_direct| {
            let settings = [("/networkd.conf".to_owned(), settings.to_owned())];
            networkd(&manager(true, &[]), &settings, &interfaces(), has_direct)[0].level
        };
        assert_eq!(note("", true), Level::Note);
        assert_eq!(note("", false), Level::Ok);
        assert_eq!(note("[Network]\nManageForeignRoutes=no\n", true), Level::Ok);
        assert_eq!(note("[Network]\n#ManageForeignRoutes=no\nManageForeignRoutes=yes\n", true), Level::Note);
    }
}
