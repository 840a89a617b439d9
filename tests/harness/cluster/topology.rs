//! The shapes an underlay can have.

const ETHERNET_MTU: u32 = 1500;

/// What joins the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Medium {
    /// Switches, with a router between them.
    Switched,
    /// A cable between two nodes.
    Cable,
    /// Two network cards of this machine's, which are on one segment already.
    Cards,
}

/// The shape of an underlay.
#[derive(Debug, Clone)]
pub struct Topology {
    pub(super) segments: Vec<usize>,
    pub(super) medium: Medium,
    pub(super) mtu: u32,
}

impl Topology {
    /// Two nodes with one cable between them and no switch.
    pub fn two_nodes() -> Self {
        Self { segments: vec![2], medium: Medium::Cable, mtu: ETHERNET_MTU }
    }

    /// Two nodes, each with a network card of virtio-net that this machine has: the one that `cargo xtask vm` makes.
    pub fn two_cards() -> Self {
        Self { segments: vec![2], medium: Medium::Cards, mtu: ETHERNET_MTU }
    }

    /// `n` nodes on one L2 segment.
    pub fn segment(n: usize) -> Self {
        Self::routed(&[n])
    }

    /// Two nodes on different segments, with a router between.
    pub fn two_nodes_routed() -> Self {
        Self::routed(&[1, 1])
    }

    /// As many segments as numbers are given, each with that many nodes, and a router between them.
    pub fn routed(nodes_per_segment: &[usize]) -> Self {
        Self { segments: nodes_per_segment.to_vec(), medium: Medium::Switched, mtu: ETHERNET_MTU }
    }

    /// The MTU of the underlay.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// The segment of each node, and its place (from 1) there.
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, usize)> {
        let segments = self.segments.iter().enumerate();
        segments.flat_map(|(segment, nodes)| (1..=*nodes).map(move |place| (segment, place)))
    }
}
