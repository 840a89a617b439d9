//! What happens to the agent itself.

use std::time::Duration;
use std::{fs, thread};

use anyhow::Result;
use flannel_tests::clock::Clock;
use flannel_tests::{Refusal, eventually};
use nix::sys::signal::Signal;

use super::{AWAY, on};
use crate::inspect::{DEVICE, Peer, pins};
use crate::overlay::Overlay;

/// More events than the agent's sockets hold.
const EVENTS: u32 = 20_000;

/// Restarts an agent that need not have BPF, and the kernel refuses it this for a while.
fn refuse(overlay: &mut Overlay, node: usize, refusal: Refusal) -> Result<()> {
    let agent = &mut overlay.agents[node];
    agent.set_refusals(&[refusal]);
    agent.restart_with(|args| args.retain(|arg| arg != "--dataplane=bpf"))?;
    thread::sleep(AWAY);
    agent.set_refusals(&[]);
    agent.restart().map(drop)
}

faults! {
    killed: "agent killed and started again", Nothing, |overlay, node| overlay.agents[node].restart().map(drop);

    restarted_often: "agent killed 10 times while it starts", Nothing, |overlay, node| {
        for time in 0..10 {
            overlay.agents[node].restart_and_kill_after(Duration::from_millis(15 * time))?;
        }
        overlay.agents[node].restart().map(drop)
    };

    clock_set: "agent restarts, and its clock is set two days forward and back", Nothing, |overlay, node| {
        let clock = Clock::new(overlay.nodes()[node].dir())?;
        let agent = &mut overlay.agents[node];
        agent.set_clock(Some(&clock));
        agent.restart()?;
        for hours in [48, -48, 0] {
            clock.set(hours)?;
            // The agent looks at its programs every second.
            thread::sleep(AWAY);
        }
        agent.set_clock(None);
        agent.restart().map(drop)
    };

    stopped: "agent stopped for 2 s (SIGSTOP)", Nothing, |overlay, node| {
        overlay.agents[node].signal(Signal::SIGSTOP)?;
        thread::sleep(AWAY);
        overlay.agents[node].signal(Signal::SIGCONT)
    };

    deaf: "agent stopped while its netlink sockets overflow, and routes to peers removed", Second, |overlay, node| {
        overlay.agents[node].signal(Signal::SIGSTOP)?;
        let events = (0..EVENTS / 2).flat_map(|number| {
            let neighbour = format!("169.254.99.{} lladdr 02:00:00:00:99:99 dev {DEVICE}", number % 250);
            [format!("neigh replace {neighbour}"), format!("neigh del {neighbour}")]
        });
        let flood = overlay.nodes()[node].netns().ip(&events.collect::<Vec<_>>());
        let removed = on(overlay, node, &format!("ip route flush dev {DEVICE}"));
        overlay.agents[node].signal(Signal::SIGCONT)?;
        flood.and(removed)
    };

    absent: "agent away for 2 s while nodes join, move and leave", Nothing, |overlay, node| {
        let [stays, leaves] = [93, 94].map(Peer::fictional);
        let moved = Peer { public_ip: Peer::fictional(95).public_ip, ..stays.clone() };
        overlay.etcd.put(&leaves.key(), &leaves.value())?;
        overlay.etcd.put(&stays.key(), &stays.value())?;
        overlay.agents[node].term()?;
        overlay.etcd.delete(&leaves.key())?;
        overlay.etcd.put(&moved.key(), &moved.value())?;
        thread::sleep(AWAY);
        overlay.agents[node].restart()?;
        eventually("the agent has caught up", AWAY, || {
            overlay.ensure_knows_others(node, std::slice::from_ref(&moved))
        })?;
        overlay.etcd.delete(&moved.key())
    };

    unwritable_file: "subnet.env cannot be written for 2 s, and the agent restarts", Nothing, |overlay, node| {
        let file = overlay.nodes()[node].subnet_file();
        overlay.agents[node].kill()?;
        fs::remove_file(&file)?;
        // No file takes the place of a folder.
        fs::create_dir(&file)?;
        overlay.agents[node].start_again()?;
        thread::sleep(AWAY);
        fs::remove_dir(&file)?;
        overlay.agents[node].wait_ready().map(drop)
    };

    loading_refused: "agent restarts where programs cannot be loaded, and 2 s later where they can", Nothing, |overlay, node| {
        refuse(overlay, node, Refusal::LOADING)
    };

    attaching_refused: "agent restarts where programs cannot be attached, and 2 s later where they can", Nothing, |overlay, node| {
        refuse(overlay, node, Refusal::ATTACHING)
    };

    querying_refused: "agent restarts where programs cannot be listed, and 2 s later where they can", Nothing, |overlay, node| {
        refuse(overlay, node, Refusal::QUERYING)
    };

    maps_refused: "agent restarts where maps cannot be made, and 2 s later where they can", Nothing, |overlay, node| {
        refuse(overlay, node, Refusal::MAPS)
    };

    pins_refused: "agent restarts where pins cannot be opened, and 2 s later where they can", Nothing, |overlay, node| {
        refuse(overlay, node, Refusal::PINS)
    };

    without_pins: "pins deleted, and the agent restarts", Second, |overlay, node| {
        overlay.agents[node].kill()?;
        let pins = pins(&overlay.nodes()[node])?;
        on(overlay, node, &format!("rm -r {}", pins.path("").display()))?;
        overlay.agents[node].restart().map(drop)
    };

    without_a_bpf_filesystem: "BPF filesystem unmounted, and the agent restarts", Second, |overlay, node| {
        overlay.agents[node].kill()?;
        let bpffs = overlay.nodes()[node].bpffs()?.display().to_string();
        on(overlay, node, &format!("umount --lazy {bpffs}"))?;
        overlay.agents[node].restart().map(drop)
    };

    device_deleted_without_an_agent: "flannel.1 deleted while the agent restarts", Second, |overlay, node| {
        overlay.agents[node].kill()?;
        on(overlay, node, &format!("ip link del {DEVICE}"))?;
        overlay.agents[node].restart().map(drop)
    };
}
