//! The layer below the agent: firewall tools, and exactly the libraries that they and the agent need.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flannel_tests::tree::Tree;

use super::elf::Elf;
use crate::architecture::Architecture;
use crate::phase;
use crate::setup::apt::unpack::Unpacker;
use crate::workspace::target;

/// The packages that are unpacked, with all that they depend on.
const PACKAGES: [&str; 2] = ["iptables", "nftables"];
/// The package of authorities that sign certificates. What it depends on only installs it.
const AUTHORITIES: &str = "ca-certificates";
/// The programs that the agent calls. It finds out which kind of iptables the node's rules are written with.
const PROGRAMS: [&str; 3] = ["usr/sbin/xtables-nft-multi", "usr/sbin/xtables-legacy-multi", "usr/sbin/nft"];
/// The kinds of iptables, each with its program. The first is also called without a kind, as in Debian.
const KINDS: [(&str, &str); 2] = [("nft", "xtables-nft-multi"), ("legacy", "xtables-legacy-multi")];
/// Folders that are links into `usr`, as in Debian.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];
/// Where containers expect folders, some of them to mount on.
const FOLDERS: [&str; 6] = ["dev", "proc", "run", "sys", "tmp", "var/run"];
/// The folder of unpacked packages.
const UNPACKED: &str = "packages";
const PASSWD: &str = "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// Debian's packages for an architecture, unpacked in cargo's folder and not installed.
pub(super) struct System<'a> {
    architecture: &'a Architecture,
    root: PathBuf,
}

impl<'a> System<'a> {
    /// Returns what was unpacked before, or downloads it.
    pub(super) fn get(architecture: &'a Architecture) -> Result<Self> {
        let folder = folder(architecture)?;
        let root = folder.join(UNPACKED);
        if !root.exists() {
            phase::measured(
                &format!("download of the image's packages for {}", architecture.debian),
                || download(architecture, &folder, &root),
            )?;
        }
        Ok(Self { architecture, root })
    }

    /// Returns the layer for the agent, whose libraries are in it.
    pub(super) fn tree(&self, agent: &Path) -> Result<Tree> {
        let mut tree = Tree::default();
        MERGED.into_iter().for_each(|name| tree.link(name, Path::new("usr").join(name)));
        FOLDERS.into_iter().for_each(|folder| tree.folder(folder));
        tree.file("etc/passwd", PASSWD);
        tree.file("etc/group", GROUP);
        tree.file("etc/ssl/certs/ca-certificates.crt", self.authorities()?);
        for program in PROGRAMS {
            self.add(&mut tree, Path::new(program))?;
        }
        for (name, target) in iptables() {
            tree.link(Path::new("usr/sbin").join(name), target);
        }
        self.add_extensions(&mut tree)?;
        self.add_needs(&mut tree, agent)?;
        Ok(tree)
    }

    /// Adds a program or a library, and what it needs.
    fn add(&self, tree: &mut Tree, path: &Path) -> Result<()> {
        let file = self.find(path).with_context(|| format!("the packages have no {}", path.display()))?;
        tree.program(path, read(&file)?);
        self.add_needs(tree, &file)
    }

    /// Adds the loader and the libraries that a file needs, unless they are there.
    fn add_needs(&self, tree: &mut Tree, file: &Path) -> Result<()> {
        let elf = Elf::parse(&read(file)?).with_context(|| file.display().to_string())?;
        elf.ensure_for(self.architecture.machine).with_context(|| file.display().to_string())?;
        let folder = format!("usr/lib/{}-linux-gnu", self.architecture.name);
        // A library that names the loader gets the one that is running.
        let libraries = elf.libraries.iter().filter(|name| !name.starts_with("ld-linux"));
        let libraries = libraries.map(|name| Path::new(&folder).join(name));
        // `/lib` and `/lib64` are links into `usr`.
        let loader = elf.loader.map(|path| Path::new("usr").join(path.trim_start_matches('/')));
        for path in libraries.chain(loader) {
            if !tree.has(&path) {
                self.add(tree, &path).with_context(|| format!("{} needs it", file.display()))?;
            }
        }
        Ok(())
    }

    /// Adds iptables' matches and targets. All of them, since rules of others are listed too.
    fn add_extensions(&self, tree: &mut Tree) -> Result<()> {
        let folder = PathBuf::from(format!("usr/lib/{}-linux-gnu/xtables", self.architecture.name));
        let entries = self.root.join(&folder).read_dir().context("iptables' package has no extensions")?;
        for entry in entries {
            let entry = entry.context("cannot list iptables' extensions")?;
            let path = folder.join(entry.file_name());
            match fs::read_link(entry.path()) {
                Ok(target) => tree.link(path, target),
                Err(_) => self.add(tree, &path)?,
            }
        }
        Ok(())
    }

    /// Returns the certificates of all authorities that Debian trusts, in one text.
    fn authorities(&self) -> Result<Vec<u8>> {
        let folder = self.root.join("usr/share/ca-certificates/mozilla");
        let entries = folder.read_dir().with_context(|| format!("cannot list {}", folder.display()))?;
        let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        ensure!(!files.is_empty(), "{AUTHORITIES} has no certificates");
        files.sort_unstable();
        Ok(files.iter().map(|file| read(file)).collect::<Result<Vec<_>>>()?.concat())
    }

    /// Returns the unpacked file that belongs at a path. Packages have some below `usr`, and some beside it.
    fn find(&self, path: &Path) -> Result<PathBuf> {
        let beside = path.strip_prefix("usr").unwrap_or(path);
        let candidates = [path, beside].map(|path| self.root.join(path));
        for candidate in candidates {
            if candidate.exists() {
                return Ok(candidate);
            }
        }
        bail!("it is in none of {}", self.root.display())
    }
}

/// Removes what was unpacked before.
pub(super) fn forget(architecture: &Architecture) -> Result<()> {
    let root = folder(architecture)?.join(UNPACKED);
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    Ok(())
}

fn folder(architecture: &Architecture) -> Result<PathBuf> {
    Ok(target()?.join("image").join(architecture.name))
}

/// Returns the names of iptables in the image, and the programs that they link to.
fn iptables() -> impl Iterator<Item = (String, &'static str)> {
    let kinds = KINDS.iter().map(|(kind, program)| (format!("-{kind}"), *program));
    let kinds: Vec<_> = [(String::new(), KINDS[0].1)].into_iter().chain(kinds).collect();
    kinds.into_iter().flat_map(|(kind, program)| {
        ["iptables", "ip6tables"].into_iter().flat_map(move |family| {
            let kind = kind.clone();
            ["", "-save", "-restore"].map(move |action| (format!("{family}{kind}{action}"), program))
        })
    })
}

fn download(architecture: &Architecture, folder: &Path, root: &Path) -> Result<()> {
    let unpacker = if architecture.is_native() {
        Unpacker::clean(folder)?
    } else {
        Unpacker::foreign(architecture.debian, &folder.join("apt"))?
    };
    let mut packages = unpacker.with_dependencies(&PACKAGES)?;
    packages.push(AUTHORITIES.to_owned());
    unpacker.unpack(&packages, root)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
