//! Echo requests of ICMP and ICMPv6, and their replies. Pure.

/// Bytes of an ICMP header.
const HEADER: usize = 8;
/// Bytes of an IPv4 header without options, and of an IPv6 header.
const IPV4_HEADER: u16 = 20;
const IPV6_HEADER: u16 = 40;
/// A small echo request has so many bytes of payload, as `ping` sends.
const PAYLOAD: u16 = 56;

/// What is in the payload of a request, and comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// Tells this run from others.
    pub(super) run: u64,
    /// The number of the request.
    pub(super) number: u64,
}

/// Returns the length in bytes of the IP packet of a small request.
#[must_use]
pub const fn small(v6: bool) -> u16 {
    headers(v6) + PAYLOAD
}

const fn headers(v6: bool) -> u16 {
    HEADER as u16 + if v6 { IPV6_HEADER } else { IPV4_HEADER }
}

/// Returns the ICMP message of a request whose IP packet has so many bytes, at least 64.
pub(super) fn request(v6: bool, token: Token, length: u16) -> Vec<u8> {
    let payload = usize::from(length.saturating_sub(headers(v6))).max(2 * size_of::<u64>());
    let mut message = vec![0; HEADER + payload];
    message[0] = if v6 { 128 } else { 8 };
    // The identifier and the sequence number; the token is what counts.
    message[4..6].copy_from_slice(&token.run.to_be_bytes()[..2]);
    message[6..8].copy_from_slice(&token.number.to_be_bytes()[6..]);
    message[8..16].copy_from_slice(&token.run.to_be_bytes());
    message[16..24].copy_from_slice(&token.number.to_be_bytes());
    // The kernel computes the checksum of ICMPv6, which covers the addresses.
    if !v6 {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// Returns the token of a reply, as a raw socket gives it: with the IP header for IPv4. `None` if it is no reply.
pub(super) fn reply(v6: bool, packet: &[u8]) -> Option<Token> {
    let message = if v6 { packet } else { packet.get(usize::from(packet.first()? & 0xf) * 4..)? };
    let kind = if v6 { 129 } else { 0 };
    if message.get(..2)? != [kind, 0] {
        return None;
    }
    let number = |at: usize| Some(u64::from_be_bytes(message.get(at..at + 8)?.try_into().ok()?));
    Some(Token { run: number(8)?, number: number(16)? })
}

/// Returns the checksum of RFC 1071.
fn checksum(message: &[u8]) -> u16 {
    let words =
        message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from));
    let sum = words.fold(0_u64, |sum, word| sum + u64::from(word));
    let folded = (0..3).fold(sum, |sum, _| (sum & 0xffff) + (sum >> 16));
    !(folded as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Token = Token { run: 0x0102_0304_0506_0708, number: 70_000 };

    #[test]
    fn a_reply_gives_the_token_of_its_request() {
        for v6 in [false, true] {
            for length in [small(v6), 1449, 1450] {
                let mut message = request(v6, TOKEN, length);
                assert_eq!(message.len() + usize::from(headers(v6)) - HEADER, usize::from(length));
                assert!(v6 || checksum(&message) == 0, "a message with its checksum sums up to nothing");
                message[0] = if v6 { 129 } else { 0 };
                let mut packet = if v6 { Vec::new() } else { vec![0x45; 20] };
                packet.extend(&message);
                assert_eq!(reply(v6, &packet), Some(TOKEN));
                assert_eq!(reply(v6, &packet[..if v6 { 20 } else { 40 }]), None, "cut off");
                packet[if v6 { 0 } else { 20 }] = 3;
                assert_eq!(reply(v6, &packet), None, "no echo reply");
            }
        }
        assert_eq!((reply(false, &[]), reply(true, &[])), (None, None));
    }
}
