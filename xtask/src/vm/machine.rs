//! The virtual machine: qemu as a guard, its console as our output.

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
use crate::phase;

/// What the last line on the console begins with; the tests' exit status follows.
pub(super) const END: &str = "xtask-vm-exit ";
/// Many times what it takes: a machine that hangs shall not hold up for ever.
const LIMIT: Duration = Duration::from_secs(30 * 60);
const LOOK: Duration = Duration::from_millis(100);
/// Lines of the kernel's log to show when something goes wrong.
const TAIL: usize = 40;
/// Emulated, because hardware for it is not everywhere. The processor lacks what costs an emulator most: string
/// instructions that are told to be fast (`erms`, `fsrm`) go byte by byte. Two network cards are joined to each other. The machine has one console for the tests; the
/// kernel's follows.
const MACHINE: &str = "-accel tcg,thread=multi -cpu max,erms=off,fsrm=off -smp 2 -m 3072 \
    -nodefaults -display none -no-reboot \
    -virtfs local,path=/,mount_tag=files,security_model=none,readonly=on,multidevs=remap \
    -netdev hubport,id=one,hubid=0 -device virtio-net-pci,netdev=one,romfile= \
    -netdev hubport,id=other,hubid=0 -device virtio-net-pci,netdev=other,romfile= \
    -serial file:/dev/stdout -serial";
/// A kernel that panics ends the machine. The rest is for speed: nothing here is secret, and reading the emulated TSC
/// takes less than reading another clock.
const COMMAND_LINE: &str = "console=ttyS1 panic=-1 mitigations=off clocksource=tsc tsc=reliable";

/// A running virtual machine; dropped, it ends. It has no disk, and can only read this machine's files.
pub(super) struct Machine {
    qemu: Child,
    log: PathBuf,
}

impl Machine {
    /// Starts it; the kernel's messages go to the file `log`.
    pub(super) fn boot(mut qemu: Command, kernel: &Kernel, initramfs: &Path, log: &Path) -> Result<Self> {
        qemu.args(MACHINE.split(' ')).arg(format!("file:{}", log.display()));
        qemu.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(initramfs);
        qemu.args(["-append", COMMAND_LINE]).stdin(Stdio::null()).stdout(Stdio::piped());
        // Ctrl-C is for us alone: whoever reads the console must not find the machine gone.
        qemu.process_group(0);
        let parent = getpid();
        let end_with_parent = move || {
            set_pdeathsig(Signal::SIGKILL)?;
            // It may have ended before.
            if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
        };
        // SAFETY: between fork and exec only prctl and getppid are called, bare system calls.
        unsafe { qemu.pre_exec(end_with_parent) };
        let qemu = qemu.spawn().context("cannot run qemu-system-x86_64")?;
        Ok(Self { qemu, log: log.to_owned() })
    }

    /// Prints what the tests say, as they say it, and ends as they end.
    pub(super) fn watch(mut self) -> Result<()> {
        let console = lines_of(self.qemu.stdout.take().context("the machine has a console")?);
        let start = Instant::now();
        let status = loop {
            if interrupt::came() {
                bail!("interrupted; the virtual machine is gone");
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

/// What comes from the console, line by line, until it closes.
fn lines_of(console: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let lines = BufReader::new(console).split(b'\n').map_while(Result::ok);
        // It fails when nobody listens any more.
        lines.map(|line| text(&line)).try_for_each(|line| sender.send(line))
    });
    receiver
}

/// A terminal's line ends with a carriage return, too.
fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches('\r').to_owned()
}
