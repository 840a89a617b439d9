//! `flannel-agent monitor --pcap`: packets that skip the host stack, as tcpdump reads them.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use flannel_common::outcome::{Hook, MetricsKey, Verdict};
use flannel_tests::agent::subcommand;
use flannel_tests::process::{LIMIT, finish};
use flannel_tests::traffic::{At, UdpSession, ping};
use flannel_tests::wait::patiently;
use flannel_tests::{AgentBuilder, Node, TestResult, Topology, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::ipv6::DUAL;
use crate::inspect;
use crate::overlay::{NETWORK, Overlay, with_backend_keys};

/// Time limit for the subcommand to begin, and to end.
const SOON: Duration = Duration::from_secs(10);
const NO_XDP: &str = "--xdp=off";
/// Bytes of the header of a file.
const HEADER: u64 = 24;

/// The running subcommand.
struct Recording {
    child: Child,
    file: PathBuf,
    errors: PathBuf,
}

impl Recording {
    /// Starts it on a node, and waits until it copies packets.
    fn start(node: &Node, words: &[&str]) -> Result<Self> {
        let [file, errors] = ["pcap", "errors"].map(|name| node.dir().join(name));
        let mut command = command(node, &file, words)?;
        let child = command.stdout(Stdio::null()).stderr(File::create(&errors)?).spawn()?;
        let mut recording = Self { child, file, errors };
        eventually("packets are copied", SOON, || {
            let ended = recording.child.try_wait()?;
            ensure!(ended.is_none(), "{ended:?}: {}", recording.said()?);
            ensure!(recording.file.metadata()?.len() >= HEADER, "the file has no header");
            Ok(())
        })?;
        Ok(recording)
    }

    fn said(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.errors)?)
    }

    /// Ends it as Ctrl-C does. Returns what it has said, and the lines of tcpdump.
    fn stop(mut self) -> Result<(String, Vec<String>)> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT)?;
        let status = wait_ended(&mut self.child)?;
        ensure!(status, "it fails: {}", self.said()?);
        let said = self.said()?;
        Ok((said, tcpdump(&self.file)?))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Both fail if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(node: &Node, file: &Path, words: &[&str]) -> Result<Command> {
    let mut command = subcommand(node, "monitor")?;
    command.arg("--pcap").arg(file).args(words);
    Ok(command)
}

/// Waits until a process has ended. Returns whether that was a success, and not a signal.
fn wait_ended(child: &mut Child) -> Result<bool> {
    eventually("it ends", SOON, || child.try_wait()?.context("it runs"))
        .map(|status| status.success() && status.signal().is_none())
}

/// Returns the packets of a file, a line for each: seconds, and what tcpdump says.
fn tcpdump(file: &Path) -> Result<Vec<String>> {
    let text = finish(Command::new("tcpdump").args(["-nn", "-tt", "-r"]).arg(file), "", LIMIT)?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Returns how many packets of pods have skipped the host stack, in whatever way.
fn skipped(node: &Node) -> Result<u64> {
    let is_skip = |key: &MetricsKey| key.hook == Hook::PodEgress && key.outcome.verdict() == Verdict::Carried;
    let counters = inspect::metrics(node)?;
    Ok(counters.iter().filter(|(key, _)| is_skip(key)).map(|(_, traffic)| traffic.packets).sum())
}

/// Starts two nodes with a pod each, and lets a flow between them skip the host stack.
fn proven(network: &str, flag: &str) -> Result<(Overlay, UdpSession)> {
    let change = |agent: AgentBuilder| agent.arg(flag);
    let overlay = Overlay::launch(network, Topology::segment(2), &["--dataplane=bpf"; 2], 1, change)?;
    overlay.wait_plugged()?;
    let (one, other) = overlay.two_pods();
    patiently("pods reach each other", SOON, || ping(one, other.ip()).and(ping(other, one.ip())))?;
    let mut session = UdpSession::open(one, other)?;
    let node = &overlay.nodes()[0];
    let round = inspect::Round { exchanges: 5, least: 5, within: SOON };
    let sent = || skipped(node).map(|sent| (sent, sent));
    inspect::ensure_shortcut(round, sent, || session.echo(100))?;
    Ok((overlay, session))
}

#[test]
fn each_packet_of_a_proven_flow_is_written() -> TestResult {
    each_packet_is_written(NETWORK, NO_XDP)
}

#[test]
fn so_are_packets_on_the_link() -> TestResult {
    let network = with_backend_keys(NETWORK, r#""DirectRouting":true"#);
    each_packet_is_written(&network, NO_XDP)?;
    each_packet_is_written(&network, "--xdp=native")
}

/// The socket gets packets whose outer headers XDP has removed, and loses none of them.
#[test]
fn so_are_packets_that_xdp_has_unwrapped() -> TestResult {
    each_packet_is_written(NETWORK, "--xdp=native")?;
    each_packet_is_written(NETWORK, "--xdp=generic")
}

fn each_packet_is_written(network: &str, flag: &str) -> TestResult {
    const ECHOES: usize = 40;
    let (overlay, mut session) = proven(network, flag)?;
    let [client, server] = [session.client()?, session.server()?];
    let begin = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let recording = Recording::start(&overlay.nodes()[0], &["--address", &server.ip().to_string()])?;
    (0..ECHOES).try_for_each(|_| session.echo(100))?;
    let end = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let (said, lines) = recording.stop()?;
    let dotted = |end: std::net::SocketAddr| format!("{}.{}", end.ip(), end.port());
    let [client, server] = [client, server].map(dotted);
    for (from, to) in [(&client, &server), (&server, &client)] {
        let packet = format!(" IP {from} > {to}: UDP, length 100");
        let found: Vec<_> = lines.iter().filter(|line| line.ends_with(&packet)).collect();
        assert_eq!(found.len(), ECHOES, "{packet}: {lines:#?}");
        for line in found {
            let seconds: f64 = line.split(' ').next().context("a time")?.parse()?;
            assert!(begin.as_secs_f64() <= seconds && seconds <= end.as_secs_f64(), "{line}");
        }
    }
    assert!(said.ends_with(&format!("{} packets\n", lines.len())), "{said}");
    Ok(())
}

#[test]
fn ipv6_is_written_and_another_address_is_not() -> TestResult {
    let (overlay, _session) = proven(DUAL, NO_XDP)?;
    let (one, other) = overlay.two_pods();
    let [from, to] = [one, other].map(|pod| pod.addresses()[1]);
    let recording = Recording::start(&overlay.nodes()[0], &["--address", &to.to_string()])?;
    for (ip, destination) in [(from, to), (one.ip(), other.ip())] {
        ping(&At { netns: one.netns(), ip }, destination)?;
    }
    let (_, lines) = recording.stop()?;
    let echoes: Vec<_> = lines.iter().filter(|line| line.contains("ICMP")).collect();
    assert!(echoes.iter().all(|line| line.contains("ICMP6")), "{lines:#?}");
    for echo in ["echo request", "echo reply"] {
        assert_eq!(echoes.iter().filter(|line| line.contains(echo)).count(), 1, "{lines:#?}");
    }
    Ok(())
}

#[test]
fn packets_beyond_the_rate_are_counted() -> TestResult {
    const ECHOES: u64 = 100;
    let (overlay, mut session) = proven(NETWORK, NO_XDP)?;
    let words = ["--address", &session.server()?.ip().to_string(), "--pcap-rate=3", "--pcap-length=64"];
    let recording = Recording::start(&overlay.nodes()[0], &words)?;
    (0..ECHOES).try_for_each(|_| session.echo(100))?;
    let (said, lines) = recording.stop()?;
    let number = |text: &str| -> Result<u64> {
        let line = said.lines().rfind(|line| line.contains(text)).with_context(|| said.clone())?;
        Ok(line.split(' ').next().context("a number")?.parse()?)
    };
    let (left_out, written) = (number("packets are left out so far: --pcap-rate")?, number(" packets")?);
    assert_eq!(left_out + written, 2 * ECHOES, "{said}");
    assert!(written < ECHOES && lines.len() as u64 == written, "{said} {lines:#?}");
    // They are cut off, and say how long they were.
    assert!(lines.iter().all(|line| line.contains("UDP, length 100")), "{lines:#?}");
    Ok(())
}

#[test]
fn it_ends_when_the_reader_has_gone_away() -> TestResult {
    let (overlay, mut session) = proven(NETWORK, NO_XDP)?;
    let node = &overlay.nodes()[0];
    let mut writer =
        command(node, Path::new("-"), &[])?.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let output = writer.stdout.take().context("no output")?;
    let mut reader = Command::new("tcpdump")
        .args(["-nn", "-c3", "-r", "-"])
        .stdin(output)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let ended = eventually("both end", SOON, || {
        session.echo(100)?;
        let (reader, writer) =
            (reader.try_wait()?.context("the reader runs")?, writer.try_wait()?.context("the writer runs")?);
        ensure!(reader.success() && writer.success(), "{reader} {writer}");
        Ok(())
    });
    // Both fail if they have ended.
    for child in [&mut reader, &mut writer] {
        let _ = child.kill();
        let _ = child.wait();
    }
    Ok(ended?)
}

#[test]
fn without_programs_it_says_why_nothing_is_written() -> TestResult {
    let overlay = Overlay::start(Topology::segment(1), &["--dataplane=netlink"], 0)?;
    let node = &overlay.nodes()[0];
    let error = finish(&mut command(node, &node.dir().join("pcap"), &[])?, "", LIMIT).unwrap_err();
    assert!(format!("{error:#}").contains("there are no programs below"), "{error:#}");
    Ok(())
}
