//! Writes the pcap file format.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Result;

use super::CapturedFrame;

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const VERSION: [u16; 2] = [2, 4];
const SNAP_LENGTH: u32 = 1 << 18;
const ETHERNET: u32 = 1;

pub(super) fn write(file: &File, frames: &[CapturedFrame]) -> Result<()> {
    let mut file = BufWriter::new(file);
    file.write_all(&MAGIC_MICROSECONDS.to_ne_bytes())?;
    for part in VERSION {
        file.write_all(&part.to_ne_bytes())?;
    }
    for word in [0, 0, SNAP_LENGTH, ETHERNET] {
        file.write_all(&word.to_ne_bytes())?;
    }
    for frame in frames {
        let since = frame.time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let length = u32::try_from(frame.bytes.len())?;
        for word in [since.as_secs() as u32, since.subsec_micros(), length, length] {
            file.write_all(&word.to_ne_bytes())?;
        }
        file.write_all(&frame.bytes)?;
    }
    Ok(file.flush()?)
}
