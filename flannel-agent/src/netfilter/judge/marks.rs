//! The marks that packets may have on their way. Pure.

use std::collections::BTreeSet;

use super::walk::{Fit, among};
use crate::netfilter::rules::{Mark, Rule, Value};

/// The marks that packets may have now.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    pub(super) known: BTreeSet<u32>,
    /// The rule by which they may have any mark.
    pub(super) any: Option<String>,
}

impl Default for Marks {
    /// They have none.
    fn default() -> Self {
        Self { known: [0].into(), any: None }
    }
}

impl Marks {
    /// Returns which of them have one of these values in these bits.
    pub(super) fn fit(&self, mask: u32, values: &[Value]) -> Fit {
        if self.any.is_some() {
            return Fit::Some;
        }
        among(values, self.known.iter().map(|mark| (mark & mask).into()))
    }

    /// A rule marks all packets, or some of them.
    pub(super) fn set(&mut self, mark: Mark, rule: &Rule, all: bool) {
        match mark {
            Mark::Unknown => self.any = Some(rule.text.clone()),
            Mark::Bits { keep, flip } => {
                let marked: BTreeSet<_> = self.known.iter().map(|mark| (mark & keep) ^ flip).collect();
                if all {
                    self.known = marked;
                    self.any.take_if(|_| keep == 0);
                } else {
                    self.known.extend(marked);
                }
            }
        }
    }
}
