//! The capabilities of a process, and which of them the agent misses.

use std::fs;

/// Numbers of capabilities (`include/uapi/linux/capability.h`). `CAP_BPF` and `CAP_PERFMON` exist since Linux 5.8.
/// For iptables of the legacy kind.
pub(crate) const NET_RAW: u32 = 13;
/// For devices, routes, firewall rules and attaching programs.
pub(crate) const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// Returns the capabilities that the programs need and this process lacks, as words; `None` if it lacks none.
pub(super) fn missing_for_bpf() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    missing(effective(&status)?)
}

/// Reads the set of effective capabilities, one bit for each.
pub(crate) fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Returns the capabilities for the programs that a set lacks, as words. `CAP_SYS_ADMIN` includes the others.
pub(crate) fn missing(set: u64) -> Option<String> {
    let has = |capability| has(set, capability);
    if has(SYS_ADMIN) {
        return None;
    }
    let needed = [(BPF, "CAP_BPF"), (PERFMON, "CAP_PERFMON")];
    let missing: Vec<_> =
        needed.into_iter().filter(|(number, _)| !has(*number)).map(|(_, name)| name).collect();
    (!missing.is_empty()).then(|| missing.join(" and "))
}

/// Returns whether a set has a capability.
pub(crate) const fn has(set: u64, capability: u32) -> bool {
    set & (1 << capability) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capabilities_that_bpf_lacks_are_named() {
        for (set, expected) in [
            ("0000000000003000", Some("CAP_BPF and CAP_PERFMON")),
            ("0000008000003000", Some("CAP_PERFMON")),
            ("0000004000003000", Some("CAP_BPF")),
            ("000000c000003000", None),
            ("0000000000203000", None),
            ("000001ffffffffff", None),
        ] {
            let status = format!("Name:\tflannel-agent\nCapEff:\t{set}\nCapBnd:\t0\n");
            assert_eq!(missing(effective(&status).unwrap()).as_deref(), expected, "{set}");
        }
        assert_eq!(effective("Name:\tflannel-agent\n"), None);
    }
}
