//! The queues of packets that veth devices have received, one for each CPU and for all namespaces together. A bulk transfer
//! of one test fills them on a busy machine, and the kernel then drops what other tests send.

use std::fs;
use std::io::ErrorKind;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};

/// The longest such queue, in packets. Only the machine's first network namespace has this file.
const SETTING: &str = "/proc/sys/net/core/netdev_max_backlog";
/// What the kernel sets.
const USUAL: u32 = 1000;
/// Room for what several bulk transfers have under way.
const ROOM: u32 = 30_000;

/// Makes room for the bulk transfers of tests. It stays when the process ends: other runs on this machine may need it.
pub(crate) fn make_room() -> Result<()> {
    _ = dropped_before();
    change(|now| (now < ROOM).then_some(ROOM))
}

/// Takes the room away that tests have made. Long queues do not fit into the CPU's cache, which measurements would show.
pub fn shrink() -> Result<()> {
    change(|now| (now == ROOM).then_some(USUAL))
}

/// Returns how many packets the machine has dropped from full queues since this process has made room.
pub(crate) fn dropped() -> u64 {
    all_dropped().saturating_sub(dropped_before())
}

fn dropped_before() -> u64 {
    static BEFORE: OnceLock<u64> = OnceLock::new();
    *BEFORE.get_or_init(all_dropped)
}

fn all_dropped() -> u64 {
    count(&fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default())
}

/// Adds up the second column, which is hexadecimal, over all CPUs.
fn count(softnet_stat: &str) -> u64 {
    let column = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    softnet_stat.lines().filter_map(column).sum()
}

fn change(to: impl FnOnce(u32) -> Option<u32>) -> Result<()> {
    let text = match fs::read_to_string(SETTING) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        text => text.with_context(|| format!("read {SETTING}"))?,
    };
    match to(text.trim().parse().with_context(|| format!("{SETTING} is {text}"))?) {
        Some(packets) => {
            fs::write(SETTING, packets.to_string()).with_context(|| format!("write {packets} to {SETTING}"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_all_cpus_are_added_up() {
        assert_eq!(count("02eb7f8d 0000000a 00000015\n02956a2a 00000010 00000014\n"), 26);
        assert_eq!(count(""), 0);
    }
}
