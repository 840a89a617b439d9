//! Where the node's own hooks are; the pods' are found in `ports`.

use flannel_common::node::NodeConfig;
use flannel_common::outcome::Hook;

/// Unwrap before wrapping: peers may send as soon as they can.
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
    /// The hooks of one family's overlay. `direct`: some of its peers have direct routes, whose packets are seen where
    /// they leave.
    pub fn of(overlay: &str, uplink: &str, v6: bool, direct: bool) -> impl Iterator<Item = Self> {
        let wanted = HOOKS.into_iter().filter(move |hook| direct || *hook != Hook::UnderlayEgress);
        wanted.map(move |hook| {
            let interface = if is_uplinks(hook) { uplink } else { overlay };
            Self { hook, interface: interface.to_owned(), v6 }
        })
    }

    /// Whether the other is the same hook of the same interface: that of an uplink of both families.
    #[must_use]
    pub fn is_same_hook(&self, other: &Self) -> bool {
        (self.hook, &self.interface) == (other.hook, &other.interface)
    }

    /// Name of the pin of its link.
    pub(super) fn link(&self) -> String {
        link_name(self.hook, self.v6)
    }

    /// ifindex of its interface, by these facts.
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

/// The pins of links at all places but these.
pub(super) fn other_links(places: &[Place]) -> impl Iterator<Item = String> {
    let all = HOOKS.into_iter().flat_map(|hook| [false, true].map(|v6| link_name(hook, v6)));
    all.filter(|link| places.iter().all(|place| place.link() != *link))
}

fn link_name(hook: Hook, v6: bool) -> String {
    format!("{}{}", super::attach::link_name(hook), if v6 { "6" } else { "" })
}
