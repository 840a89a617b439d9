//! The plugin's and the conflist's way to the node.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::agent::agent_binary;
use flannel_tests::process::{LIMIT, finish};
use flannel_tests::{Cluster, Node, TestResult, executable};

use super::{bin_dir, conf_dir, files, install_cni};

/// An older flannel's plugin, which is being executed. Dropping it ends it.
struct Running(std::process::Child);

impl Running {
    fn start(program: &Path) -> Result<Self> {
        fs::create_dir_all(program.parent().context("a folder")?)?;
        executable::copy(Path::new("/bin/sleep"), program)?;
        Ok(Self(Command::new(program).arg("60").spawn()?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs `install-cni` and returns both outputs.
fn install(node: &Node, args: &[&str]) -> Result<(String, String)> {
    let done = install_cni(node, args)?;
    ensure!(done.status.success(), "install-cni: {}", done.stderr);
    Ok((done.stdout, done.stderr))
}

fn ensure_is_agent(plugin: &Path) -> Result<()> {
    ensure!(fs::read(plugin)? == fs::read(agent_binary()?)?, "{} is not the agent", plugin.display());
    let mode = fs::metadata(plugin)?.permissions().mode() & 0o7777;
    ensure!(mode == 0o755, "{} has the mode {mode:o}", plugin.display());
    Ok(())
}

#[test]
fn plugin_and_conflist_replace_those_of_an_older_flannel_once() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let node = &cluster.nodes()[0];
    let (plugin, conflist) = (bin_dir(node).join("flannel"), conf_dir(node).join("10-flannel.conflist"));
    let _running = Running::start(&plugin)?;
    fs::create_dir_all(conf_dir(node))?;
    fs::write(&conflist, r#"{"name":"cbr0","type":"flannel"}"#)?;
    let (done, warnings) = install(node, &[])?;
    assert_eq!((done.matches("installed ").count(), warnings.as_str()), (2, ""), "{done}");
    ensure_is_agent(&plugin)?;
    let text: serde_json::Value = serde_json::from_str(&fs::read_to_string(&conflist)?)?;
    assert_eq!((text["name"].as_str(), text["plugins"][0]["type"].as_str()), (Some("cbr0"), Some("flannel")));
    assert_eq!(
        (files(&bin_dir(node)).len(), files(&conf_dir(node)).len()),
        (1, 1),
        "temporary files are left"
    );
    let inodes = || Ok::<_, anyhow::Error>((fs::metadata(&plugin)?.ino(), fs::metadata(&conflist)?.ino()));
    let before = inodes()?;
    let (done, _) = install(node, &[])?;
    assert_eq!(done.matches("already there: ").count(), 2, "{done}");
    assert_eq!(inodes()?, before, "files that are right were replaced");
    Ok(())
}

#[test]
fn a_conflist_of_another_network_that_sorts_first_is_reported() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let node = &cluster.nodes()[0];
    fs::create_dir_all(conf_dir(node))?;
    fs::write(conf_dir(node).join("10-flannel.conf"), "{}")?;
    fs::write(conf_dir(node).join("20-other.conflist"), "{}")?;
    let (_, warnings) = install(node, &[])?;
    let lines: Vec<_> = warnings.lines().collect();
    let [warning] = lines[..] else { panic!("not one warning: {warnings}") };
    assert!(
        warning.starts_with("warning: ") && warning.contains("10-flannel.conf, which an older"),
        "{warning}"
    );
    Ok(())
}

#[test]
fn only_what_was_installed_is_removed() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let node = &cluster.nodes()[0];
    fs::create_dir_all(conf_dir(node))?;
    fs::write(conf_dir(node).join("20-other.conflist"), "{}")?;
    install(node, &[])?;
    let (done, _) = install(node, &["--remove"])?;
    assert_eq!(done.matches("removed ").count(), 2, "{done}");
    assert_eq!(files(&bin_dir(node)), [""; 0]);
    assert_eq!(files(&conf_dir(node)), ["20-other.conflist"]);
    assert_eq!(install(node, &["--remove"])?.0, "nothing to remove\n");
    // flannel is back.
    install(node, &[])?;
    fs::remove_file(bin_dir(node).join("flannel"))?;
    fs::copy("/bin/true", bin_dir(node).join("flannel"))?;
    let (done, _) = install(node, &["--remove"])?;
    assert!(done.starts_with("left "), "{done}");
    assert_eq!(files(&bin_dir(node)), ["flannel"]);
    assert_eq!(files(&conf_dir(node)), ["10-flannel.conflist", "20-other.conflist"]);
    Ok(())
}

#[test]
fn the_commands_of_flannels_init_containers_install_plugin_and_conflist() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let node = &cluster.nodes()[0];
    let image = node.dir().join("image");
    fs::create_dir_all(image.join("bin"))?;
    // As in the image: one program under all names, and a ConfigMap, whose files are links.
    for name in ["flannel", "bin/cp", "bin/install-conf"] {
        symlink(agent_binary()?, image.join(name))?;
    }
    fs::write(image.join("data"), "the conflist")?;
    symlink(image.join("data"), image.join("cni-conf.json"))?;
    let (plugin, conflist) = (bin_dir(node).join("flannel"), conf_dir(node).join("10-flannel.conflist"));
    let _running = Running::start(&plugin)?;
    fs::create_dir_all(conf_dir(node))?;
    let run = |name: &str, args: &[&str], from: &str, to: &Path| {
        let mut command = Command::new(image.join("bin").join(name));
        finish(command.args(args).arg(image.join(from)).arg(to), "", LIMIT)
    };
    run("cp", &["-f"], "flannel", &plugin)?;
    ensure_is_agent(&plugin)?;
    run("cp", &["-f"], "cni-conf.json", &conflist)?;
    assert_eq!(fs::read_to_string(&conflist)?, "the conflist");
    fs::write(image.join("data"), "another one")?;
    run("install-conf", &[], "cni-conf.json", &conflist)?;
    assert_eq!(fs::read_to_string(&conflist)?, "another one");
    assert!(!fs::symlink_metadata(&conflist)?.is_symlink());
    Ok(())
}
