//! Mutations of good texts.

use fastrand::Rng;

/// Parts that mean something to one of the parsers.
const PARTS: [&str; 24] = [
    "0",
    "1",
    "255",
    "256",
    "-",
    "&",
    "/",
    ".",
    ":",
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    "null",
    "true",
    "\n",
    "\u{1b}[2J",
    "0.0.0.0",
    "fd44::-64",
    "4294967296",
    "ö",
    "\\u0000",
];

/// Returns the last part of a lease's key, and a value. Half of the pairs have one good side.
pub(super) fn lease(random: &mut Rng) -> (String, String) {
    let third = random.u8(66..);
    let (key, value) = (key(random, third), value(random, third));
    match random.u8(..4) {
        0 => (key, mutated(random, &value)),
        1 => (mutated(random, &key), value),
        2 => (mutated(random, &key), mutated(random, &value)),
        _ => (key, value.replace("vxlan", random.choice(["vxlan", "host-gw", ""]).unwrap_or_default())),
    }
}

/// Returns the key of a subnet of the network, or of one beside it, of any length.
fn key(random: &mut Rng, third: u8) -> String {
    let second = if random.u8(..8) == 0 { random.u8(..) } else { 5 };
    match random.u8(..6) {
        0 => format!("10.{second}.{third}.0-{}", random.u8(..40)),
        1 => format!("10.{second}.{third}.{}-24", random.u8(..)),
        2 => format!("10.{second}.{third}.0-24&fd44:0:0:{third:x}::-64"),
        _ => format!("10.{second}.{third}.0-24"),
    }
}

fn value(random: &mut Rng, third: u8) -> String {
    let vni = if random.u8(..8) == 0 { random.u32(..) } else { 1 };
    let first = if random.u8(..8) == 0 { random.u8(..) } else { 0xc6 };
    format!(
        r#"{{"PublicIP":"192.168.64.{third}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":{vni},"VtepMAC":"{first:02x}:d2:32:6f:8f:{third:02x}"}}}}"#
    )
}

/// Returns a mutated configuration. Some are still good.
pub(super) fn config(random: &mut Rng, good: &str) -> String {
    mutated(random, good)
}

/// Makes one to three changes of a text.
fn mutated(random: &mut Rng, text: &str) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    for _ in 0..random.usize(1..4) {
        let at = random.usize(..=letters.len());
        let end = (at + random.usize(..6)).min(letters.len());
        match random.u8(..6) {
            0 => drop(letters.drain(at..end)),
            1 => {
                let part = random.choice(PARTS).unwrap_or_default();
                drop(letters.splice(at..end, part.chars()));
            }
            2 => {
                let part = random.choice(PARTS).unwrap_or_default();
                drop(letters.splice(at..at, part.chars()));
            }
            3 => letters.truncate(at),
            4 => {
                let copy: Vec<_> = letters[at..end].to_vec();
                drop(letters.splice(at..at, copy));
            }
            _ => {
                if let Some(letter) = letters.get_mut(at) {
                    *letter = char::from(random.u8(b' '..b'~'));
                }
            }
        }
    }
    letters.into_iter().collect()
}
