//! Measures bulk TCP with iperf3.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Host;
use super::placed::bind_process;
use super::served::{port_of, reached_at};
use crate::process::{Daemon, finish};
use crate::wait::eventually;
use crate::workdir::temp_file;

const START_LIMIT: Duration = Duration::from_secs(5);
const EXTRA: Duration = Duration::from_secs(10);

/// Returns the bits per second received over one TCP connection during `seconds`.
pub fn iperf3_tcp(from: &dyn Host, to: &dyn Host, seconds: u32) -> Result<f64> {
    let port = free_port(to)?;
    let mut server = to.netns().command("iperf3");
    server.args(["--server", "--one-off", "--port", &port.to_string()]);
    bind_process(to, &mut server)?;
    let log = temp_file(".log")?;
    let server = Daemon::start("the iperf3 server", server, log.path())?;
    eventually("iperf3 listens", START_LIMIT, || ensure_listens(server.pid(), port))?;
    let mut client = from.netns().command("iperf3");
    let reached = reached_at(to, SocketAddr::new(to.ip(), port));
    client.args(["--client", &reached.ip().to_string(), "--bind", &from.ip().to_string()]);
    client.args(["--port", &reached.port().to_string(), "--time", &seconds.to_string(), "--json"]);
    bind_process(from, &mut client)?;
    let report = finish(&mut client, "", Duration::from_secs(seconds.into()) + EXTRA)?;
    let report: Value = serde_json::from_str(&report).context("read iperf3's report")?;
    report["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3 reports no rate")
}

fn free_port(host: &dyn Host) -> Result<u16> {
    Ok(host.netns().tcp_listen(host.ip(), port_of(host))?.local_addr()?.port())
}

/// Checks that the server listens. Reads the kernel's table: a trial connection would use up the one that it serves.
fn ensure_listens(pid: u32, port: u16) -> Result<()> {
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")));
    let listens = tables.iter().flatten().flat_map(|table| table.lines()).any(|line| is_listener(line, port));
    ensure!(listens, "no listener on port {port}");
    Ok(())
}

fn is_listener(line: &str, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let mut words = line.split_whitespace().skip(1);
    let local = words.next().unwrap_or_default();
    local.ends_with(&format!(":{port:04X}")) && words.nth(1) == Some(LISTEN)
}
