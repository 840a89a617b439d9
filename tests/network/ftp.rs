//! FTP through a firewall that expects its data connections, as it learns from the control connection.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{At, FtpMode, FtpSession};
use flannel_tests::{Node, TestResult, Topology, eventually};

use super::ipv6::{BPF, DUAL, start};
use super::services::shortcut::past_stack;
use crate::inspect;
use crate::overlay::Overlay;

/// Time limit for the rules to be read: once a second, where the tools are not slow.
const SOON: Duration = Duration::from_secs(15);
const BULK: usize = 4 << 20;
/// The least aggregates that hold as much: 64 KiB each.
const AGGREGATES: u64 = (BULK >> 16) as u64;

/// Lets pods open connections to FTP servers, and lets through what belongs to these.
const POLICY: &str = "table inet stateful {
    chain forward {
        type filter hook forward priority -10;
        ct state established,related accept
        ct state new tcp dport 21 accept
        meta l4proto tcp reject with tcp reset
    }
}";

/// Rules that let the connection tracker's helper read control connections, and commands that remove them.
const HELPERS: [[&[&str]; 2]; 2] = [
    [
        &[
            "iptables -t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp",
            "ip6tables -t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp",
        ],
        &[
            "iptables -t raw -D PREROUTING -p tcp --dport 21 -j CT --helper ftp",
            "ip6tables -t raw -D PREROUTING -p tcp --dport 21 -j CT --helper ftp",
        ],
    ],
    [
        &["nft add table inet helped ; add ct helper inet helped ftp { type \"ftp\" protocol tcp ; } ; \
           add chain inet helped prerouting { type filter hook prerouting priority filter ; } ; \
           add rule inet helped prerouting tcp dport 21 ct helper set \"ftp\""],
        &["nft delete table inet helped"],
    ],
];

fn on_each(overlay: &Overlay, lines: &[&str]) -> Result<()> {
    overlay.nodes().iter().try_for_each(|node| lines.iter().try_for_each(|line| node.exec(line).map(drop)))
}

/// Returns how many packets have skipped the stack of a node, in either direction.
fn skipped(node: &Node) -> Result<u64> {
    let (sent, received) = past_stack(node)?;
    Ok(sent + received)
}

/// Sends commands. Returns how many packets had skipped the stack of each node before, and have after them.
fn send_commands(overlay: &Overlay, session: &mut FtpSession<'_>) -> Result<[Vec<u64>; 2]> {
    let counted = || overlay.nodes().iter().map(skipped).collect::<Result<Vec<_>>>();
    let before = counted()?;
    (0..20).try_for_each(|_| session.noop())?;
    Ok([before, counted()?])
}

/// Sends commands. Fails if any packet of them has skipped the stack of a node.
fn ensure_read(overlay: &Overlay, session: &mut FtpSession<'_>) -> Result<()> {
    let [before, now] = send_commands(overlay, session)?;
    ensure!(now == before, "{before:?} packets had skipped the stacks, and {now:?} have");
    Ok(())
}

/// Sends commands. Fails if a node has read each packet of them.
fn ensure_unread(overlay: &Overlay, session: &mut FtpSession<'_>) -> Result<()> {
    let [before, now] = send_commands(overlay, session)?;
    let skip = before.iter().zip(&now).all(|(before, now)| now > before);
    ensure!(skip, "{before:?} packets had skipped the stacks, and {now:?} have");
    Ok(())
}

/// Fetches data in both modes. They skip the stack of the server's node.
fn fetch(overlay: &Overlay, client: &At<'_>, server: &At<'_>) -> Result<()> {
    let mut session = FtpSession::open(client, server)?;
    for mode in [FtpMode::Active, FtpMode::Passive, FtpMode::Active] {
        let before = skipped(&overlay.nodes()[1])?;
        session.fetch(mode, BULK).with_context(|| format!("{mode:?}"))?;
        let skipped = skipped(&overlay.nodes()[1])? - before;
        ensure!(skipped > AGGREGATES / 2, "{mode:?}: only {skipped} packets have skipped the stack");
        ensure_read(overlay, &mut session)?;
    }
    Ok(())
}

#[test]
fn data_connections_are_expected() -> TestResult {
    let overlay = start(Topology::segment(2), DUAL, &[BPF; 2])?;
    overlay.nodes().iter().try_for_each(|node| node.netns().exec_with("nft -f -", POLICY).map(drop))?;
    let (one, other) = overlay.two_pods();
    let of = |number: usize| {
        let [from, to] = [one, other].map(|pod| At { netns: pod.netns(), ip: pod.addresses()[number] });
        (from, to)
    };
    for [add, remove] in HELPERS {
        on_each(&overlay, add)?;
        for (client, server) in [of(0), of(1)] {
            eventually("the control connection stays in the stack", SOON, || {
                ensure_read(&overlay, &mut FtpSession::open(&client, &server)?)
            })?;
            let kept = inspect::packets(&overlay.nodes()[0], Hook::PodIngress, Outcome::FlowKept)?;
            fetch(&overlay, &client, &server).with_context(|| format!("{add:?}, {}", client.ip))?;
            let now = inspect::packets(&overlay.nodes()[0], Hook::PodIngress, Outcome::FlowKept)?;
            assert!(now > kept, "nothing of the control connection was counted");
        }
        on_each(&overlay, remove)?;
        let (client, server) = of(0);
        let unread = FtpSession::open(&client, &server)?.fetch(FtpMode::Active, 1);
        assert!(unread.is_err(), "the firewall has expected what it was not told");
        // An agent that has not read yet that these rules are gone keeps the connection in the stack for them, and would soon let it go.
        eventually("the control connection skips the stacks", SOON, || {
            ensure_unread(&overlay, &mut FtpSession::open(&client, &server)?)
        })?;
    }
    Ok(())
}
