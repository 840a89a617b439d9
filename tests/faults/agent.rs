//! What happens to the agent itself.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::on;
use crate::inspect::{DEVICE, pins};

/// Time for which the agent does nothing.
const AWAY: Duration = Duration::from_secs(2);

faults! {
    killed: "agent killed and started again", Nothing, |overlay, node| overlay.agents[node].restart().map(drop);

    restarted_often: "agent killed 10 times while it starts", Nothing, |overlay, node| {
        for time in 0..10 {
            overlay.agents[node].restart_and_kill_after(Duration::from_millis(15 * time))?;
        }
        overlay.agents[node].restart().map(drop)
    };

    stopped: "agent stopped for 2 s (SIGSTOP)", Nothing, |overlay, node| {
        overlay.agents[node].signal(Signal::SIGSTOP)?;
        thread::sleep(AWAY);
        overlay.agents[node].signal(Signal::SIGCONT)
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
