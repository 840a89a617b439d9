//! Decodes a capture with tshark, independently of the project's code.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tempfile::NamedTempFile;

use super::{CapturedFrame, pcap};
use crate::process::{LIMIT, finish};
use crate::workdir::temp_file;

/// Options that make tshark check checksums, which it does not do by default.
const CHECKSUMS: [&str; 3] = ["ip.check_checksum:TRUE", "udp.check_checksum:TRUE", "tcp.check_checksum:TRUE"];

/// A capture that has ended.
#[derive(Debug)]
pub struct Capture {
    frames: Vec<CapturedFrame>,
    file: NamedTempFile,
}

impl Capture {
    pub(super) fn save(frames: Vec<CapturedFrame>) -> Result<Self> {
        let file = temp_file(".pcap")?;
        pcap::write(file.as_file(), &frames).context("write a pcap file")?;
        Ok(Self { frames, file })
    }

    /// Returns the captured frames.
    pub fn frames(&self) -> &[CapturedFrame] {
        &self.frames
    }

    /// Returns the path of the pcap file, which is removed when the capture is dropped.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Returns tshark's JSON for the packets that a display filter selects.
    pub fn json(&self, filter: &str) -> Result<Vec<Value>> {
        let output = self.tshark(filter, &["-T", "json"])?;
        let packets: Vec<Value> = serde_json::from_str(&output).context("tshark printed no JSON")?;
        Ok(packets.into_iter().map(|mut packet| packet["_source"]["layers"].take()).collect())
    }

    /// Returns fields of the packets that a display filter selects. A field of both outer and inner packet has both
    /// values, joined by a comma.
    pub fn fields(&self, filter: &str, fields: &[&str]) -> Result<Vec<Vec<String>>> {
        let mut args = vec!["-T", "fields"];
        args.extend(fields.iter().flat_map(|field| ["-e", field]));
        let output = self.tshark(filter, &args)?;
        Ok(output.lines().map(|line| line.split('\t').map(ToOwned::to_owned).collect()).collect())
    }

    /// Counts the packets that a display filter selects.
    pub fn count(&self, filter: &str) -> Result<usize> {
        Ok(self.fields(filter, &["frame.number"])?.len())
    }

    fn tshark(&self, filter: &str, args: &[&str]) -> Result<String> {
        let mut command = Command::new("tshark");
        command
            .arg("-n")
            .arg("-r")
            .arg(self.path())
            .args(["-d", "udp.port==8472,vxlan", "-Y", filter])
            .args(CHECKSUMS.iter().flat_map(|checked| ["-o", checked]))
            .args(args);
        finish(&mut command, "", LIMIT)
    }
}
