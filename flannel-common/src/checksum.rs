//! The Internet checksum: computed over bytes (RFC 1071), and updated when a word changes (RFC 1624).
//!
//! ```
//! use flannel_common::checksum;
//!
//! let mut header = [
//!     0x45, 0, 0, 60, 0x1c, 0x46, 0x40, 0, 64, 6, 0, 0, 172, 16, 10, 99, 172, 16, 10, 12,
//! ];
//! let sum = checksum::of(&header);
//! header[10..12].copy_from_slice(&sum.to_be_bytes());
//! assert_eq!(checksum::of(&header), 0, "the checksum field is right");
//!
//! // A router decrements the TTL, which is the upper byte of a word.
//! header[8] -= 1;
//! let sum = checksum::updated(sum, 64 << 8, 63 << 8);
//! header[10..12].copy_from_slice(&sum.to_be_bytes());
//! assert_eq!(checksum::of(&header), 0);
//! ```

/// Computes the checksum of at most 16 GiB.
///
/// If the checksum field among the bytes is 0, this is its value; if the field is right, this is 0.
#[inline(always)]
#[must_use]
pub const fn of(bytes: &[u8]) -> u16 {
    // RFC 1071 section 2: within the sum, the order of the bytes does not matter (B), and larger words may be added (C).
    let (words, rest) = bytes.as_chunks();
    let mut last = [0; 4];
    let mut at = 0;
    while at < rest.len() {
        last[at] = rest[at];
        at += 1;
    }
    let mut sum = u32::from_ne_bytes(last) as u64;
    at = 0;
    while at < words.len() {
        sum += u32::from_ne_bytes(words[at]) as u64;
        at += 1;
    }
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    (!folded((sum & 0xffff) as u32 + (sum >> 16) as u32)).to_be()
}

/// Returns the checksum after one of the words that it covers has changed (RFC 1624 section 3, equation 3).
#[inline(always)]
#[must_use]
pub const fn updated(checksum: u16, before: u16, after: u16) -> u16 {
    changed(checksum, change(before, after))
}

/// Returns the checksum after the sum below it has grown by the sum of up to 64 [`change`]s. All are in the same order.
#[inline(always)]
#[must_use]
pub const fn changed(checksum: u16, change: u32) -> u16 {
    !folded(!checksum as u32 + change)
}

/// Returns by how much the sum below a checksum grows when bytes change: an even number of them, up to 128.
#[inline(always)]
#[must_use]
pub const fn change_of(before: &[u8], after: &[u8]) -> u32 {
    let ((before, _), (after, _)) = (before.as_chunks(), after.as_chunks());
    let mut sum = 0;
    let mut at = 0;
    while at < before.len() && at < after.len() {
        sum += change(u16::from_ne_bytes(before[at]), u16::from_ne_bytes(after[at]));
        at += 1;
    }
    sum
}

/// Returns by how much the sum below a checksum grows when a word changes, in ones' complement.
///
/// `bpf_csum_update` takes such a number, of words in the machine's order.
#[inline(always)]
#[must_use]
pub const fn change(before: u16, after: u16) -> u32 {
    !before as u32 + after as u32
}

/// Adds the carries in. Two rounds are enough for any sum of 32 bits.
#[inline(always)]
const fn folded(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_adds_up() {
        // RFC 1071 section 3.
        assert_eq!(!of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(!of(&[0x00, 0x01, 0xf2]), 0xf201, "an odd byte counts as the upper one of a word");
        assert_eq!(of(&[]), 0xffff);
    }

    #[test]
    fn carries_are_added_until_none_is_left() {
        let bytes = [0xff; 1 << 17];
        for words in [1, 2, 3, 0x7fff, 0x10000] {
            assert_eq!(of(&bytes[..2 * words]), 0, "{words} words of 0xffff");
        }
    }

    #[test]
    fn an_update_equals_a_new_computation() {
        for (before, after) in [(0, 1), (0x0100, 0), (0x4011, 0x3f11), (0xffff, 0), (0, 0xffff)] {
            for other in 0..=u16::MAX {
                let checksum = |word: u16| {
                    let ([a, b], [c, d]) = (word.to_be_bytes(), other.to_be_bytes());
                    of(&[a, b, c, d, 0x45, 0])
                };
                let expected = checksum(after);
                assert_eq!(updated(checksum(before), before, after), expected, "{before} {after} {other}");
            }
        }
    }

    #[test]
    fn the_example_of_the_update_is_right() {
        // RFC 1624 section 4: where RFC 1141 gives 0xffff.
        assert_eq!(updated(0xdd2f, 0x5555, 0x3285), 0x0000);
    }
}
