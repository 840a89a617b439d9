//! What the kernel says to system calls. These calls block.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use aya::programs::{ProgramType, loaded_programs};
use aya::sys::is_program_supported;

use crate::check::judge::kernel::{BpffsFacts, KernelFacts, mounted_at};
use crate::check::judge::others::{Daemon, ForeignProgram};
use crate::cleanup::others::{daemons, is_same_file};
use crate::dataplane::bpf::pins::{Pins, is_bpffs};
use crate::dataplane::bpf::tcx;
use crate::dataplane::obstacle::Direction;
use crate::netlink::link::Link;
use crate::paths::Paths;
use crate::status::model::NetworkStatus;
use crate::subnet_file;

/// Index of the interface `lo` in each network namespace.
const LOOPBACK: u32 = 1;

/// Asks the kernel what it has for the programs. It takes small ones and throws them away.
pub(in crate::check) fn kernel() -> KernelFacts {
    let takes =
        |kind| is_program_supported(kind).map_err(|error| format!("{:#}", anyhow::Error::from(error)));
    let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok();
    KernelFacts {
        classifier: takes(ProgramType::SchedClassifier),
        xdp: takes(ProgramType::Xdp),
        tcx: tcx::query(LOOPBACK, Direction::Ingress)
            .map(|found| found.is_some())
            .map_err(|error| error.to_string()),
        jit: jit.map(|text| text.trim().to_owned()),
    }
}

/// Looks at the filesystem of the pins.
pub(in crate::check) fn bpffs(path: &Path) -> BpffsFacts {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The kernel lists mounts by their real paths.
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    BpffsFacts { path: path.to_owned(), is_bpffs: is_bpffs(path), mounted: mounted_at(&real, &mounts) }
}

/// Returns the capabilities that a process uses, one bit for each.
pub(in crate::check) fn capabilities(pid: i32) -> Option<u64> {
    crate::dataplane::capabilities::effective(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// Lists the daemons of this network namespace, and which of them serve this network.
pub(in crate::check) fn agents(paths: &Paths, network: &NetworkStatus) -> Result<Vec<Daemon>, String> {
    let own = network.subnet_file.as_ref().unwrap_or(&paths.subnet_file);
    let serves = |file: &Path| {
        let networks = subnet_file::read_networks(file);
        is_same_file(file, own) || networks.iter().any(|net| network.prefixes.contains(&net.to_string()))
    };
    let found = daemons().map_err(|error| format!("{error:#}"))?;
    let daemon = |daemon: crate::cleanup::others::Daemon| Daemon {
        pid: daemon.pid,
        is_same_network: serves(&daemon.subnet_file),
        name: daemon.name,
    };
    Ok(found.into_iter().map(daemon).collect())
}

/// Lists the programs on these interfaces that no agent has pinned.
pub(in crate::check) fn foreign_programs(
    bpffs: &Path,
    links: &[Link],
) -> Result<Vec<ForeignProgram>, String> {
    let pinned = tcx::pinned_programs(&Pins::new(bpffs, 0));
    let mut found = BTreeSet::new();
    for link in links {
        for (direction, hook) in [(Direction::Ingress, "tcx ingress"), (Direction::Egress, "tcx egress")] {
            let ids =
                tcx::query(link.index, direction).map_err(|error| error.to_string())?.unwrap_or_default();
            found.extend(ids.into_iter().map(|(id, _)| (link.name.clone(), hook, id)));
        }
        found.extend(link.xdp_program.map(|id| (link.name.clone(), "XDP", id)));
    }
    found.retain(|(_, _, id)| !pinned.contains(id));
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let named = |program: aya::programs::ProgramInfo| Some((program.id(), program.name_as_str()?.to_owned()));
    let names: BTreeMap<_, _> = loaded_programs().filter_map(Result::ok).filter_map(named).collect();
    let program = |(interface, hook, id): (String, &'static str, u32)| ForeignProgram {
        interface,
        hook,
        name: names.get(&id).cloned(),
    };
    Ok(found.into_iter().map(program).collect())
}
