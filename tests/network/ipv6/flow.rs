//! IPv6 traffic that takes the shortcut past the host stack.

use flannel_tests::traffic::{TcpSession, UdpSession, ping};
use flannel_tests::{Capture, TestResult};

use super::{PathCounts, two_nodes, two_pods, ways};

#[test]
fn datagrams_take_the_shortcut_from_the_second_on() -> TestResult {
    const MORE: u64 = 50;
    let overlay = two_nodes()?;
    let (one, other) = two_pods(&overlay)?;
    let before = [ways(&overlay.nodes()[0])?, ways(&overlay.nodes()[1])?];
    let after = |shortcut, stack| {
        before.map(|then| PathCounts {
            shortcut: (then.shortcut.0 + shortcut, then.shortcut.1 + shortcut),
            stack: (then.stack.0 + stack, then.stack.1 + stack),
        })
    };
    let now = || anyhow::Ok([ways(&overlay.nodes()[0])?, ways(&overlay.nodes()[1])?]);
    let mut session = UdpSession::open(&one, &other)?;
    session.echo(100)?;
    assert_eq!(now()?, after(0, 1));
    (0..MORE).try_for_each(|size| session.echo(size as usize * 28))?;
    assert_eq!(now()?, after(MORE, 1));
    ping(&one, other.ip)?;
    assert_eq!(now()?, after(MORE, 2), "a ping took the shortcut");
    Ok(())
}

#[test]
fn tcp_takes_the_shortcut_both_ways() -> TestResult {
    const MORE: u64 = 50;
    let overlay = two_nodes()?;
    let (one, other) = two_pods(&overlay)?;
    let mut session = TcpSession::open(&one, &other)?;
    (0..3).try_for_each(|_| session.exchange(100))?;
    let before = [ways(&overlay.nodes()[0])?, ways(&overlay.nodes()[1])?];
    (0..MORE).try_for_each(|_| session.exchange(100))?;
    for (node, then) in overlay.nodes().iter().zip(before) {
        let now = ways(node)?;
        assert_eq!(now.stack, then.stack, "{}: packets through the stack", node.name());
        let shortcut = (now.shortcut.0 - then.shortcut.0, now.shortcut.1 - then.shortcut.1);
        assert!(shortcut.0 >= MORE && shortcut.1 >= MORE, "{}: {shortcut:?}", node.name());
    }
    Ok(())
}

#[test]
fn a_packet_is_the_same_through_the_stack_and_past_it() -> TestResult {
    const ECHOES: usize = 5;
    let overlay = two_nodes()?;
    let (one, other) = overlay.two_pods();
    let captures = [one, other].map(|pod| (pod, Capture::start(pod.netns(), "eth0").unwrap()));
    let wire = Capture::start(overlay.nodes()[1].netns(), crate::inspect::UPLINK)?;
    let mut session = UdpSession::open(&one.v6()?, &other.v6()?)?;
    (0..ECHOES).try_for_each(|_| session.echo(64))?;
    assert_eq!(ways(&overlay.nodes()[0])?.shortcut, (4, 4));
    for (pod, capture) in captures {
        let fields = ["ipv6.hlim", "eth.src", "eth.dst", "ipv6.tclass", "ipv6.plen"];
        let packets = capture.stop()?.fields(&format!("udp && ipv6.dst == {}", pod.ip()), &fields)?;
        assert_eq!(packets.len(), ECHOES);
        // Two hops: the nodes.
        assert_eq!(packets[0][0], "62");
        assert!(packets.iter().all(|packet| *packet == packets[0]), "{packets:#?}");
    }
    // On the wire all packets have the same MACs, of the uplinks and the VTEPs, not of the pods.
    let fields = ["ipv6.hlim", "eth.src", "eth.dst", "ipv6.src", "ipv6.dst", "vxlan.vni", "udp.dstport"];
    let wire = wire.stop()?.fields(&format!("vxlan && ipv6.dst == {}", other.ip()), &fields)?;
    assert_eq!(wire.len(), ECHOES);
    assert!(wire[0][0] == "64,63", "{wire:#?}");
    assert!(wire.iter().all(|packet| *packet == wire[0]), "{wire:#?}");
    Ok(())
}
