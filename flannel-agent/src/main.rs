//! `flannel-agent`: parses the command line, and runs a subcommand or the daemon.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use flannel_agent::cli::{Command, Flags};
use flannel_agent::{cleanup, daemon, docker_opts, prepare_node, trace};
use tracing::error;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::prelude::*;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let flags = Flags::parse_from_go(std::env::args_os()).unwrap_or_else(|error| error.exit());
    match &flags.command {
        Some(Command::DockerOpts(options)) => {
            exit_code(docker_opts::run(options).await, |error| eprintln!("{error:#}"))
        }
        Some(Command::Cleanup(options)) => {
            exit_code(cleanup::run(options).await, |error| eprintln!("{error:#}"))
        }
        Some(Command::PrepareNode(options)) => {
            prepare_node::run(options);
            ExitCode::SUCCESS
        }
        Some(Command::Trace(options)) => exit_code(trace::run(options).await, |error| eprintln!("{error:#}")),
        None => {
            start_log(&flags);
            exit_code(daemon::run(flags).await, |error| error!("{error:#}"))
        }
    }
}

/// Reports the error, if there is one, and returns the exit code.
fn exit_code(result: anyhow::Result<()>, report: impl Fn(&anyhow::Error)) -> ExitCode {
    match result.inspect_err(report) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn start_log(flags: &Flags) {
    let colours = std::io::stderr().is_terminal();
    let lines = layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
    tracing_subscriber::registry().with(lines).with(flags.log.filter()).init();
}
