//! The virtual machine: a qemu process that ends with its owner, and whose console is printed.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use flannel_tests::interrupt;
use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{getpid, getppid};

use super::kernel::Kernel;
use crate::architecture::Emulation;
use crate::phase;

/// Begins the last line on the console. The tests' exit status follows.
pub(super) const END: &str = "xtask-vm-exit ";
/// Many times what the tests take. A machine that hangs ends then.
const LIMIT: Duration = Duration::from_secs(30 * 60);
const LOOK: Duration = Duration::from_millis(100);
/// Lines of the kernel's log to show when something goes wrong.
const TAIL: usize = 40;
/// What all machines have. They are emulated, since not every machine can run others. Two network cards are joined.
const MACHINE: &str = "-accel tcg,thread=multi -smp 2 -m 3072 -nodefaults -display none -no-reboot \
    -netdev hubport,id=one,hubid=0 -device virtio-net-pci,netdev=one,romfile= \
    -netdev hubport,id=other,hubid=0 -device virtio-net-pci,netdev=other,romfile=";
/// A kernel that panics ends the machine. Mitigations cost time, and nothing on the machine is secret.
const PARAMETERS: &str = "panic=-1 mitigations=off";

/// What a machine boots and sees.
pub(super) struct Setup<'a> {
    /// What qemu and the kernel are given for the architecture.
    pub(super) emulation: &'a Emulation,
    /// The kernel.
    pub(super) kernel: &'a Kernel,
    /// The first root.
    pub(super) initramfs: &'a Path,
    /// The folders to share, each with a tag.
    pub(super) shares: &'a [(&'static str, &'a Path)],
    /// Where the kernel's messages go.
    pub(super) log: &'a Path,
}

impl Setup<'_> {
    /// Adds it to the command of qemu.
    fn describe(&self, qemu: &mut Command) {
        let Self { emulation, kernel, initramfs, shares, log } = self;
        for arguments in [MACHINE, emulation.board, emulation.tests_port] {
            qemu.args(arguments.split_whitespace());
        }
        qemu.arg("-serial").arg(format!("file:{}", log.display()));
        for (tag, folder) in *shares {
            qemu.arg("-virtfs").arg(share(tag, folder));
        }
        qemu.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(initramfs);
        let parameters = format!("console={} {PARAMETERS} {}", emulation.kernel_port, emulation.parameters);
        qemu.arg("-append").arg(parameters);
    }
}

/// Returns the value of qemu's option that shares a folder, to be read only. Commas in it are doubled.
fn share(tag: &str, folder: &Path) -> String {
    let path = folder.display().to_string().replace(',', ",,");
    format!("local,path={path},mount_tag={tag},security_model=none,readonly=on,multidevs=remap")
}

/// A running virtual machine. It ends when it is dropped. It has no disk, and cannot write to shared folders.
pub(super) struct Machine {
    qemu: Child,
    log: PathBuf,
}

impl Machine {
    /// Starts it.
    pub(super) fn boot(mut qemu: Command, setup: &Setup) -> Result<Self> {
        setup.describe(&mut qemu);
        qemu.stdin(Stdio::null()).stdout(Stdio::piped());
        // Ctrl-C reaches this process alone, which then ends the machine.
        qemu.process_group(0);
        let parent = getpid();
        let end_with_parent = move || {
            set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have ended before.
            if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
        };
        // SAFETY: between fork and exec only prctl and getppid are called, bare system calls.
        unsafe { qemu.pre_exec(end_with_parent) };
        let qemu = qemu.spawn().with_context(|| format!("cannot run {}", qemu.get_program().display()))?;
        Ok(Self { qemu, log: setup.log.to_owned() })
    }

    /// Prints the tests' output as it comes. Fails if a test does.
    pub(super) fn watch(mut self) -> Result<()> {
        let console = lines_of(self.qemu.stdout.take().context("the machine has a console")?);
        let start = Instant::now();
        let status = loop {
            if interrupt::came() {
                bail!("interrupted; the virtual machine has ended");
            }
            if start.elapsed() > LIMIT {
                bail!(
                    "the virtual machine has not ended its tests in {} s\n{}",
                    LIMIT.as_secs(),
                    self.tail()
                );
            }
            match console.recv_timeout(LOOK) {
                Ok(line) => match line.strip_prefix(END) {
                    Some(status) => break status.to_owned(),
                    None => println!("{line}"),
                },
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the virtual machine ended before its tests\n{}", self.tail())
                }
            }
        };
        if status == "0" { Ok(()) } else { bail!("tests failed in the virtual machine (status {status})") }
    }

    fn tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        format!("--- its kernel (the end of {})\n{tail}\n---", self.log.display())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = self.qemu.kill().and_then(|()| self.qemu.wait()) {
            phase::note(&format!("cannot end the virtual machine {}: {error}", self.qemu.id()));
        }
    }
}

/// Sends the lines of the console until it closes.
fn lines_of(console: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let lines = BufReader::new(console).split(b'\n').map_while(Result::ok);
        // Fails when the receiver is dropped.
        lines.map(|line| text(&line)).try_for_each(|line| sender.send(line))
    });
    receiver
}

/// Returns a line without the carriage return that a terminal adds.
fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches('\r').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_a_shared_path_do_not_end_it() {
        assert!(share("files", Path::new("/a,b")).starts_with("local,path=/a,,b,mount_tag=files,"));
    }
}
