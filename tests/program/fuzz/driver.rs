//! The driver's program: either it takes off the whole wrapping of what TC would unwrap, or a frame stays as it is.

use flannel_common::outcome::{Outcome, Verdict};
use proptest::prelude::*;

use super::frame::{ETHERNET, UDP_AND_VXLAN, ip};
use crate::program::underlay_xdp::run;
use crate::program::{Programs, Run};

/// The driver is shown the frame that TC has made this of; says how that ended.
pub(super) fn check(programs: &mut Programs, frame: &[u8], in_tc: &Run) -> Result<Outcome, TestCaseError> {
    let in_driver = run(programs, frame);
    if in_driver.outcome != Outcome::HandedOver {
        prop_assert_eq!(in_driver.outcome.verdict() == Verdict::Carried, false);
        prop_assert_eq!(&in_driver.frame[..], frame, "{:?}", in_driver.outcome);
        return Ok(in_driver.outcome);
    }
    let Some(outer) = ip(frame, ETHERNET) else {
        return Err(TestCaseError::fail("something without an IP header was unwrapped"));
    };
    prop_assert_eq!(&in_driver.frame[..], &frame[ETHERNET + outer.header + UDP_AND_VXLAN..]);
    prop_assert!(
        matches!(in_tc.outcome.verdict(), Verdict::Carried | Verdict::Dropped),
        "the driver unwraps what is {:?} in TC",
        in_tc.outcome
    );
    Ok(in_driver.outcome)
}
