//! Topologies of the underlay.

const ETHERNET_MTU: u32 = 1500;

/// What joins the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Medium {
    /// A switch for each segment, and a router between them.
    Switched,
    /// A veth pair between two nodes.
    Cable,
    /// Two network cards of this machine that are on one segment.
    Cards,
}

/// Number of nodes on each segment, and what joins them.
#[derive(Debug, Clone)]
pub struct Topology {
    pub(super) segments: Vec<usize>,
    pub(super) medium: Medium,
    pub(super) mtu: u32,
}

impl Topology {
    /// Two nodes with one veth pair between them and no switch.
    pub fn two_nodes() -> Self {
        Self { segments: vec![2], medium: Medium::Cable, mtu: ETHERNET_MTU }
    }

    /// Two nodes, each with a virtio-net card of this machine. The machine of `cargo xtask vm` has such cards.
    pub fn two_cards() -> Self {
        Self { segments: vec![2], medium: Medium::Cards, mtu: ETHERNET_MTU }
    }

    /// `n` nodes on one L2 segment.
    pub fn segment(n: usize) -> Self {
        Self::routed(&[n])
    }

    /// Two nodes on different segments with a router between them.
    pub fn two_nodes_routed() -> Self {
        Self::routed(&[1, 1])
    }

    /// One segment for each number, with that many nodes, and a router between the segments.
    pub fn routed(nodes_per_segment: &[usize]) -> Self {
        Self { segments: nodes_per_segment.to_vec(), medium: Medium::Switched, mtu: ETHERNET_MTU }
    }

    /// Sets the MTU of the underlay.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Returns whether the nodes are not joined for measurements alone.
    pub(super) fn has_switch(&self) -> bool {
        self.medium == Medium::Switched
    }

    /// Returns the segment of each node, and its number there, from 1.
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, usize)> {
        let segments = self.segments.iter().enumerate();
        segments.flat_map(|(segment, nodes)| (1..=*nodes).map(move |place| (segment, place)))
    }
}
