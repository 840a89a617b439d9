//! A network of a node with BPF and one without.

use flannel_tests::TestResult;
use flannel_tests::traffic::{ping, tcp_transfer};

use super::udp;
use crate::inspect::{self, DEVICE};
use crate::overlay::Overlay;

const SIZES: [usize; 9] = [0, 1, 17, 18, 511, 1400, 1421, 1422, 1423];

#[test]
fn a_node_with_bpf_and_one_without_understand_each_other() -> TestResult {
    let overlay = Overlay::mixed()?;
    let (bpf, kernel) = overlay.two_pods();
    for (from, to) in [(bpf, kernel), (kernel, bpf)] {
        ping(from, to.ip())?;
        udp::echo(from, to, SIZES.into_iter().chain(udp::FRAGMENTED))?;
        tcp_transfer(from, to, 32 << 20)?;
    }
    Ok(())
}

#[test]
fn each_node_keeps_its_own_dataplane() -> TestResult {
    let overlay = Overlay::mixed()?;
    let (pod, remote) = overlay.two_pods();
    let [bpf, kernel] = overlay.nodes() else { unreachable!("two nodes") };
    let (carried, counted) = (inspect::carried(bpf)?, kernel.counters(DEVICE)?);
    for _ in 0..50 {
        ping(pod, remote.ip())?;
    }
    assert_eq!(inspect::carried(bpf)?, (carried.0 + 50, carried.1 + 50));
    let now = kernel.counters(DEVICE)?;
    assert!(
        now.0.packets >= counted.0.packets + 50,
        "the kernel's device received {now:?} after {counted:?}"
    );
    assert!(now.1.packets >= counted.1.packets + 50, "the kernel's device sent {now:?} after {counted:?}");
    assert!(!inspect::pins(kernel)?.path("").exists(), "a node without BPF has pins");
    Ok(())
}
