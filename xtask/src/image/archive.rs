//! The image as an archive: an OCI layout, with the one file besides that `docker load` reads.
//!
//! Formats: the OCI image specification 1.1, and `manifest.json` of the Docker image specification 1.2.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use flannel_tests::tree::{Tree, sha256};
use flate2::{Compression as Level, GzBuilder};
use serde_json::{Map, Value, json};

use super::agent::AGENT;
use super::source::Source;
use crate::architecture::Architecture;

/// The image's name, without its tag. The manifests have it, too.
pub(super) const NAME: &str = "localhost/flannel-agent";
/// The image's tag.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The programs' folders in the image.
const PATH: &str = "PATH=/opt/bin:/usr/sbin:/usr/bin";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What is done to a layer before it is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Nothing, which is fast.
    None,
    /// The best that gzip does.
    Gzip,
}

/// A layer of the image.
pub(super) struct Layer {
    /// What is in it, for `docker history`.
    title: &'static str,
    archive: Vec<u8>,
}

impl Layer {
    pub(super) fn new(title: &'static str, tree: Tree) -> Result<Self> {
        Ok(Self { title, archive: tree.archive()? })
    }

    /// Writes its files to a folder.
    pub(super) fn unpack(&self, folder: &Path) -> Result<()> {
        let unpacked = tar::Archive::new(self.archive.as_slice()).unpack(folder);
        unpacked.with_context(|| format!("cannot write to {}", folder.display()))
    }

    fn stored(&self, compression: Compression) -> Result<(String, Vec<u8>)> {
        match compression {
            Compression::None => Ok((LAYER.to_owned(), self.archive.clone())),
            Compression::Gzip => Ok((format!("{LAYER}+gzip"), gzip(&self.archive)?)),
        }
    }
}

/// Writes an image of these layers.
pub(super) fn write(
    architecture: &Architecture,
    layers: &[Layer],
    compression: Compression,
    file: impl Write,
) -> Result<()> {
    let mut blobs = Blobs::default();
    let (source, labels) = about();
    let stored = layers
        .iter()
        .map(|layer| layer.stored(compression).map(|(kind, data)| blobs.add(&kind, data)))
        .collect::<Result<Vec<_>>>()?;
    let config = config(architecture, layers, source.as_ref(), &labels);
    let config = blobs.add(CONFIG, config.to_string().into_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": stored, "annotations": labels,
    });
    let mut manifest = blobs.add(MANIFEST, manifest.to_string().into_bytes());
    let reference = format!("{NAME}:{VERSION}");
    manifest["platform"] = json!({"architecture": architecture.debian, "os": "linux"});
    // containerd names the image by the first; others, as the specification has it, by the second.
    manifest["annotations"] =
        json!({"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": VERSION});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]});
    let docker = json!([{
        "Config": Blobs::path(&config),
        "RepoTags": [reference],
        "Layers": stored.iter().map(Blobs::path).collect::<Vec<_>>(),
    }]);
    let mut tree = blobs.tree;
    tree.file("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string());
    tree.file("index.json", index.to_string());
    tree.file("manifest.json", docker.to_string());
    let mut file = file;
    file.write_all(&tree.archive()?).context("cannot write")
}

/// Returns the sources' state, and what the image says about itself, under the keys of the OCI specification.
fn about() -> (Option<Source>, Map<String, Value>) {
    let source = Source::get();
    let mut labels = Map::new();
    let mut label =
        |key: &str, value: &str| labels.insert(format!("org.opencontainers.image.{key}"), value.into());
    label("title", "flannel-agent");
    label("description", "The network of Kubernetes pods: flannel's node daemon with an eBPF dataplane");
    label("version", VERSION);
    // The agent's, and those of Debian's packages: iptables, nftables and the C library.
    label("licenses", "(MIT OR Apache-2.0) AND GPL-2.0-or-later AND LGPL-2.1-or-later");
    if let Some(source) = &source {
        label("revision", &source.revision);
        label("created", &source.created);
    }
    (source, labels)
}

fn config(
    architecture: &Architecture,
    layers: &[Layer],
    source: Option<&Source>,
    labels: &Map<String, Value>,
) -> Value {
    let layer_ids: Vec<_> = layers.iter().map(|layer| digest(&layer.archive)).collect();
    let steps = layers.iter().map(|layer| json!({"created_by": "cargo xtask image", "comment": layer.title}));
    let mut config = json!({
        "architecture": architecture.debian,
        "os": "linux",
        "config": {"Entrypoint": [format!("/{AGENT}")], "Env": [PATH], "Labels": labels, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": layer_ids},
        "history": steps.collect::<Vec<_>>(),
    });
    if let Some(source) = source {
        config["created"] = source.created.as_str().into();
    }
    config
}

/// Files that are named by what is in them.
#[derive(Default)]
struct Blobs {
    tree: Tree,
}

impl Blobs {
    /// Adds one and returns its descriptor.
    fn add(&mut self, kind: &str, data: Vec<u8>) -> Value {
        let descriptor = json!({"mediaType": kind, "digest": digest(&data), "size": data.len()});
        self.tree.file(Self::path(&descriptor), data);
        descriptor
    }

    /// Returns the path of the file that a descriptor is about.
    fn path(descriptor: &Value) -> String {
        let digest = descriptor["digest"].as_str().unwrap_or_default();
        format!("blobs/{}", digest.replace(':', "/"))
    }
}

fn digest(data: &[u8]) -> String {
    format!("sha256:{}", sha256(data))
}

/// Compresses, without a time or a name in the header.
pub(crate) fn gzip(data: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Level::best());
    encoder.write_all(data).and_then(|()| encoder.finish()).context("cannot compress a layer")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKERFILE: &str = include_str!("../../../deploy/Dockerfile");

    #[test]
    fn the_dockerfile_says_the_same_of_the_image() {
        let (_, labels) = about();
        for key in ["title", "description", "version", "licenses"] {
            let key = format!("org.opencontainers.image.{key}");
            let line = format!("{key}={}", labels[&key]);
            assert!(DOCKERFILE.contains(&line), "{line}");
        }
        for line in [format!("ENV {PATH}"), format!("ENTRYPOINT [\"/{AGENT}\"]"), "WORKDIR /".to_owned()] {
            assert!(DOCKERFILE.lines().any(|found| found == line), "{line}");
        }
    }

    #[test]
    fn compressing_the_same_data_gives_the_same_file() {
        let data = b"some data ".repeat(1000);
        assert_eq!(gzip(&data).unwrap(), gzip(&data).unwrap());
        let mut text = String::new();
        let packed = gzip(&data).unwrap();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed.as_slice()), &mut text)
            .unwrap();
        assert!(text.into_bytes() == data);
    }

    #[test]
    fn digests_are_those_of_sha256sum() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(b""), empty);
    }

    fn sample(reversed: bool) -> Tree {
        let mut tree = Tree::default();
        let mut files = vec!["usr/bin/b", "usr/bin/a", "etc/c"];
        if reversed {
            files.reverse();
        }
        for file in files {
            tree.file(file, file);
        }
        tree.link("bin", "usr/bin");
        tree
    }

    #[test]
    fn the_archive_does_not_depend_on_the_order_of_addition() {
        assert_eq!(sample(false).archive().unwrap(), sample(true).archive().unwrap());
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let archive = sample(false).archive().unwrap();
        let mut archive = tar::Archive::new(archive.as_slice());
        let paths = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned());
        let paths: Vec<_> = paths.map(|path| path.display().to_string()).collect();
        assert_eq!(paths, ["bin", "etc", "etc/c", "usr", "usr/bin", "usr/bin/a", "usr/bin/b"]);
    }
}
