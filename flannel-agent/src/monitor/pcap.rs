//! `monitor --pcap`: writes the packets between this node's pods and other nodes as they are within the tunnel, also those that skip the
//! host stack, where tcpdump on the vxlan device does not see them.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use flannel_common::capture::{Net, Wanted};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::tap::{Copied, Tap};
use crate::dataplane::bpf::capture::{net, places};
use crate::lease::SubnetKey;
use crate::paths::Paths;
use crate::subnet_file;

/// The longest packet that is received: an aggregate of TCP.
const LONGEST: u32 = 1 << 18;
/// Period of looking for packets that were left out.
const PERIOD: Duration = Duration::from_secs(1);
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Which packets are written, and where to.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Packets")]
pub struct Recorded {
    /// Also write the packets between this node's pods and other nodes to this file, as they are within the tunnel; `-` is the output, for
    /// `tcpdump -nr -` or Wireshark, and nothing else is shown. Unlike tcpdump on the vxlan device it sees the packets that skip the host
    /// stack.
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// At most so many packets in a second and CPU. Further ones are counted.
    #[arg(long, value_name = "PACKETS", default_value_t = 10_000, requires = "pcap")]
    pub pcap_rate: u32,
    /// At most so many bytes of each packet.
    #[arg(long, value_name = "BYTES", default_value_t = LONGEST, requires = "pcap",
        value_parser = clap::value_parser!(u32).range(64..=i64::from(LONGEST)))]
    pub pcap_length: u32,
}

/// Copies packets to a file.
pub(super) struct Recording {
    taps: Vec<Tap>,
    signals: SignalFd,
    file: PcapFile<Box<dyn Write>>,
    /// Room for one packet.
    buffer: Vec<u8>,
    written: u64,
    left_out: u64,
}

impl Recording {
    /// Begins to copy packets. SIGINT and SIGTERM then end [`Self::run`] instead of the process; this is to be called before other threads
    /// start.
    ///
    /// # Errors
    /// There are no programs on this node; no privilege; the file cannot be written; or the output is a terminal.
    pub(super) fn start(
        to: &Path,
        Recorded { pcap_rate, pcap_length, .. }: &Recorded,
        only: Option<IpNet>,
        paths: &Paths,
    ) -> Result<Self> {
        let places = places(&paths.bpffs).context("packets cannot be copied")?;
        let mut own = [Net::NONE; 2];
        let subnets = subnet_file::read_previous(&paths.subnet_file);
        for (own, subnet) in own.iter_mut().zip(subnets.iter().flat_map(SubnetKey::nets)) {
            *own = net(subnet);
        }
        let open = |(uplink, vni, port)| {
            let all = Wanted::of(vni, port);
            let only = only.map_or(all.only, net);
            Tap::open(uplink, Wanted { rate: *pcap_rate, length: *pcap_length, own, only, ..all })
        };
        let taps = places.into_iter().map(open).collect::<Result<_>>()?;
        Ok(Self {
            taps,
            signals: block_signals()?,
            file: PcapFile::begin(output(to)?)?,
            buffer: vec![0; LONGEST as usize],
            written: 0,
            left_out: 0,
        })
    }

    /// Writes packets until a signal, until the reader has gone away, or until this is so.
    ///
    /// # Errors
    /// The file cannot be written, or an uplink is gone.
    pub(super) fn run(&mut self, is_over: impl Fn() -> bool) -> Result<()> {
        let mut next = Instant::now() + PERIOD;
        let end = loop {
            match self.write_all() {
                Err(error) if is_broken_pipe(&error) => break Ok(()),
                Err(error) => break Err(error),
                Ok(()) => {}
            }
            if Instant::now() >= next {
                next += PERIOD;
                self.report_left_out()?;
            }
            if is_over() || self.wait(next)? {
                break self.write_all();
            }
        };
        self.report_left_out()?;
        eprintln!("{} packets", self.written);
        end
    }

    /// Writes what there is.
    fn write_all(&mut self) -> Result<()> {
        for tap in &self.taps {
            while let Some(copied) = tap.next(&mut self.buffer).context("receiving packets of the uplink")? {
                self.file.write(&copied)?;
                self.written += 1;
            }
        }
        Ok(self.file.flush()?)
    }

    /// Says how many packets were left out, if there are more than before.
    fn report_left_out(&mut self) -> Result<()> {
        let mut left_out = 0;
        for tap in &mut self.taps {
            left_out += tap.left_out()?;
        }
        if left_out > self.left_out {
            self.left_out = left_out;
            eprintln!(
                "{left_out} packets are left out so far: --pcap-rate and --address limit what is copied"
            );
        }
        Ok(())
    }

    /// Waits for packets, a signal or this time. Returns whether there was a signal.
    fn wait(&self, next: Instant) -> Result<bool> {
        let mut waiting = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        waiting.extend(self.taps.iter().map(|tap| PollFd::new(tap.as_fd(), PollFlags::POLLIN)));
        let limit = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        match poll(&mut waiting, PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)) {
            Ok(_) => Ok(waiting[0].any().unwrap_or_default()),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error).context("waiting for packets"),
        }
    }
}

/// Opens what packets are written to.
fn output(to: &Path) -> Result<Box<dyn Write>> {
    if to != Path::new("-") {
        let file = File::create(to).with_context(|| format!("--pcap {}", to.display()))?;
        return Ok(Box::new(file));
    }
    if io::stdout().is_terminal() {
        bail!(
            "--pcap -: packets are no text for a terminal; read them with `| tcpdump -nr -`, or name a file"
        );
    }
    // Its own buffer would look for ends of lines.
    Ok(Box::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
}

/// Makes signals that end the process readable.
fn block_signals() -> Result<SignalFd> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block().context("blocking signals")?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("waiting for signals")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// A file of packets in the format of libpcap, with times in nanoseconds (draft-ietf-opsawg-pcap).
struct PcapFile<W: Write>(BufWriter<W>);

impl<W: Write> PcapFile<W> {
    const MAGIC: u32 = 0xa1b2_3c4d;
    const VERSION: [u16; 2] = [2, 4];
    /// Ethernet.
    const LINK_TYPE: u32 = 1;

    /// Writes the file's header.
    fn begin(output: W) -> io::Result<Self> {
        let mut file = BufWriter::new(output);
        let [major, minor] = Self::VERSION.map(u16::to_ne_bytes);
        file.write_all(&[Self::MAGIC.to_ne_bytes(), [major[0], major[1], minor[0], minor[1]]].concat())?;
        // Two fields that are not used, and the longest packet.
        file.write_all(&[0, 0, LONGEST, Self::LINK_TYPE].map(u32::to_ne_bytes).concat())?;
        file.flush()?;
        Ok(Self(file))
    }

    /// Writes a packet.
    fn write(&mut self, Copied { frame, at }: &Copied<'_>) -> io::Result<()> {
        // The format's seconds have 32 bits.
        let seconds = at.as_secs() as u32;
        let record = [seconds, at.subsec_nanos(), frame.len() as u32, length_on_the_wire(frame)];
        self.0.write_all(&record.map(u32::to_ne_bytes).concat())?;
        self.0.write_all(frame)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Returns how long the frame was before it was cut off, as its IP header says.
fn length_on_the_wire(frame: &[u8]) -> u32 {
    let word = |at: usize| {
        let word = frame.get(at..at + 2).and_then(|word| word.try_into().ok());
        usize::from(word.map_or(0, u16::from_be_bytes))
    };
    let length = match word(ETHERNET - 2) {
        0x0800 => ETHERNET + word(ETHERNET + 2),
        0x86dd => ETHERNET + 40 + word(ETHERNET + 4),
        _ => 0,
    };
    length.max(frame.len()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_header_and_a_record_for_each_packet() {
        let mut ipv4 = [0; 60];
        ipv4[12..18].copy_from_slice(&[0x08, 0x00, 0x45, 0, 0x05, 0xdc]);
        let mut ipv6 = [0; 60];
        ipv6[12..20].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0x05, 0xb4]);
        let frames: [(&[u8], u32); 4] = [(&ipv4, 1514), (&ipv6, 1514), (&[0; 60], 60), (&ipv4[..14], 14)];
        let mut file = PcapFile::begin(Vec::new()).unwrap();
        for (frame, _) in frames {
            file.write(&Copied { frame, at: Duration::new(5, 7) }).unwrap();
        }
        let bytes = file.0.into_inner().unwrap();
        let numbers = |from: usize, count: usize| -> Vec<u32> {
            let words = bytes[from..].chunks_exact(4).take(count);
            words.map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect()
        };
        assert_eq!(numbers(0, 1), [0xa1b2_3c4d]);
        assert_eq!(bytes[4..8], [2_u16, 4].map(u16::to_ne_bytes).concat());
        assert_eq!(numbers(8, 4), [0, 0, 1 << 18, 1]);
        let mut at = 24;
        for (frame, length) in frames {
            assert_eq!(numbers(at, 4), [5, 7, frame.len() as u32, length]);
            assert_eq!(&bytes[at + 16..at + 16 + frame.len()], frame);
            at += 16 + frame.len();
        }
        assert_eq!(at, bytes.len());
    }
}
