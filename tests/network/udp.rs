//! UDP datagrams of all sizes.

use anyhow::Result;
use flannel_tests::traffic::UdpSession;
use flannel_tests::{Pod, TestResult};

use crate::inspect;
use crate::overlay::Overlay;

/// The largest payload that is not fragmented: the overlay's MTU less the headers of IPv4 and UDP.
const LARGEST_WHOLE: usize = 1450 - 28;
/// Sizes around the MTUs of overlay and underlay, and the maximum of a datagram.
pub(crate) const FRAGMENTED: [usize; 8] = [1423, 1424, 1472, 1473, 2000, 8000, 9000, 65_507];

/// Echoes each size once, in one flow.
pub(crate) fn echo(from: &Pod, to: &Pod, sizes: impl IntoIterator<Item = usize>) -> Result<()> {
    let mut session = UdpSession::open(from, to)?;
    sizes.into_iter().try_for_each(|size| session.echo(size))
}

#[test]
fn datagrams_of_every_size_up_to_the_mtu_are_echoed() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let (one, other) = overlay.two_pods();
    let before = inspect::carried(&overlay.nodes()[0])?;
    echo(one, other, 0..=LARGEST_WHOLE)?;
    let sizes = LARGEST_WHOLE as u64 + 1;
    let expected = (before.0 + sizes, before.1 + sizes);
    assert_eq!(
        inspect::carried(&overlay.nodes()[0])?,
        expected,
        "one packet carried by BPF for each datagram"
    );
    Ok(())
}

#[test]
fn larger_datagrams_are_fragmented_inside_the_overlay() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let (one, other) = overlay.two_pods();
    for (from, to) in [(one, other), (other, one)] {
        echo(from, to, FRAGMENTED)?;
    }
    Ok(())
}
