//! The processor architectures that releases are built for and virtual machines emulate.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::setup;

/// What differs between architectures.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Architecture {
    /// The name that rustc, qemu and `uname -m` use.
    pub(crate) name: &'static str,
    /// The name that Debian uses.
    pub(crate) debian: &'static str,
    /// rustc's target for static binaries.
    pub(crate) target: &'static str,
    /// The machine that its programs name in their headers.
    pub(crate) machine: object::Architecture,
    /// A machine that qemu emulates.
    pub(crate) emulation: Emulation,
}

/// What qemu, which is `qemu-system-<name>`, and the emulated machine's kernel are given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Emulation {
    /// Debian's package of qemu.
    pub(crate) qemu: &'static str,
    /// Board and processor, as qemu's arguments.
    pub(crate) board: &'static str,
    /// The port `/dev/ttyS0`, on which the tests print, as qemu's arguments.
    pub(crate) tests_port: &'static str,
    /// The port on which the kernel prints. It is qemu's next serial port.
    pub(crate) kernel_port: &'static str,
    /// Further parameters of the kernel.
    pub(crate) parameters: &'static str,
}

/// All of them.
pub(crate) static ALL: [Architecture; 2] = [
    Architecture {
        name: "x86_64",
        debian: "amd64",
        target: "x86_64-unknown-linux-musl",
        machine: object::Architecture::X86_64,
        emulation: Emulation {
            qemu: "qemu-system-x86",
            // String instructions that are said to be fast (`erms`, `fsrm`) are the slowest to emulate: byte by byte.
            board: "-cpu max,erms=off,fsrm=off",
            tests_port: "-serial file:/dev/stdout",
            kernel_port: "ttyS1",
            // Reading the emulated TSC takes less than reading another clock.
            parameters: "clocksource=tsc tsc=reliable",
        },
    },
    Architecture {
        name: "aarch64",
        debian: "arm64",
        target: "aarch64-unknown-linux-musl",
        machine: object::Architecture::Aarch64,
        emulation: Emulation {
            qemu: "qemu-system-arm",
            // The algorithm that pointers are signed with by default is slow to emulate.
            board: "-machine virt -cpu max,pauth-impdef=on",
            tests_port: "-chardev file,id=tests,path=/dev/stdout -device pci-serial,chardev=tests",
            kernel_port: "ttyAMA0",
            parameters: "",
        },
    },
];

impl Architecture {
    /// Returns the one with this name, or with this name of Debian's.
    pub(crate) fn named(name: &str) -> Result<&'static Self, String> {
        let names = ALL.each_ref().map(|architecture| architecture.name);
        let found = ALL.iter().find(|architecture| [architecture.name, architecture.debian].contains(&name));
        found.ok_or_else(|| format!("choose one of {}", names.join(", ")))
    }

    /// Returns this machine's.
    pub(crate) fn native() -> Result<&'static Self> {
        let name = env::consts::ARCH;
        ALL.iter()
            .find(|architecture| architecture.name == name)
            .with_context(|| format!("{name} is not supported"))
    }

    /// Returns whether it is this machine's.
    pub(crate) fn is_native(&self) -> bool {
        self.name == env::consts::ARCH
    }

    /// Makes a cargo command build static binaries for the architecture. musl comes with rustc's target; the compiler
    /// of Debian's C library compiles ring's C code, which calls no library, and links.
    pub(crate) fn select<'a>(&self, cargo: &'a mut Command) -> &'a mut Command {
        let compiler = format!("{}-linux-gnu-gcc", self.name);
        let variable = self.target.replace('-', "_");
        cargo.args(["--target", self.target]);
        cargo.env(format!("CC_{variable}"), &compiler);
        cargo.env(format!("CARGO_TARGET_{}_LINKER", variable.to_uppercase()), &compiler)
    }

    /// Finds or downloads Rust's standard library for the target.
    pub(crate) fn ensure_target(&self) -> Result<()> {
        let mut rustc = Command::new("rustc");
        let output = rustc.args(["--print", "target-libdir", "--target", self.target]).output();
        let output = output.context("cannot run rustc")?;
        ensure!(output.status.success(), "rustc does not know the target {}", self.target);
        let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        if folder.is_dir() {
            return Ok(());
        }
        setup::rust::add_target(self.target).with_context(|| {
            format!("Rust's target {0} is missing: `rustup target add {0}` downloads it", self.target)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_answered_with_those_that_are_known() {
        assert_eq!(Architecture::named("aarch64").unwrap().debian, "arm64");
        assert_eq!(Architecture::named("arm64").unwrap().name, "aarch64");
        assert_eq!(Architecture::named("armv7").unwrap_err(), "choose one of x86_64, aarch64");
    }

    #[test]
    fn cargo_is_given_a_compiler_for_the_target() {
        let mut cargo = Command::new("cargo");
        Architecture::named("aarch64").unwrap().select(&mut cargo);
        let variables: Vec<_> = cargo.get_envs().map(|(name, value)| (name.to_str(), value)).collect();
        let compiler = Some("aarch64-linux-gnu-gcc".as_ref());
        assert!(variables.contains(&(Some("CC_aarch64_unknown_linux_musl"), compiler)));
        assert!(variables.contains(&(Some("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER"), compiler)));
    }
}
