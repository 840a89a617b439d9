//! Messages and attributes of netlink as bytes, for families that `rtnetlink` does not have.

/// Length of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;

/// Splits the first message off: returns its type, its number, its content, and what follows.
pub(super) fn next_message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let (content, rest) = next(bytes, HEADER, u32_at(bytes, 0)?)?;
    Some((u16_at(bytes, 4)?, u32_at(bytes, 8)?, content, rest))
}

/// Splits the first attribute off: returns its type without flags, its content, and what follows.
pub(super) fn next_attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    /// `NLA_TYPE_MASK`
    const TYPE: u16 = 0x3fff;
    let (content, rest) = next(bytes, 4, u16_at(bytes, 0)?.into())?;
    Some((u16_at(bytes, 2)? & TYPE, content, rest))
}

/// Returns the content of the first attribute of this type.
pub(super) fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some((kind, content, rest)) = next_attribute(attributes) {
        if kind == wanted {
            return Some(content);
        }
        attributes = rest;
    }
    None
}

/// Splits what has a header of this length, and its whole length in it.
fn next(bytes: &[u8], header: usize, length: u32) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(length).ok()?;
    let content = bytes.get(header..length)?;
    Some((content, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// Appends a message of this type, with these flags and this number. `content` appends its content.
pub(super) fn put_message(
    bytes: &mut Vec<u8>,
    (kind, flags, number): (u16, u16, u32),
    content: impl FnOnce(&mut Vec<u8>),
) {
    let start = bytes.len();
    bytes.extend([0; 4]);
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    bytes.extend([0; 4]);
    content(bytes);
    let length = u32::try_from(bytes.len() - start).unwrap_or(u32::MAX);
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// Appends an attribute of this type.
pub(super) fn put(bytes: &mut Vec<u8>, kind: u16, content: &[u8]) {
    put_with(bytes, kind, |bytes| bytes.extend(content));
}

/// Appends an attribute of this type that consists of attributes.
pub(super) fn put_nested(bytes: &mut Vec<u8>, kind: u16, attributes: impl FnOnce(&mut Vec<u8>)) {
    /// `NLA_F_NESTED`
    const NESTED: u16 = 1 << 15;
    put_with(bytes, kind | NESTED, attributes);
}

fn put_with(bytes: &mut Vec<u8>, kind: u16, content: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend([0; 2]);
    bytes.extend(kind.to_ne_bytes());
    content(bytes);
    let length = u16::try_from(bytes.len() - start).unwrap_or(u16::MAX);
    bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut bytes = Vec::new();
        for number in [7, 8] {
            put_message(&mut bytes, (300, 1, number), |bytes| {
                put(bytes, 1, b"one");
                put_nested(bytes, 2, |bytes| put(bytes, 3, b"three"));
            });
        }
        let (kind, number, content, rest) = next_message(&bytes).unwrap();
        assert_eq!((kind, number), (300, 7));
        assert_eq!(attribute(content, 1), Some(&b"one"[..]));
        assert_eq!(attribute(attribute(content, 2).unwrap(), 3), Some(&b"three"[..]));
        assert_eq!(attribute(content, 3), None);
        let (_, number, content, rest) = next_message(rest).unwrap();
        assert_eq!((number, content.len(), rest.len()), (8, 8 + 4 + 4 + 8, 0));
    }

    #[test]
    fn what_is_cut_off_is_not_read() {
        let mut bytes = Vec::new();
        put_message(&mut bytes, (300, 1, 7), |bytes| put(bytes, 1, b"one"));
        assert!((0..bytes.len() - 1).all(|length| next_message(&bytes[..length]).is_none()));
        assert_eq!(next_attribute(&[3, 0, 1, 0]), None, "an attribute is at least 4 bytes");
    }
}
