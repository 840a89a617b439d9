//! The Internet checksum (RFC 1071).

/// The checksum of these bytes: the value for a checksum field that is 0 among them, and 0 if the field is right.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    !fold(bytes.chunks(2).map(word).sum())
}

/// The one's complement sum of 16-bit words, carries added in.
pub(crate) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
