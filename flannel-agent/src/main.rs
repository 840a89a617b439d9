//! `flannel-agent`: runs the daemon, a subcommand, or what else the binary is called as.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use flannel_agent::check;
use flannel_agent::check::model::Level;
use flannel_agent::cli::{Command, Flags};
use flannel_agent::status::model::State;
use flannel_agent::{
    cleanup, cni, counters, daemon, docker_opts, flows, monitor, prepare_node, status, trace,
};
use nix::sys::prctl::set_dumpable;
use tracing::{error, warn};
use tracing_subscriber::fmt::layer;
use tracing_subscriber::prelude::*;

/// The names are those of flannel's images and releases. As a CNI plugin the binary is started for every pod, so flags are not parsed
/// before, and the asynchronous runtime is not started.
fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().collect();
    match args.first().map(Path::new).and_then(Path::file_name).and_then(OsStr::to_str) {
        Some("flannel") => cni::run(),
        Some("cp" | "install-conf") => exit_code(cni::copy::run(&args), print),
        Some("mk-docker-opts.sh") => run(parse(as_subcommand("docker-opts", args))),
        _ => run(parse(args)),
    }
}

/// Inserts a subcommand before the flags.
fn as_subcommand(name: &str, mut args: Vec<OsString>) -> Vec<OsString> {
    args.insert(1, name.into());
    args
}

fn parse(args: Vec<OsString>) -> Flags {
    Flags::parse_from_go(args).unwrap_or_else(|error| error.exit())
}

fn run(flags: Flags) -> ExitCode {
    match &flags.command {
        Some(Command::Cni(_)) => cni::run(),
        Some(Command::InstallCni(options)) => exit_code(cni::install::run(options), print),
        Some(Command::PrepareNode(options)) => {
            prepare_node::run(options);
            ExitCode::SUCCESS
        }
        Some(Command::DockerOpts(options)) => exit_code(block_on(docker_opts::run(options)), print),
        Some(Command::Monitor(options)) => exit_code(monitor::run(options), print),
        Some(Command::Flows(options)) => exit_code(block_on(flows::run(options)), print),
        Some(Command::Counters(options)) => exit_code(block_on(counters::run(options)), print),
        Some(Command::Check(options)) => match block_on(check::run(options)) {
            Ok(level) => ExitCode::from(level.exit_status()),
            Err(error) => {
                print(&error);
                ExitCode::from(Level::Error.exit_status())
            }
        },
        Some(Command::Status(options)) => match block_on(status::run(options)) {
            Ok(state) => ExitCode::from(state.exit_status()),
            Err(error) => {
                print(&error);
                ExitCode::from(State::NotWorking.exit_status())
            }
        },
        Some(Command::Peers(options)) => exit_code(block_on(status::run_peers(options)), print),
        Some(Command::Leases(options)) => exit_code(block_on(status::run_leases(options)), print),
        Some(Command::Cleanup(options)) => exit_code(block_on(cleanup::run(options)), print),
        Some(Command::Trace(options)) => exit_code(block_on(trace::run(options)), print),
        None => {
            start_log(&flags);
            if let Err(error) = keep_memory_private() {
                warn!("the memory of this process, secrets included, may be dumped: {error}");
            }
            exit_code(block_on(daemon::run(flags)), |error| error!("{error:#}"))
        }
    }
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("starting the asynchronous runtime")?;
    let end = runtime.block_on(work);
    // A write to a file system that hangs is not waited for.
    runtime.shutdown_background();
    end
}

fn print(error: &anyhow::Error) {
    eprintln!("{error:#}");
}

/// Reports the error, if there is one, and returns the exit code.
fn exit_code(result: Result<()>, report: impl Fn(&anyhow::Error)) -> ExitCode {
    match result.inspect_err(report) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Keeps passwords and tokens from core dumps, and from other processes of the same user: no core is written, and only root can
/// trace the process or read its memory and environment. Programs that it starts are not concerned.
fn keep_memory_private() -> nix::Result<()> {
    set_dumpable(false)
}

fn start_log(flags: &Flags) {
    let colours = std::io::stderr().is_terminal();
    let lines = layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
    tracing_subscriber::registry().with(lines).with(flags.log.filter()).init();
}
