//! The delegates' configurations of ADD, kept until DEL. Folder, names and texts are flannel's, so that pods of either
//! plugin can be deleted by the other.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use super::error::Error;
use super::network::Network;
use crate::atomic_file;

/// The file of one container.
#[derive(Debug)]
pub(super) struct Saved {
    path: PathBuf,
}

impl Saved {
    /// Returns the file of a container, which need not exist.
    pub(super) fn of(network: &Network, container: &str) -> Self {
        Self { path: network.data_dir.join(container) }
    }

    /// Lists the files of all containers that were attached to this network.
    pub(super) fn all(network: &Network) -> Result<Vec<(String, Self)>, Error> {
        let failed = |error| Error::io("listing saved configurations", &network.data_dir, &error);
        let entries = match fs::read_dir(&network.data_dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let files =
            entries.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned()));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let saved = files.into_iter().map(|name| (name.clone(), Self::of(network, &name)));
        Ok(saved.filter(|(_, saved)| saved.is_of(network)).collect())
    }

    /// Whether it was saved by a network of this name: several may share the folder.
    fn is_of(&self, network: &Network) -> bool {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let config: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        config["name"] == network.name.as_str()
    }

    /// Writes a configuration, and creates the folder. Does not wait for the disk: a pod would wait for it, too.
    pub(super) fn write(&self, text: &str) -> Result<(), Error> {
        let folder = atomic_file::folder(&self.path);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let opened = made.and_then(|()| options.open(&self.path));
        let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| Error::io("saving the delegate's configuration", &self.path, &error))
    }

    /// Reads it; `None` if there is none.
    pub(super) fn read(&self) -> Result<Option<String>, Error> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("reading the saved configuration", &self.path, &error)),
        }
    }

    /// Removes it. It is no error if there is none.
    pub(super) fn remove(&self) -> Result<(), Error> {
        let gone = |error: &io::Error| error.kind() == ErrorKind::NotFound;
        match fs::remove_file(&self.path) {
            Err(error) if !gone(&error) => {
                Err(Error::io("removing the saved configuration", &self.path, &error))
            }
            _ => Ok(()),
        }
    }
}
