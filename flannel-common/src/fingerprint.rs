//! Fingerprints: what of a packet must be the same where it leaves the host stack as where it entered.
//!
//! A packet gets a [`Token`] of its digest where it enters the stack, and carries it in `skb->tc_index`, which Linux keeps
//! from hook to hook. Where it leaves, the token says whether this packet was changed. It also leads to the record of the
//! packet ([`crate::entered`]), which says what its addresses were.
//!
//! ```
//! use flannel_common::fingerprint::{Digest, Token};
//!
//! let sent = Digest::START.with(0x4500_0054).with(0x1234_4000).token(false);
//! let marked = Digest::START.with(0x45b8_0054).with(0x1234_4000).token(false);
//! assert_eq!(sent.compare(sent), Some(true));
//! assert_eq!(marked.compare(sent), Some(false), "a rule has changed DSCP");
//! assert_eq!(sent.compare(Token::NONE), None, "this packet did not enter");
//! ```

/// Bit of tokens: the packet is an aggregate, which the stack may cut into segments.
const AGGREGATE: u32 = 1 << 15;

/// A digest of a packet: of what a stack must not change, and then of what is noted of it. Different packets have the same one
/// by chance, once in 2^64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u64);

/// The part of a packet's [`Digest`] that fits into `skb->tc_index`. It is even: there an odd number above 1 says that a packet's
/// sender was checked ([`crate::node::checked_note`]). Different packets have the same one by chance, once in 2^14.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub u32);

impl Digest {
    /// The digest of nothing.
    pub const START: Self = Self(0x9e37_79b9_7f4a_7c15);

    /// Adds a word of the packet.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, word: u32) -> Self {
        // Each step can be undone, so that no difference gets lost. The last one brings it to the lower half.
        let mixed = (self.0 ^ word as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
        Self(mixed ^ mixed >> 32)
    }

    /// Adds whole words of bytes in wire order.
    #[inline(always)]
    #[must_use]
    pub const fn with_bytes(mut self, bytes: &[u8]) -> Self {
        let (words, _) = bytes.as_chunks();
        let mut at = 0;
        while at < words.len() {
            self = self.with(u32::from_ne_bytes(words[at]));
            at += 1;
        }
        self
    }

    /// Returns the token that the packet carries. `is_aggregate`: whether the packet is an aggregate (GSO, GRO).
    #[inline(always)]
    #[must_use]
    pub const fn token(self, is_aggregate: bool) -> Token {
        let aggregate = if is_aggregate { AGGREGATE } else { 0 };
        let token = self.0 as u32 & 0x7ffe | aggregate;
        Token(if token == Token::NONE.0 { 2 } else { token })
    }

    /// Returns the digest as a number, of which 0 is nobody's.
    #[inline(always)]
    #[must_use]
    pub const fn finish(self) -> u64 {
        if self.0 == 0 { 1 } else { self.0 }
    }
}

impl Token {
    /// Of a packet that did not enter the stack.
    pub const NONE: Self = Self(0);
    /// Of a packet that entered the stack without a digest.
    pub const UNKNOWN: Self = Self(1);

    /// Number of places for records of packets with different tokens.
    pub const SLOTS: usize = 1 << 12;

    /// Returns where the record of the packet is.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.0 >> 1 & (Self::SLOTS as u32 - 1)
    }

    /// Returns whether a packet that has this token now is the same as when it entered the stack with the other one. `None`:
    /// that cannot be said, since it did not enter, or entered as part of an aggregate or without a digest.
    #[inline(always)]
    #[must_use]
    pub const fn compare(self, entered: Self) -> Option<bool> {
        let was_cut = entered.0 & AGGREGATE != 0 && self.0 & AGGREGATE == 0;
        if entered.0 <= Self::UNKNOWN.0 || was_cut { None } else { Some(self.0 == entered.0) }
    }

    /// Returns whether the packet did not enter the stack.
    #[inline(always)]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_in_any_word_shows_in_token_and_digest() {
        const WORDS: [u32; 13] = [7; 13];
        let of = |words: [u32; 13]| words.into_iter().fold(Digest::START, Digest::with);
        for (at, bit) in (0..WORDS.len()).flat_map(|at| (0..32).map(move |bit| (at, bit))) {
            let mut changed = WORDS;
            changed[at] ^= 1 << bit;
            assert_ne!(of(changed).finish(), of(WORDS).finish(), "bit {bit} of word {at}");
            let compared = of(changed).token(false).compare(of(WORDS).token(false));
            assert_eq!(compared, Some(false), "bit {bit} of word {at}");
        }
        let mut swapped = WORDS;
        (swapped[0], swapped[1]) = (1, 2);
        let one = of(swapped);
        swapped.swap(0, 1);
        assert_ne!(of(swapped), one, "the order counts");
    }

    #[test]
    fn bytes_are_words_in_the_order_of_the_machine() {
        let word = u32::from_ne_bytes([1, 2, 3, 4]);
        assert_eq!(Digest::START.with_bytes(&[1, 2, 3, 4]), Digest::START.with(word));
    }

    #[test]
    fn the_token_of_a_packet_is_none_of_the_others_and_no_note() {
        let note = |key| crate::node::checked_note([key; 4]);
        assert!((0..=u8::MAX).map(note).all(|note| note > 1 && note % 2 == 1));
        for (low, is_aggregate) in [0, 1, 2, 1 << 15, 1 << 16, u64::MAX << 16]
            .into_iter()
            .flat_map(|low| [(low, false), (low, true)])
        {
            let token = Digest(low).token(is_aggregate);
            assert!(![Token::NONE, Token::UNKNOWN].contains(&token), "{low:x}");
            assert_eq!(token.0 % 2, 0, "{low:x}");
            assert_eq!(token.compare(token), Some(true), "{low:x}");
            assert_eq!([Token::NONE, Token::UNKNOWN].map(|other| token.compare(other)), [None; 2], "{low:x}");
            assert!((token.slot() as usize) < Token::SLOTS);
        }
        assert_ne!(Digest(0).finish(), 0);
    }

    #[test]
    fn segments_of_an_aggregate_cannot_be_compared_with_it() {
        let (aggregate, single) = (Digest::START.token(true), Digest::START.with(1).token(false));
        assert_eq!(single.compare(aggregate), None);
        assert_eq!(aggregate.compare(aggregate), Some(true));
        assert_eq!(aggregate.compare(single), Some(false));
    }
}
