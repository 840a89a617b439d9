//! Builds Kubernetes' programs from its source.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use flannel_tests::kubernetes::Binaries;

use super::source::VERSION;
use super::{go, openapi};
use crate::phase;

/// The programs that Go compiles.
const COMMANDS: [&str; 6] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];
/// Leaves out the interfaces of cloud providers, and Docker as a runtime.
const TAGS: &str = "providerless dockerless";
/// The variables that hold the version, for the server's answers and for those of its clients.
const VERSIONS: [&str; 2] = ["client-go/pkg/version", "component-base/version"];
/// Raised with every change of what a build makes that neither these constants nor the linker's flags show.
const RECIPE: &str = "1";
/// Steps between two messages on the way, in percent.
const STEP: usize = 10;

/// A build that can start.
pub(crate) struct Build {
    /// Has the source; is removed afterwards.
    pub(super) work: PathBuf,
    /// Gets the programs, all or none: a folder that exists is complete.
    pub(super) folder: PathBuf,
    /// Keeps other processes from building at the same time.
    pub(super) _lock: File,
}

/// Returns the name of the folder for what this recipe makes with this Go.
pub(super) fn name() -> Result<String> {
    let parts = [COMMANDS.join(" "), TAGS.to_owned(), linker_flags(), go::version()?, RECIPE.to_owned()];
    Ok(format!("{VERSION}-{:016x}", stamp(parts.join("\n").bytes())))
}

/// Returns the FNV-1a hash, which stays the same with every version of the compiler.
fn stamp(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Build {
    /// Builds, and removes the source and Go's cache (2 GB). Programs of other recipes stay: another clone may use them.
    pub(super) fn run(self) -> Result<Binaries> {
        let Self { work, folder, .. } = &self;
        let output = work.join("programs");
        phase::measured(&format!("build of Kubernetes {VERSION}, once, about 12 minutes of CPU"), || {
            fs::create_dir(&output).with_context(|| format!("cannot create {}", output.display()))?;
            openapi::generate(work)?;
            compile(work, &output)?;
            compile_pause(&go::source(work), &output)
        })?;
        fs::rename(&output, folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::remove_dir_all(work).with_context(|| format!("cannot remove {}", work.display()))?;
        Binaries::at(folder.clone())
    }
}

fn compile(work: &Path, output: &Path) -> Result<()> {
    let packages = COMMANDS.map(|name| format!("./cmd/{name}"));
    let list = go::command(work, ["list", "-deps", "-tags", TAGS]).args(&packages).output();
    let total = list.context("cannot list Kubernetes' packages")?.stdout.lines().count();
    let mut command = go::command(work, ["build", "-v", "-tags", TAGS, "-ldflags", &linker_flags(), "-o"]);
    follow(command.arg(output).args(packages), total)
}

fn linker_flags() -> String {
    let (major, minor) = VERSION.split_once('.').unwrap_or_default();
    let minor = minor.split('.').next().unwrap_or_default();
    let values = [
        ("gitVersion", format!("v{VERSION}")),
        ("gitMajor", major.to_owned()),
        ("gitMinor", minor.to_owned()),
        ("gitTreeState", "archive".to_owned()),
    ];
    let set = |package: &str| {
        let variable = format!("{}/vendor/k8s.io/{package}", go::PACKAGE);
        values.iter().map(|(name, value)| format!(" -X {variable}.{name}={value}")).collect::<String>()
    };
    // Without symbols: they would double the programs' size.
    format!("-s -w{}", VERSIONS.map(set).concat())
}

/// Runs Go's build, which prints a line for each package, and says how far it is. Other lines are passed on.
fn follow(command: &mut Command, total: usize) -> Result<()> {
    let start = Instant::now();
    let mut child = command.stderr(Stdio::piped()).spawn().context("cannot run Go")?;
    let (mut done, mut said) = (0, 0);
    for line in BufReader::new(child.stderr.take().context("Go has no output")?).lines() {
        let line = line.context("cannot read Go's output")?;
        if !is_package(&line) {
            eprintln!("{line}");
            continue;
        }
        done += 1;
        let percent = 100 * done / total.max(1);
        if percent >= said + STEP {
            said = percent - percent % STEP;
            phase::note(&format!(
                "{done} of {total} packages compiled, {:.0} s",
                start.elapsed().as_secs_f32()
            ));
        }
    }
    let status = child.wait().context("cannot wait for Go")?;
    ensure!(status.success(), "Kubernetes does not build ({status})");
    Ok(())
}

fn is_package(line: &str) -> bool {
    !line.starts_with(['#', '\t', ' ']) && !line.contains([' ', ':'])
}

/// Compiles the program that holds the namespaces of a pod.
fn compile_pause(source: &Path, output: &Path) -> Result<()> {
    let mut command = Command::new("gcc");
    command.args(["-Os", "-Wall", "-static", "-s", "-DVERSION=3.2", "-o"]).arg(output.join("pause"));
    phase::execute(command.arg(source.join("build/pause/linux/pause.c")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_the_hash_of_its_specification() {
        assert_eq!(stamp("".bytes()), 0xcbf2_9ce4_8422_2325);
        assert_eq!(stamp("foobar".bytes()), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn packages_are_told_from_other_output() {
        assert!(is_package("k8s.io/kubernetes/vendor/k8s.io/api/core/v1"));
        for other in ["# k8s.io/kubernetes/cmd/kubelet", "cmd/a.go:3:1: undefined: b", "\tmore", "go: error"]
        {
            assert!(!is_package(other), "{other}");
        }
    }

    #[test]
    fn the_linker_sets_the_version() {
        let flags = linker_flags();
        assert!(
            flags.contains(" -X k8s.io/kubernetes/vendor/k8s.io/component-base/version.gitVersion=v1.20.2"),
            "{flags}"
        );
        assert!(flags.contains("gitMinor=20 "), "{flags}");
    }
}
