//! cpio archives in the "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst in Linux's sources).

use std::io::Write as _;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
/// Headers and contents begin at multiples of it.
const ALIGNMENT: usize = 4;

/// An archive in memory; everything in it belongs to root.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a folder.
    pub(super) fn folder(&mut self, name: &str) {
        self.add(name, FOLDER, &[]);
    }

    /// Adds a file that can be executed. Its folder has to be there before it.
    pub(super) fn program(&mut self, name: &str, contents: &[u8]) {
        self.add(name, PROGRAM, contents);
    }

    /// The archive, complete.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn add(&mut self, name: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        // Number, mode, user, group, links, time, size, device, device of a special file, length of name, checksum.
        let fields =
            [self.entries, mode, 0, 0, 1, 0, contents.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            // Writing to memory does not fail.
            let _ = write!(self.bytes, "{field:08x}");
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.align();
        self.bytes.extend(contents);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn another_program_reads_it() {
        let mut archive = Archive::default();
        archive.folder("bin");
        archive.program("bin/odd", b"seven b");
        archive.program("init", b"#!/bin/sh\n");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("archive");
        fs::write(&file, archive.end()).unwrap();
        let mut busybox = Command::new("busybox");
        busybox.args(["cpio", "-i"]).current_dir(&folder).stdin(fs::File::open(&file).unwrap());
        assert!(busybox.stderr(Stdio::null()).status().unwrap().success());
        assert_eq!(fs::read(folder.path().join("bin/odd")).unwrap(), b"seven b");
        assert_eq!(fs::read(folder.path().join("init")).unwrap(), b"#!/bin/sh\n");
    }
}
