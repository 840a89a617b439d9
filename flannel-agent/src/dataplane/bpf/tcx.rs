//! What tcx runs on interfaces (Linux 6.6). The kernel tells the programs' IDs to those with `CAP_NET_ADMIN`; opening a
//! program by its ID takes `CAP_SYS_ADMIN`.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use flannel_common::node::XDP_OFF;

use super::Bpf;
use super::link::Link;
use super::pins::Pins;
use super::syscall::bpf;
use crate::dataplane::obstacle::{Direction, Program, Role};

/// include/uapi/linux/bpf.h: `enum bpf_cmd`.
const BPF_PROG_QUERY: libc::c_int = 16;
/// `enum bpf_attach_type`.
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// The kernel runs no more than these on one hook (linux/bpf_mprog.h: `BPF_MPROG_MAX`).
const MAX_PROGRAMS: usize = 64;

/// Programs by the index of the interface and direction, in the order in which they run.
pub type TcxPrograms = BTreeMap<(u32, Direction), Vec<Program>>;

/// `union bpf_attr` as `BPF_PROG_QUERY` reads and writes it.
#[repr(C)]
#[derive(Default)]
struct QueryAttributes {
    interface: u32,
    kind: u32,
    flags: [u32; 2],
    programs: u64,
    count: u32,
    reserved: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// Returns the IDs of the programs on a hook, each with that of its link; `None` if the kernel has no tcx.
pub(crate) fn query(interface: u32, direction: Direction) -> io::Result<Option<Vec<(u32, u32)>>> {
    let kind = match direction {
        Direction::Ingress => BPF_TCX_INGRESS,
        Direction::Egress => BPF_TCX_EGRESS,
    };
    let (mut programs, mut links) = ([0_u32; MAX_PROGRAMS], [0_u32; MAX_PROGRAMS]);
    let mut attributes = QueryAttributes {
        interface,
        kind,
        programs: programs.as_mut_ptr() as u64,
        links: links.as_mut_ptr() as u64,
        count: MAX_PROGRAMS as u32,
        ..QueryAttributes::default()
    };
    // SAFETY: the command writes at most `count` numbers to each of `programs` and `links`, which live through the call, and
    // the rest within the attributes.
    match unsafe { bpf(BPF_PROG_QUERY, &mut attributes) } {
        Ok(_) => Ok(Some(programs.into_iter().zip(links).take(attributes.count as usize).collect())),
        Err(error) => match error.raw_os_error() {
            Some(libc::EINVAL) => Ok(None),
            // The interface has just gone.
            Some(libc::ENODEV) => Ok(Some(Vec::new())),
            _ => Err(error),
        },
    }
}

impl Bpf {
    /// Returns what tcx runs on these interfaces, as far as it is anything.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn tcx_programs(&self, interfaces: impl IntoIterator<Item = u32>) -> io::Result<TcxPrograms> {
        let pinned = LazyCell::new(|| pinned_programs(&self.pins));
        let program = |id: u32| {
            if self.ids.contains(&id) || pinned.contains(&id) { Program::Ours } else { Program::Tcx }
        };
        let mut found = TcxPrograms::new();
        for interface in interfaces {
            for direction in [Direction::Ingress, Direction::Egress] {
                let Some(ids) = query(interface, direction)? else { return Ok(found) };
                if !ids.is_empty() {
                    found
                        .insert((interface, direction), ids.into_iter().map(|(id, _)| program(id)).collect());
                }
            }
        }
        Ok(found)
    }

    /// Returns the vxlan devices and uplinks of this node, by index.
    #[must_use]
    pub fn interfaces(&self) -> Vec<(u32, Role)> {
        let node = self.config.node();
        let uplink = Role::Uplink { xdp: node.xdp != XDP_OFF };
        let of_family = |overlay, index| [(overlay, Role::Overlay), (index, uplink)];
        let interfaces = [
            of_family(node.v4.overlay_ifindex, node.v4.uplink_ifindex),
            of_family(node.v6.overlay_ifindex, node.v6.uplink_ifindex),
        ];
        // 0: the network does not have the family, or packets have no tunnel.
        interfaces.into_iter().flatten().filter(|(index, _)| *index != 0).collect()
    }
}

/// Returns the IDs of the programs of an agent that has just been replaced, and of those of other networks.
pub(crate) fn pinned_programs(pins: &Pins) -> BTreeSet<u32> {
    pins.all_overlays().flat_map(|pins| linked(&pins)).collect()
}

/// Returns the IDs of the programs under pinned links.
fn linked(pins: &Pins) -> Vec<u32> {
    let links = pins.names().into_iter().filter(|name| name.contains("_link"));
    links
        .filter_map(|name| Some(Link::pinned(&pins.path(&name)).and_then(|link| link.attachment()).ok()?.1))
        .collect()
}
