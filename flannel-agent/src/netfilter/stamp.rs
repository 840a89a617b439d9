//! Tells whether rules of the host's packet filters have changed, without running a program.

use std::io;

use super::generation::Generation;
use super::legacy::Digests;

/// What the rules of this network namespace are like. While it is equal, they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The number of nftables' rule set; `None` without nftables.
    pub(super) nftables: Option<u32>,
    pub(super) legacy: Digests,
}

/// Asks the kernel.
#[derive(Debug, Default)]
pub(crate) struct Stamps(Generation);

impl Stamps {
    /// Returns what the rules are like now.
    ///
    /// # Errors
    /// The kernel does not tell, or legacy iptables is just being changed.
    pub(crate) fn now(&mut self) -> io::Result<Stamp> {
        Ok(Stamp { nftables: self.nftables()?, legacy: Digests::read()? })
    }

    /// Returns [`Stamp::nftables`], which takes little time with any number of rules.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(super) fn nftables(&mut self) -> io::Result<Option<u32>> {
        self.0.get()
    }
}
