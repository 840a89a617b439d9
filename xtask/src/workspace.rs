//! Paths of the workspace, and cargo commands as every chore runs them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::toolchain::Toolchain;

/// The crate of the BPF programs.
pub(crate) const PROGRAMS: &str = "flannel-ebpf";
/// What they are compiled for.
const BPF_TARGET: &str = "bpfel-unknown-none";

/// Returns the workspace's folder.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Returns the folder of cargo's output. This program runs from `<target>/debug/xtask`.
pub(crate) fn target() -> Result<PathBuf> {
    let program = env::current_exe().context("cannot find this program's own file")?;
    let folder = program.ancestors().nth(2).context("this program does not run from cargo's folders")?;
    Ok(folder.to_owned())
}

/// Returns the folder for what takes long to make and serves all clones of the repository: below `$XDG_CACHE_HOME`, else
/// `~/.cache`, else cargo's output.
pub(crate) fn cache() -> Result<PathBuf> {
    let folder = |name| env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let caches = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    Ok(caches.map_or_else(target, Ok)?.join("flannel-xtask"))
}

/// Returns where `cargo build -p flannel-agent` puts the agent.
pub(crate) fn agent() -> Result<PathBuf> {
    Ok(target()?.join("debug/flannel-agent"))
}

/// Returns where `cargo build --release -p flannel-agent` puts the agent.
pub(crate) fn release_agent() -> Result<PathBuf> {
    Ok(target()?.join("release/flannel-agent"))
}

/// Returns where [`cargo_bpf`] puts an example of [`PROGRAMS`].
pub(crate) fn bpf_example(name: &str) -> Result<PathBuf> {
    Ok(bpf_target()?.join(BPF_TARGET).join("release/examples").join(name))
}

/// Returns the folder of the BPF toolchain's output: not the other one's, since two compilers in one folder would rebuild each
/// other's output.
fn bpf_target() -> Result<PathBuf> {
    Ok(target()?.join("bpf"))
}

/// Returns a command of cargo, of the toolchain that runs this chore, in the workspace.
pub(crate) fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    // Variables about this package. Build scripts that read them would run again, with and without xtask.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Returns a command of the BPF toolchain's cargo, with the target and flags that aya-build uses.
pub(crate) fn cargo_bpf<const N: usize>(arguments: [&str; N], toolchain: &Toolchain) -> Result<Command> {
    let mut command = Command::new("rustup");
    command.args(["run", &toolchain.name, "cargo"]).args(arguments).args(["--package", PROGRAMS]);
    command.args(["--release", "--target", BPF_TARGET, "-Z", "build-std=core"]);
    command.arg("--target-dir").arg(bpf_target()?);
    let flags =
        format!("--cfg=bpf_target_arch=\"{}\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf", env::consts::ARCH);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags).current_dir(root());
    if !toolchain.nightly {
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    Ok(command)
}
