//! Programs that an earlier agent of this network has left with pins out of sight: beneath a BPF filesystem that was mounted over
//! theirs. Nobody keeps their maps up to date, and they drop what does not have their note, or strip what only they know how to
//! deliver.
//!
//! On clsact there are none: the agent's filters replace them, which have the same priority and handle.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context as _, Result};
use aya::maps::{MapInfo, MapType, loaded_maps};
use aya::programs::{ProgramInfo, loaded_links, loaded_programs};
use flannel_common::abi;
use flannel_common::outcome::Hook;
use nix::net::if_::if_nameindex;
use tracing::{debug, warn};

use super::link::Link;
use super::pins::Pins;
use super::syscall::bpf;
use super::{Bpf, attach, tcx, xdp};
use crate::dataplane::kernel::Kernel;
use crate::dataplane::obstacle::Direction;

/// include/uapi/linux/bpf.h: `enum bpf_cmd`.
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
/// Bytes of a name that the kernel keeps.
const NAME: usize = 15;

/// A program on a hook of an interface.
#[derive(Clone, Copy)]
struct Attached {
    interface: u32,
    program: u32,
    /// ID of its link; `None` for XDP, where the kernel does not tell it.
    link: Option<u32>,
}

impl Bpf {
    /// Detaches them from this node's interfaces. To be called before the agent's own programs are attached: until then the floor
    /// carries what they did. Returns what may be such a program and cannot be identified.
    ///
    /// # Errors
    /// The kernel does not say what is attached, or does not detach it.
    pub async fn detach_strays(&self, kernel: &Kernel) -> Result<Vec<String>> {
        let uplink = xdp::ifindex(self.config.node());
        let xdp = kernel.xdp_program(uplink).await.context("asking for the uplink's XDP program")?;
        let xdp = xdp.map(|program| Attached { interface: uplink, program, link: None });
        let mut attached: Vec<_> = xdp.into_iter().chain(on_tcx()?).collect();
        attached.retain(|attached| !self.ids.contains(&attached.program));
        let unknown = detach_from(&self.pins, attached)?.into_iter();
        // Others have no programs there.
        let overlays = self.own_interfaces();
        Ok(unknown
            .filter(|it| it.link.is_some() && overlays.contains(&it.interface))
            .map(described)
            .collect())
    }
}

/// Detaches those of tcx, when no programs are wanted.
pub(super) fn detach_all(pins: &Pins) {
    let detached = on_tcx().and_then(|attached| detach_from(pins, attached));
    if let Err(error) = detached {
        debug!("programs of an earlier agent may be left: {error:#}");
    }
}

/// Detaches those of these programs that are an earlier agent's of this network, and whose pins are out of sight. Returns the programs
/// that cannot be identified, which takes `CAP_SYS_ADMIN`.
fn detach_from(pins: &Pins, mut attached: Vec<Attached>) -> Result<Vec<Attached>> {
    let pinned = tcx::pinned_programs(pins);
    attached.retain(|attached| !pinned.contains(&attached.program));
    if attached.is_empty() {
        return Ok(Vec::new());
    }
    let of_this_network = match programs(pins.vni()) {
        Ok(programs) => programs,
        Err(error) => {
            debug!("programs cannot be identified: {error:#}");
            return Ok(attached);
        }
    };
    let hook = |attached: Attached| Some((*of_this_network.get(&attached.program)?, attached));
    let mut strays: Vec<_> = attached.into_iter().filter_map(hook).collect();
    strays.sort_by_key(|(hook, _)| turn(*hook));
    for (hook, Attached { interface, program, link }) in strays {
        let Some(link) = link.or_else(|| link_of(program)) else { continue };
        let Some(link) = unless_gone(Link::by_id(link))? else { continue };
        link.detach().context("detaching a program of an earlier agent")?;
        if hook == Hook::UnderlayXdp {
            xdp::wait_for_its_packets();
        }
        let (interface, program) = (name(interface), hook.program());
        warn!(interface, program, "detached a program of an earlier agent, whose pin is out of sight");
    }
    Ok(Vec::new())
}

/// Returns when a program is to be detached, so that no other loses packets. What XDP has stripped only `underlay_ingress` can
/// deliver. What nothing has checked `overlay_ingress` drops.
const fn turn(hook: Hook) -> u8 {
    match hook {
        Hook::UnderlayXdp => 0,
        Hook::OverlayIngress => 1,
        _ => 2,
    }
}

fn described(Attached { interface, program, .. }: Attached) -> String {
    let interface = name(interface);
    format!(
        "the program {program} on {interface} may be an earlier agent's, whose pin is out of sight, and drop packets: without \
         CAP_SYS_ADMIN the agent cannot tell. Start it once with that capability, or start the node again"
    )
}

fn name(interface: u32) -> String {
    attach::interface_name(interface).unwrap_or_else(|| interface.to_string())
}

/// Lists what tcx runs on this node's interfaces.
fn on_tcx() -> Result<Vec<Attached>> {
    let mut attached = Vec::new();
    for interface in &if_nameindex().context("listing interfaces")? {
        let interface = interface.index();
        for direction in [Direction::Ingress, Direction::Egress] {
            let queried =
                tcx::query(interface, direction).context("asking what tcx runs")?.unwrap_or_default();
            attached.extend(queried.into_iter().map(|(program, link)| Attached {
                interface,
                program,
                link: Some(link),
            }));
        }
    }
    Ok(attached)
}

/// Returns the hooks of all loaded programs of the network with this VNI, by program ID: by their names and `CONFIG`.
fn programs(vni: u32) -> Result<BTreeMap<u32, Hook>> {
    let mut configs = BTreeSet::new();
    for map in loaded_maps() {
        let Some(map) = unless_gone(map)? else { continue };
        if map.name_as_str() == Some(abi::CONFIG) && vni_in(&map) == Some(vni) {
            configs.insert(map.id());
        }
    }
    let mut programs = BTreeMap::new();
    for program in loaded_programs() {
        let Some(program) = unless_gone(program)? else { continue };
        let Some(hook) = hook_of(&program) else { continue };
        let maps = unless_gone(program.map_ids())?.flatten().unwrap_or_default();
        if maps.iter().any(|map| configs.contains(map)) {
            programs.insert(program.id(), hook);
        }
    }
    Ok(programs)
}

/// Returns `None` if what was asked for has gone since its ID was listed.
fn unless_gone<T, E: Into<anyhow::Error>>(asked: Result<T, E>) -> Result<Option<T>> {
    let error = match asked {
        Ok(found) => return Ok(Some(found)),
        Err(error) => error.into(),
    };
    let is_gone = |cause: &io::Error| cause.kind() == io::ErrorKind::NotFound;
    if error.chain().any(|cause| cause.downcast_ref().is_some_and(is_gone)) { Ok(None) } else { Err(error) }
}

fn hook_of(program: &ProgramInfo) -> Option<Hook> {
    let is_its = |hook: &Hook| {
        let name = hook.program().as_bytes();
        program.name() == &name[..name.len().min(NAME)]
    };
    Hook::ALL.iter().copied().find(is_its)
}

/// Reads the VNI in a `CONFIG` of any layout.
fn vni_in(map: &MapInfo) -> Option<u32> {
    /// `union bpf_attr` as `BPF_MAP_LOOKUP_ELEM` reads it.
    #[repr(C)]
    struct Lookup {
        map: u32,
        reserved: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let file = map.fd().ok()?;
    let (key, mut value) = (0_u32, vec![0_u8; map.value_size() as usize]);
    let mut lookup = Lookup {
        map: file.as_fd().as_raw_fd().cast_unsigned(),
        reserved: 0,
        key: (&raw const key) as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    if !matches!(map.map_type(), Ok(MapType::Array)) {
        return None;
    }
    // SAFETY: of an array, the command reads a key of four bytes and writes a value of the map's size. Both live through the call,
    // and so does the map's file.
    unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut lookup) }.ok()?;
    let vni = value.get(VNI_AT..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*vni))
}

/// Where the VNI is in `CONFIG`, after the layout, whatever that is.
const VNI_AT: usize = std::mem::offset_of!(flannel_common::node::NodeConfig, vni);
const _: () = assert!(VNI_AT == 4);

/// Returns the ID of the link that attaches a program of XDP.
fn link_of(program: u32) -> Option<u32> {
    loaded_links().flatten().find(|link| link.program_id() == program).map(|link| link.id())
}

#[cfg(test)]
mod tests {
    use aya::maps::MapError;
    use aya::sys::SyscallError;

    use super::*;

    #[test]
    fn what_has_gone_since_it_was_listed_is_no_error() {
        let gone = |errno| io::Error::from_raw_os_error(errno);
        let of_map = |errno| MapError::SyscallError(SyscallError { call: "bpf", io_error: gone(errno) });
        assert!(unless_gone(Err::<(), _>(gone(libc::ENOENT))).is_ok_and(|found| found.is_none()));
        assert!(unless_gone(Err::<(), _>(of_map(libc::ENOENT))).is_ok_and(|found| found.is_none()));
        assert!(unless_gone(Err::<(), _>(of_map(libc::EPERM))).is_err());
        assert!(unless_gone(Ok::<_, io::Error>(())).is_ok_and(|found| found.is_some()));
    }
}
