//! `flannel-agent`: reads the command line, sets up the log, and hands over to the daemon.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use flannel_agent::cli::Flags;
use flannel_agent::daemon;
use tracing::error;
use tracing_subscriber::EnvFilter;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let flags = Flags::parse_from_go(std::env::args_os()).unwrap_or_else(|error| error.exit());
    start_log(&flags);
    match daemon::run(flags).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(flags: &Flags) {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(flags.log_level()))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
