//! Base64, the encoding of keys and values in etcd's JSON gateway.

use anyhow::{Context as _, Result};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const SEXTET: usize = 6;

pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len().div_ceil(3) * 4);
    for chunk in text.as_bytes().chunks(3) {
        let bits = (0..3).fold(0usize, |bits, i| bits << 8 | usize::from(chunk.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let sextet = bits >> (SEXTET * (3 - i)) & 63;
            out.push(if i <= chunk.len() { ALPHABET[sextet].into() } else { '=' });
        }
    }
    out
}

pub(super) fn decode(text: &str) -> Result<String> {
    let (mut bits, mut held, mut out) = (0usize, 0, Vec::new());
    for letter in text.trim_end_matches('=').bytes() {
        let sextet = ALPHABET.iter().position(|known| *known == letter).context("not base64")?;
        bits = (bits << SEXTET | sextet) & 0xffff;
        held += SEXTET;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held & 0xff) as u8);
        }
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}
