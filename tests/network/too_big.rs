//! Packets that must not be fragmented: what fits arrives, what does not is answered with the MTU that would.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, bail};
use flannel_tests::traffic::{Answer, At, Ping, ping_with};
use flannel_tests::{Host, TestResult};

use crate::overlay::Overlay;

const MTU: usize = 1450;

/// The answer to an unfragmentable IPv4 packet of this length.
fn answer(from: &dyn Host, to: IpAddr, length: usize) -> Result<Answer> {
    ping_with(from, to, &Ping { size: length - 28, dont_fragment: true, ..Ping::default() })
}

fn ensure_fits(from: &dyn Host, to: IpAddr) -> Result<()> {
    match answer(from, to, MTU)? {
        Answer::Reply { .. } => Ok(()),
        other => bail!("{MTU} bytes from {}: {other:?}", from.ip()),
    }
}

#[test]
fn a_pod_cannot_send_more_than_its_interface_takes() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let (pod, remote) = overlay.two_pods();
    ensure_fits(pod, remote.ip())?;
    let own_interface = Answer::TooBig { by: Ipv4Addr::UNSPECIFIED.into(), mtu: 0 };
    assert_eq!(answer(pod, remote.ip(), MTU + 1)?, own_interface);
    let host = At { netns: overlay.nodes()[0].netns(), ip: IpAddr::V4(overlay.base(0)?) };
    ensure_fits(&host, remote.ip())?;
    assert_eq!(answer(&host, remote.ip(), MTU + 1)?, own_interface);
    Ok(())
}

#[test]
fn the_node_answers_a_pod_whose_interface_is_too_wide() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let (pod, remote) = overlay.two_pods();
    pod.exec("ip link set eth0 mtu 9000")?;
    overlay.nodes()[0].netns().ip(&[format!("link set {} mtu 9000", pod.port())])?;
    ensure_fits(pod, remote.ip())?;
    let gateway = Ipv4Addr::from_bits(overlay.base(0)?.to_bits() | 1);
    for length in [MTU + 1, 1500, 1501, 8999] {
        let told = Answer::TooBig { by: gateway.into(), mtu: MTU as u32 };
        assert_eq!(answer(pod, remote.ip(), length)?, told, "{length} bytes");
    }
    Ok(())
}
