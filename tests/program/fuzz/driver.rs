//! Rules for the XDP program: it removes all outer headers of a packet that TC would unwrap, or changes nothing.

use flannel_common::outcome::{Hook, Outcome, Verdict};
use proptest::prelude::*;

use super::frame::{ETHERNET, UDP_AND_VXLAN, ip};
use super::{Case, judge};
use crate::program::underlay_xdp::run;
use crate::program::{Programs, RunResult};

/// Runs the XDP program with the frame of a TC run, and returns its outcome.
pub(super) fn check(
    programs: &mut Programs,
    case: &Case,
    in_tc: &RunResult,
) -> Result<Outcome, TestCaseError> {
    let frame = &case.frame[..];
    let in_xdp = run(programs, frame);
    judge::check_floor(case, Hook::UnderlayXdp, in_xdp.outcome)?;
    if in_xdp.outcome != Outcome::HandedOver {
        prop_assert_eq!(in_xdp.outcome.verdict() == Verdict::Carried, false);
        prop_assert_eq!(&in_xdp.frame[..], frame, "{:?}", in_xdp.outcome);
        return Ok(in_xdp.outcome);
    }
    let Some(outer) = ip(frame, ETHERNET) else {
        return Err(TestCaseError::fail("a frame without an IP header was unwrapped"));
    };
    prop_assert_eq!(&in_xdp.frame[..], &frame[ETHERNET + outer.header + UDP_AND_VXLAN..]);
    prop_assert!(
        matches!(in_tc.outcome.verdict(), Verdict::Carried | Verdict::Dropped),
        "XDP unwraps a packet whose outcome in TC is {:?}",
        in_tc.outcome
    );
    Ok(in_xdp.outcome)
}
