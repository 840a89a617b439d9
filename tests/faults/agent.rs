//! What happens to the agent itself.

use std::thread;
use std::time::Duration;

use flannel_tests::TestResult;
use nix::sys::signal::Signal;

use super::Bound::{Nothing, Second};
use super::endure;
use crate::inspect::{DEVICE, pins};

/// Time for which the agent does nothing.
const AWAY: Duration = Duration::from_secs(2);

#[test]
fn killed() -> TestResult {
    endure("agent killed and started again", Nothing, |overlay| overlay.agents[0].restart().map(drop))
}

#[test]
fn restarted_often() -> TestResult {
    endure("agent killed 10 times while it starts", Nothing, |overlay| {
        for time in 0..10 {
            overlay.agents[0].restart_and_kill_after(Duration::from_millis(15 * time))?;
        }
        overlay.agents[0].restart().map(drop)
    })
}

#[test]
fn stopped() -> TestResult {
    endure("agent stopped for 2 s (SIGSTOP)", Nothing, |overlay| {
        overlay.agents[0].signal(Signal::SIGSTOP)?;
        thread::sleep(AWAY);
        overlay.agents[0].signal(Signal::SIGCONT)
    })
}

#[test]
fn without_pins() -> TestResult {
    endure("pins deleted, and the agent restarts", Nothing, |overlay| {
        overlay.agents[0].kill()?;
        let node = &overlay.nodes()[0];
        node.exec(&format!("rm -r {}", pins(node)?.path("").display()))?;
        overlay.agents[0].restart().map(drop)
    })
}

#[test]
fn without_a_bpf_filesystem() -> TestResult {
    endure("BPF filesystem unmounted, and the agent restarts", Nothing, |overlay| {
        overlay.agents[0].kill()?;
        let node = &overlay.nodes()[0];
        node.exec(&format!("umount --lazy {}", node.bpffs()?.display()))?;
        overlay.agents[0].restart().map(drop)
    })
}

#[test]
fn device_deleted_without_an_agent() -> TestResult {
    endure("flannel.1 deleted while the agent restarts", Second, |overlay| {
        overlay.agents[0].kill()?;
        overlay.nodes()[0].exec(&format!("ip link del {DEVICE}"))?;
        overlay.agents[0].restart().map(drop)
    })
}
