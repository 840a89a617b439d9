//! The container images that a release has: loaded by real runtimes, and looked into. Needs root, and says so.

mod files;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::package::{image, package_for};
use flannel_tests::process::{LIMIT, finish};
use flannel_tests::shell::Shell;
use flannel_tests::{Cluster, Docker, TestResult, require_commands};
use serde_json::json;
use tempfile::TempDir;

use files::{Files, contents};

const NAME: &str = concat!("localhost/flannel-agent:", env!("CARGO_PKG_VERSION"));
/// All architectures of a release, as rustc and readelf name them.
const ARCHITECTURES: [(&str, &str); 2] =
    [("x86_64", "Advanced Micro Devices X86-64"), ("aarch64", "AArch64")];
/// 25 MB, for a node's download.
const LARGEST: u64 = 25_000_000;

/// A node whose dockerd, without a network of its own, has the image.
struct Bed {
    docker: Docker,
    cluster: Cluster,
}

impl Bed {
    fn new() -> Result<Self> {
        let cluster = Cluster::segment(1)?;
        let docker = Docker::start(&cluster.nodes()[0], &["--bridge=none", "--iptables=false"])?;
        docker.load(&image(std::env::consts::ARCH)?)?;
        Ok(Self { docker, cluster })
    }
}

/// Commands in the image, and parts of what they print.
const PROGRAMS: [(&str, &str); 9] = [
    ("/opt/bin/flannel-agent --version", concat!("flannel-agent ", env!("CARGO_PKG_VERSION"))),
    ("/opt/bin/flanneld --version", concat!("flannel-agent ", env!("CARGO_PKG_VERSION"))),
    ("flannel-agent --version", concat!("flannel-agent ", env!("CARGO_PKG_VERSION"))),
    ("iptables --version", "(nf_tables)"),
    ("iptables-nft-restore --version", "(nf_tables)"),
    ("ip6tables-legacy-save --version", "(legacy)"),
    // Loads the extension, and asks nothing of the kernel.
    ("iptables -j MASQUERADE --help", "--random-fully"),
    ("iptables-legacy -m comment --help", "--comment"),
    ("nft --version", "nftables"),
];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("deploy")
}

/// Runs every program of an image.
fn ensure_runs(docker: &Docker, image: &str) -> Result<()> {
    for (line, printed) in PROGRAMS {
        let output = docker.run_program(image, &line.split(' ').collect::<Vec<_>>(), &[])?;
        ensure!(output.contains(printed), "{line}: {output}");
    }
    Ok(())
}

#[test]
#[ignore = "needs the image that `cargo xtask dist` makes; `cargo xtask test` runs it"]
fn docker_runs_every_program_of_the_image() -> TestResult {
    ensure_runs(&Bed::new()?.docker, NAME)?;
    Ok(())
}

#[test]
#[ignore = "needs the image that `cargo xtask dist` makes; `cargo xtask test` runs it"]
fn docker_builds_the_same_image_by_the_dockerfile() -> TestResult {
    const BUILT: &str = "localhost/built-by-docker:1";
    let bed = Bed::new()?;
    // The layers, one over the other, are what `cargo xtask image --root` writes.
    let files = Files::unpack(&image(std::env::consts::ARCH)?)?;
    let context = bed.cluster.nodes()[0].dir().join("context.tar");
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--file").arg(&context).arg("--directory").arg(files.path(""));
    tar.args(["--transform", "s:^[.]:here:S", ".", "--directory"]);
    finish(tar.arg(deploy()).arg("Dockerfile"), "", LIMIT)?;
    bed.docker.build(BUILT, &context, &json!({"TARGETARCH": "here"}))?;
    ensure_runs(&bed.docker, BUILT)?;
    let [mut released, built] = [bed.docker.image_config(NAME)?, bed.docker.image_config(BUILT)?];
    // The Dockerfile does not know the commit.
    if let Some(labels) = released["Labels"].as_object_mut() {
        labels.retain(|key, _| !key.ends_with(".revision") && !key.ends_with(".created"));
    }
    for key in ["Entrypoint", "Cmd", "Env", "Labels", "WorkingDir", "User"] {
        assert_eq!(built[key], released[key], "{key}");
    }
    Ok(())
}

#[test]
#[ignore = "needs the image that `cargo xtask dist` makes; `cargo xtask test` runs it"]
fn the_steps_of_flannels_own_manifest_find_their_programs() -> TestResult {
    let bed = Bed::new()?;
    let folder = bed.cluster.nodes()[0].dir().join("node");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("cni-conf.json"), "{}")?;
    let shared = [format!("{}:/node", folder.display())];
    for step in [
        ["cp", "-f", "/flannel", "/node/flannel"].as_slice(),
        &["/opt/bin/install-conf", "/node/cni-conf.json", "/node/10-flannel.conflist"],
    ] {
        bed.docker.run_program(NAME, step, &shared)?;
    }
    let files = Files::unpack(&image(std::env::consts::ARCH)?)?;
    let agent = fs::read(files.path("opt/bin/flannel-agent"))?;
    assert!(fs::read(folder.join("flannel"))? == agent, "the node gets the plugin");
    assert_eq!(fs::read_to_string(folder.join("10-flannel.conflist"))?, "{}");
    Ok(())
}

#[test]
#[ignore = "needs the image that `cargo xtask dist` makes; `cargo xtask test` runs it"]
fn containerd_imports_the_image_of_each_architecture() -> TestResult {
    require_commands(&["ctr"])?;
    let cluster = Cluster::segment(1)?;
    let docker = Docker::start(&cluster.nodes()[0], &["--bridge=none", "--iptables=false"])?;
    for (architecture, _) in ARCHITECTURES {
        let ctr = |arguments: &[&str]| {
            let mut command = Command::new("ctr");
            command.arg("--address").arg(docker.containerd()).args(["--namespace", architecture, "images"]);
            finish(command.args(arguments), "", LIMIT)
        };
        let archive = image(architecture)?;
        ctr(&["import", "--no-unpack", "--all-platforms", &archive.to_string_lossy()])?;
        let listed = ctr(&["list"])?;
        let platform = if architecture == "x86_64" { "linux/amd64" } else { "linux/arm64" };
        assert!(listed.contains(NAME) && listed.contains(platform), "{listed}");
        let checked = ctr(&["check"])?;
        assert!(checked.contains("complete"), "{checked}");
    }
    Ok(())
}

#[test]
#[ignore = "needs the image that `cargo xtask dist` makes; `cargo xtask test` runs it"]
fn every_program_finds_its_libraries() -> TestResult {
    for (architecture, machine) in ARCHITECTURES {
        let files = Files::unpack(&image(architecture)?)?;
        let programs = files.programs()?;
        assert!(programs.len() > 100, "{architecture}: only {} programs and libraries", programs.len());
        for program in &programs {
            assert_eq!(program.machine, machine, "{}", program.path.display());
            for library in &program.libraries {
                let found = programs.iter().any(|other| other.path.ends_with(library));
                assert!(found, "{architecture}: {} needs {library}", program.path.display());
            }
        }
        let loaders = programs.iter().filter_map(|program| program.loader.as_deref()).collect::<Vec<_>>();
        assert!(!loaders.is_empty(), "{architecture}: the firewall tools have a loader");
        for loader in loaders {
            assert!(files.path(loader.trim_start_matches('/')).is_file(), "{architecture}: {loader}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs the image that `cargo xtask dist` makes; `cargo xtask test` runs it"]
fn the_image_has_the_manual_pages_and_completions_of_the_package() -> TestResult {
    const SHARE: &str = "usr/share";
    for (architecture, _) in ARCHITECTURES {
        let package = TempDir::new()?;
        let mut dpkg = Command::new("dpkg-deb");
        finish(dpkg.arg("--extract").arg(package_for(architecture)?).arg(package.path()), "", LIMIT)?;
        // What a distribution wants to be told about a package.
        fs::remove_dir_all(package.path().join(SHARE).join("doc"))?;
        let expected = contents(&package.path().join(SHARE))?;
        let found = contents(&Files::unpack(&image(architecture)?)?.path(SHARE))?;
        assert!(found == expected, "{architecture}: {:?} instead of {:?}", found.keys(), expected.keys());
        let shells = Shell::ALL.each_ref().map(|shell| shell.completions);
        for name in
            ["man/man8/flannel-agent.8.gz", "man/man8/flannel-agent-monitor.8.gz"].into_iter().chain(shells)
        {
            assert!(
                found.contains_key(Path::new(name)),
                "{architecture}: {name} is not in {:?}",
                found.keys()
            );
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs the image that `cargo xtask dist` makes; `cargo xtask test` runs it"]
fn the_image_is_small_and_says_what_it_is() -> TestResult {
    for (architecture, _) in ARCHITECTURES {
        let archive = image(architecture)?;
        let size = fs::metadata(&archive)?.len();
        assert!(size < LARGEST, "{architecture}: {size} bytes");
        let config = Files::unpack(&archive)?.config;
        let debian = if architecture == "x86_64" { "amd64" } else { "arm64" };
        assert_eq!(config["architecture"], debian);
        assert_eq!(config["config"]["Entrypoint"][0], "/opt/bin/flannel-agent");
        let labels = config["config"]["Labels"].as_object().context("the image has labels")?;
        for label in ["title", "version", "licenses", "description"] {
            let value = labels.get(&format!("org.opencontainers.image.{label}"));
            assert!(value.is_some_and(|value| value != ""), "{label}: {labels:?}");
        }
    }
    Ok(())
}
