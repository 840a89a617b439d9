//! The node's own hooks and their interfaces. Those of the pods are in `ports`.

use flannel_common::node::NodeConfig;
use flannel_common::outcome::Hook;

use super::pins::link_name;

/// In the order in which they are attached. Decapsulation comes first: peers may send as soon as they can.
const HOOKS: [Hook; 4] =
    [Hook::UnderlayIngress, Hook::OverlayIngress, Hook::OverlayEgress, Hook::UnderlayEgress];

/// A hook on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) hook: Hook,
    pub(super) interface: String,
    v6: bool,
}

impl Place {
    /// Returns the hooks of one family: on its overlay, if there is one, and on the uplink. `direct`: peers may have direct routes, and
    /// their packets are seen where they leave.
    pub fn of(overlay: Option<&str>, uplink: &str, v6: bool, direct: bool) -> impl Iterator<Item = Self> {
        let wanted = HOOKS.into_iter().filter(move |hook| direct || *hook != Hook::UnderlayEgress);
        wanted.filter_map(move |hook| {
            let interface = if is_uplinks(hook) { uplink } else { overlay? };
            Some(Self { hook, interface: interface.to_owned(), v6 })
        })
    }

    /// Returns whether the other place is the same hook of the same interface. Both families may have one uplink.
    #[must_use]
    pub fn is_same_hook(&self, other: &Self) -> bool {
        (self.hook, &self.interface) == (other.hook, &other.interface)
    }

    /// Returns the name of its link's pin.
    pub(super) fn link(&self) -> String {
        link_name(self.hook, family_suffix(self.v6))
    }

    /// Returns the index of its interface on this node.
    pub(super) const fn index(&self, node: &NodeConfig) -> u32 {
        let NodeConfig { v4, v6, .. } = node;
        let (overlay, uplink) = if self.v6 {
            (v6.overlay_ifindex, v6.uplink_ifindex)
        } else {
            (v4.overlay_ifindex, v4.uplink_ifindex)
        };
        if is_uplinks(self.hook) { uplink } else { overlay }
    }
}

const fn is_uplinks(hook: Hook) -> bool {
    matches!(hook, Hook::UnderlayIngress | Hook::UnderlayEgress)
}

/// Returns the names of links' pins at all places but these.
pub(super) fn other_links(places: &[Place]) -> impl Iterator<Item = String> {
    let all = HOOKS.into_iter().flat_map(|hook| [false, true].map(|v6| link_name(hook, family_suffix(v6))));
    all.filter(|link| places.iter().all(|place| place.link() != *link))
}

const fn family_suffix(v6: bool) -> &'static str {
    if v6 { "6" } else { "" }
}
