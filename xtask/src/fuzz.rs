//! `cargo xtask fuzz`: gives bad data to the parsers, and keeps what makes them fail.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use flannel_tests::tools::Part;

use crate::workspace::{cargo, root, target};
use crate::{phase, setup};

/// The parts of the work whose tools it needs.
pub(crate) const NEEDS: [Part; 1] = [Part::Fuzz];
/// The folder of the fuzz targets.
const FOLDER: &str = "flannel-agent/fuzz";
/// Their package.
const PACKAGE: &str = "flannel-fuzz";
/// For how long each target runs as part of the tests, in seconds.
const SHORT: u32 = 4;
/// The seed of these runs. It is fixed: what fails once fails again, and what passes passes again.
const SEED: u32 = 1;
/// An input that takes longer, in seconds, is a failure.
const SLOW: u32 = 10;
/// The memory in MB beyond which an input is a failure.
const MEMORY: u32 = 1024;

/// What to fuzz, and for how long.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these targets, files in flannel-agent/fuzz/fuzz_targets [default: all of them]
    targets: Vec<String>,
    /// For how long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Begin with nothing that was found before, and mutate as an earlier run with this seed did
    #[arg(long)]
    seed: Option<u32>,
    /// Give this file to the one target that is named, once, and show what it prints
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seconds", "seed"])]
    input: Option<PathBuf>,
}

/// Builds the targets and runs them.
pub(crate) fn run(args: &Args) -> Result<()> {
    let all = targets()?;
    if let Some(name) = args.targets.iter().find(|name| !all.contains(name)) {
        bail!("{name} is no fuzz target; there are {}", all.join(", "));
    }
    let chosen = if args.targets.is_empty() { all } else { args.targets.clone() };
    setup::ensure(&NEEDS)?;
    let folders = Folders::new(args.seed)?;
    folders.build()?;
    match (&args.input, &chosen[..]) {
        (None, _) => folders.run_all(chosen, args.seconds),
        (Some(input), [target]) => phase::execute(Command::new(folders.program(target)).arg(input)),
        (Some(_), _) => bail!("--input needs the name of one target"),
    }
}

/// Builds all targets and runs each for a few seconds, on the inputs in the repository first.
pub(crate) fn check() -> Result<()> {
    let folders = Folders::new(Some(SEED))?;
    folders.build()?;
    folders.run_all(targets()?, SHORT)
}

/// Returns the names of the targets.
fn targets() -> Result<Vec<String>> {
    let folder = root().join(FOLDER).join("fuzz_targets");
    let mut names = Vec::new();
    for entry in folder.read_dir().with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(OsStr::to_str);
        names.extend(name.map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}

/// Where targets are and what they find.
struct Folders {
    /// Of cargo's output.
    target: PathBuf,
    /// What the mutations begin with, if not with what was found before.
    seed: Option<u32>,
}

impl Folders {
    fn new(seed: Option<u32>) -> Result<Self> {
        Ok(Self { target: target()?, seed })
    }

    /// Builds the targets without optimisation and without a sanitizer, which stable compilers do not have. The BPF programs are left out.
    fn build(&self) -> Result<()> {
        let mut command = cargo(["build", "--package", PACKAGE, "--bins"]);
        command.env("RUSTC_WORKSPACE_WRAPPER", root().join(FOLDER).join("instrument"));
        phase::run("build of the fuzz targets", command.env("AYA_BUILD_SKIP", "1"))
    }

    fn program(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }

    /// Returns a folder of a target below cargo's output.
    fn folder(&self, kind: &str, name: &str) -> PathBuf {
        self.target.join("fuzz").join(kind).join(name)
    }

    /// Returns the folder for what a target finds. With a seed it is empty: what is found depends on what is there.
    fn found(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder(if self.seed.is_some() { "seeded" } else { "found" }, name);
        if self.seed.is_some() {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("emptying {}", folder.display()));
                }
                _ => {}
            }
        }
        Ok(folder)
    }

    /// Runs the targets, one for each processor at a time. One that fails does not stop the others.
    fn run_all(&self, names: Vec<String>, seconds: u32) -> Result<()> {
        let waiting = Mutex::new(VecDeque::from(names));
        let failures = Mutex::new(Vec::new());
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let work = || {
            while let Some(name) = next() {
                if let Err(error) = self.run(&name, seconds) {
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{error:#}"));
                }
            }
        };
        let processors = thread::available_parallelism()?.get();
        phase::measured(&format!("fuzz targets, {seconds} s each"), || {
            thread::scope(|scope| {
                for _ in 0..processors {
                    scope.spawn(work);
                }
            });
            let failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
            ensure!(failures.is_empty(), "{}", failures.join("\n"));
            Ok(())
        })
    }

    /// Runs a target. What it finds goes to a folder below cargo's output, and the inputs in the repository stay as they are.
    fn run(&self, name: &str, seconds: u32) -> Result<()> {
        let (found, failed) = (self.found(name)?, self.folder("failed", name));
        for folder in [&found, &failed] {
            fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        let log = found.with_extension("log");
        let output = File::create(&log).with_context(|| format!("writing {}", log.display()))?;
        let mut command = Command::new(self.program(name));
        command.arg(&found).arg(root().join(FOLDER).join("corpus").join(name));
        command.arg(format!("-artifact_prefix={}/", failed.display()));
        command.arg(format!("-max_total_time={seconds}"));
        command.args(self.seed.map(|seed| format!("-seed={seed}")));
        command.args([format!("-timeout={SLOW}"), format!("-rss_limit_mb={MEMORY}")]);
        command.arg("-print_final_stats=1").stdout(output.try_clone()?).stderr(output);
        let status = command.status().with_context(|| format!("running the fuzz target {name}"))?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        if status.success() {
            phase::note(&progress(name, &text));
            return Ok(());
        }
        Err(anyhow::Error::msg(failure(name, &text, &log)))
    }
}

/// Returns how much a target has run, of what libFuzzer prints at its end.
fn progress(name: &str, log: &str) -> String {
    let stat = |key: &str| {
        let value = log.lines().find_map(|line| line.strip_prefix(&format!("stat::{key}:")));
        value.map_or("?", str::trim).to_owned()
    };
    let [runs, each_second, new] =
        ["number_of_executed_units", "average_exec_per_sec", "new_units_added"].map(stat);
    format!("{name}: {runs} inputs, {each_second} in a second, {new} of them new")
}

/// Returns why a target has failed, and how to see it again.
fn failure(name: &str, log: &str, file: &Path) -> String {
    let reason = |line: &&str| line.contains("panicked at") || line.contains("ERROR: libFuzzer");
    let mut lines = log.lines().skip_while(|line| !reason(line));
    let reason: Vec<_> = lines.by_ref().take(4).collect();
    let input = log.lines().find_map(|line| line.split_once("Test unit written to ").map(|(_, path)| path));
    let repeat = input.map_or_else(String::new, |path| {
        format!("\nthe input is {path}; to repeat it: cargo xtask fuzz {name} --input {path}")
    });
    format!("{name} has failed: {}{repeat}\nthe whole log is {}", reason.join("\n"), file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_a_program_of_the_crate_and_has_inputs() {
        let manifest = fs::read_to_string(root().join(FOLDER).join("Cargo.toml")).unwrap();
        let targets = targets().unwrap();
        assert!(targets.contains(&"vxlan".to_owned()));
        for name in targets {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
            let inputs = root().join(FOLDER).join("corpus").join(&name).read_dir().unwrap().count();
            assert!((1..200).contains(&inputs), "{inputs} inputs for {name}");
        }
    }

    #[test]
    fn a_failure_names_the_reason_the_input_and_the_command() {
        let log = "INFO: Seed: 7\nthread '<unnamed>' panicked at src/lib.rs:9:5:\nan error of two lines\n\
            artifact_prefix='/f/'; Test unit written to /f/crash-1\n";
        let text = failure("lease_key", log, Path::new("/log"));
        for part in [
            "lease_key has failed: thread '<unnamed>' panicked at src/lib.rs:9:5:\nan error of two lines",
            "cargo xtask fuzz lease_key --input /f/crash-1",
            "/log",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }

    #[test]
    fn progress_is_read_from_the_final_numbers() {
        let log = "Done 9 runs\nstat::number_of_executed_units: 98370\nstat::average_exec_per_sec:     10930\n\
            stat::new_units_added:          87\n";
        assert_eq!(progress("x", log), "x: 98370 inputs, 10930 in a second, 87 of them new");
    }
}
