//! Chooses the Rust toolchain that builds the BPF programs.
//!
//! Compiled twice: in `xtask`, which installs what is missing, and by path into `flannel-agent`'s build script. So it
//! uses `std` alone.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the toolchain to use, instead of choosing one.
pub(crate) const OVERRIDE: &str = "FLANNEL_BPF_TOOLCHAIN";
/// The name of Debian's compiler in rustup, once it is linked there.
pub(crate) const LINK: &str = "bpf";
/// Major version of the LLVM that `cargo xtask setup` builds bpf-linker with. It cannot read the bitcode of compilers
/// with a newer one.
pub(crate) const LLVM: u32 = 22;

/// A toolchain that can build `bpfel-unknown-none` with `-Z build-std=core`.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// Its name in rustup.
    pub(crate) name: String,
    /// Its folder: the sysroot.
    pub(crate) root: PathBuf,
    /// Whether it accepts `-Z` flags. Others need `RUSTC_BOOTSTRAP=1`.
    pub(crate) nightly: bool,
}

/// Returns the first installed toolchain that will do, or why none does.
pub(crate) fn find() -> Result<Toolchain, String> {
    let folder = rustup_home().join("toolchains");
    let names = env::var(OVERRIDE).map_or_else(|_| installed(&folder), |name| vec![name]);
    let mut refused = Vec::new();
    for name in names {
        match examine(&name, folder.join(&name)) {
            Ok(toolchain) => return Ok(toolchain),
            Err(reason) => refused.push(format!("{name} {reason}")),
        }
    }
    Err(if refused.is_empty() { "rustup has no toolchain".into() } else { refused.join("; ") })
}

fn installed(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_by_key(|name| preference(name));
    names
}

/// Orders toolchains: a nightly, which users of aya have, then the one linked for this purpose, then the others.
fn preference(name: &str) -> (u8, String) {
    let rank = match name {
        _ if name.starts_with("nightly") => 0,
        LINK => 1,
        _ if name.starts_with("stable") => 2,
        _ => 3,
    };
    (rank, name.to_owned())
}

fn examine(name: &str, root: PathBuf) -> Result<Toolchain, String> {
    if !root.join("lib/rustlib/src/rust/library/core").is_dir() {
        return Err("has no rust-src".into());
    }
    let compiler = root.join("bin/rustc");
    let output = Command::new(compiler).arg("-vV").output().map_err(|e| format!("does not run ({e})"))?;
    let version =
        Version::parse(&String::from_utf8_lossy(&output.stdout)).ok_or("does not print its version")?;
    version.check()?;
    Ok(Toolchain { name: name.to_owned(), root, nightly: version.nightly })
}

/// The parts of `rustc -vV` that matter here.
#[derive(Debug, PartialEq)]
struct Version {
    release: (u32, u32),
    nightly: bool,
    llvm: u32,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let field = |name| text.lines().find_map(|line| line.strip_prefix(name));
        let release = field("release: ")?;
        let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
        Some(Self { release: major_minor(release)?, nightly: release.contains("-nightly"), llvm })
    }

    fn check(&self) -> Result<(), String> {
        let needed = env!("CARGO_PKG_RUST_VERSION");
        if Some(self.release) < major_minor(needed) {
            return Err(format!("is older than Rust {needed}"));
        }
        if self.llvm > LLVM {
            return Err(format!("has LLVM {}, newer than bpf-linker's {LLVM}", self.llvm));
        }
        Ok(())
    }
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-']).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

fn rustup_home() -> PathBuf {
    env::var_os("RUSTUP_HOME")
        .map_or_else(|| env::home_dir().unwrap_or_default().join(".rustup"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIGHTLY: &str = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
        host: x86_64-unknown-linux-gnu\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";

    #[test]
    fn version_is_read_from_the_compilers_output() {
        let nightly = Version { release: (1, 97), nightly: true, llvm: 22 };
        assert_eq!(Version::parse(NIGHTLY), Some(nightly));
        let stable = NIGHTLY.replace("-nightly", "");
        assert_eq!(Version::parse(&stable), Some(Version { release: (1, 97), nightly: false, llvm: 22 }));
        assert_eq!(Version::parse("error: toolchain is not installed"), None);
    }

    #[test]
    fn old_compilers_and_newer_llvms_are_refused_with_a_reason() {
        let version = |release, llvm| Version { release, nightly: false, llvm };
        assert_eq!(version((1, 95), LLVM).check(), Ok(()));
        assert_eq!(version((1, 100), LLVM - 1).check(), Ok(()));
        assert!(version((1, 94), LLVM).check().is_err_and(|reason| reason.contains("older than Rust")));
        assert!(version((1, 99), LLVM + 1).check().is_err_and(|reason| reason.contains("newer than")));
    }

    #[test]
    fn nightly_comes_before_the_link_and_the_link_before_stable() {
        let mut names = ["1.95.0", "stable", "bpf", "nightly"];
        names.sort_by_key(|name| preference(name));
        assert_eq!(names, ["nightly", "bpf", "stable", "1.95.0"]);
    }
}
