//! The tables of legacy iptables: which are loaded, and whether their rules have changed
//! (include/uapi/linux/netfilter_ipv4/ip_tables.h, and ip6_tables.h). The kernel neither reports nor counts changes.

use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Length of a table's name in requests (`XT_TABLE_MAXNAMELEN`).
const NAME: usize = 32;
/// `struct ipt_getinfo`, whose last field is the size of all rules.
const INFO: usize = NAME + 52;
/// `struct ipt_get_entries`: name and size, before the rules.
const ENTRIES: usize = NAME + 8;
/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`. Those of ip6_tables are the same.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;

/// Legacy iptables of one address family.
struct Family {
    tool: &'static str,
    /// The file with the names of the tables that are loaded.
    loaded: &'static str,
    domain: AddressFamily,
    level: libc::c_int,
    /// Position of the next rule's distance in a rule, and of its counters of packets and bytes.
    next: usize,
    counters: usize,
}

const FAMILIES: [Family; 2] = [
    Family {
        tool: "iptables",
        loaded: "/proc/self/net/ip_tables_names",
        domain: AddressFamily::Inet,
        level: libc::SOL_IP,
        next: 90,
        counters: 96,
    },
    Family {
        tool: "ip6tables",
        loaded: "/proc/self/net/ip6_tables_names",
        domain: AddressFamily::Inet6,
        level: libc::SOL_IPV6,
        next: 142,
        counters: 152,
    },
];

impl Family {
    fn tables(&self) -> Vec<String> {
        fs::read_to_string(self.loaded).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Returns a number for the rules of a table, which is another one for other rules.
    fn digest(&self, table: &str) -> io::Result<u64> {
        let socket = socket(self.domain, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        let mut info = [0; INFO];
        name(&mut info, table);
        self.ask(&socket, GET_INFO, &mut info)?;
        let size = info[INFO - 4..].try_into().map_or(0, u32::from_ne_bytes);
        let mut rules = vec![0; ENTRIES + size as usize];
        name(&mut rules, table);
        rules[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
        // Refused with EAGAIN if the size is another one by now.
        self.ask(&socket, GET_ENTRIES, &mut rules)?;
        let rules = &mut rules[ENTRIES..];
        self.clear_counters(rules);
        let mut hasher = DefaultHasher::new();
        hasher.write(rules);
        Ok(hasher.finish())
    }

    fn ask(&self, socket: &OwnedFd, option: libc::c_int, value: &mut [u8]) -> io::Result<()> {
        let mut length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
        // SAFETY: the kernel reads and writes at most `length` bytes of `value`.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                self.level,
                option,
                value.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Sets the counters of all rules to 0.
    fn clear_counters(&self, mut rules: &mut [u8]) {
        while let Some(counters) = rules.get_mut(self.counters..self.counters + 16) {
            counters.fill(0);
            let next = usize::from(u16::from_ne_bytes([rules[self.next], rules[self.next + 1]]));
            if next == 0 {
                return;
            }
            rules = rules.get_mut(next..).unwrap_or_default();
        }
    }
}

fn name(request: &mut [u8], table: &str) {
    for (to, from) in request[..NAME - 1].iter_mut().zip(table.bytes()) {
        *to = from;
    }
}

/// Returns the tables that are loaded, each after the tool. To list another one would load its module.
pub(super) fn tables() -> Vec<(&'static str, String)> {
    FAMILIES.iter().flat_map(|family| family.tables().into_iter().map(|table| (family.tool, table))).collect()
}

/// What the tables are like. Equal ones have equal rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Digests(Vec<(&'static str, String, u64)>);

impl Digests {
    /// Reads all tables that are loaded: some milliseconds for ten thousand rules.
    ///
    /// # Errors
    /// The kernel refuses, or a table is just being replaced.
    pub(super) fn read() -> io::Result<Self> {
        let digests = FAMILIES.iter().flat_map(|family| {
            let digest = |table: String| Ok((family.tool, family.digest(&table)?, table));
            family.tables().into_iter().map(digest)
        });
        digests
            .map(|read| read.map(|(tool, digest, table)| (tool, table, digest)))
            .collect::<io::Result<_>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the bytes of two rules, of which the second has an address, and both have counters.
    fn rules(family: &Family, address: u8, counter: u8) -> Vec<u8> {
        let length = family.counters + 16 + 40;
        let mut rules = vec![0; 2 * length];
        for rule in rules.chunks_mut(length) {
            rule[family.next..family.next + 2].copy_from_slice(&u16::try_from(length).unwrap().to_ne_bytes());
            rule[family.counters..family.counters + 16].fill(counter);
        }
        rules[length] = address;
        rules
    }

    #[test]
    fn counters_count_for_nothing_and_all_else_does() {
        for family in &FAMILIES {
            let cleared = |address, counter| {
                let mut rules = rules(family, address, counter);
                family.clear_counters(&mut rules);
                rules
            };
            assert_eq!(cleared(1, 0), rules(family, 1, 0));
            assert_eq!(cleared(1, 7), cleared(1, 0));
            assert_ne!(cleared(1, 7), cleared(2, 7));
        }
    }

    #[test]
    fn rules_that_end_too_early_are_read_as_far_as_they_go() {
        let family = &FAMILIES[0];
        let whole = rules(family, 1, 7);
        for length in 0..whole.len() {
            family.clear_counters(&mut whole[..length].to_vec());
        }
    }
}
