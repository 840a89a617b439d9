//! What the node knew of its network at the end of the last run, in a file beside subnet.env.
//!
//! It describes what kernel and maps still hold. A restarted agent goes on with it until the datastore answers. The file
//! is for one datastore, and for the time until the machine is booted again.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::entry::{LeaseAttrs, LeaseEnd, RawLease};
use super::key::SubnetKey;
use super::manager::{KnownNode, LeaseUpdate};
use super::public_ips::PublicIps;
use super::set::LeaseSet;
use crate::atomic_file;
use crate::config::NetworkConfig;
use crate::peer::Peer;

/// Format of the file. A file of another version is not used.
const VERSION: u32 = 1;

/// The kernel's identifier of the time since the machine was booted.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The datastore's contents, as this node last knew them.
#[derive(Clone, Debug)]
pub struct LastKnown {
    /// The network configuration.
    pub network: NetworkConfig,
    /// What the datastore had of this node.
    pub node: KnownNode,
    /// The node's own subnet.
    pub subnet: SubnetKey,
    /// The leases of the other nodes.
    pub leases: Vec<RawLease>,
    /// Those of them that the datastore no longer has, and until when they are held, in seconds since 1970 (UTC).
    pub held: BTreeMap<SubnetKey, u64>,
}

/// The file's text. `L`: the leases by key, borrowed or owned.
#[derive(Serialize, Deserialize)]
struct Text<L> {
    version: u32,
    boot: String,
    datastore: String,
    network: Value,
    given_public_ip: Option<Ipv4Addr>,
    given_public_ipv6: Option<Ipv6Addr>,
    own: Option<LeaseAttrs>,
    subnet: String,
    leases: L,
    /// When leases end, as far as that is known. Agents before this field wrote none.
    #[serde(default)]
    ends: BTreeMap<String, LeaseEnd>,
    #[serde(default)]
    held: BTreeMap<String, u64>,
}

/// The part that all versions have in common.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl LastKnown {
    /// Reads the file. `datastore` says where the leases come from: a file about another one is not used. Returns `None`
    /// if there is no file, or only one about another datastore or of the time before a reboot.
    ///
    /// # Errors
    /// The file cannot be read, or is not what [`LastKnown::write`] writes.
    pub fn read(path: &Path, datastore: &str) -> Result<Option<Self>> {
        let found = Self::read_any(path)?;
        Ok(found.and_then(|(known, of)| (of == datastore).then_some(known)))
    }

    /// Reads the file, whichever datastore it is about, and says which. Returns `None` if there is no file, or only one of the
    /// time before a reboot.
    ///
    /// # Errors
    /// As of [`LastKnown::read`].
    pub fn read_any(path: &Path) -> Result<Option<(Self, String)>> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let text: Text<BTreeMap<String, Box<RawValue>>> = match serde_json::from_str(&text) {
            Ok(text) => text,
            Err(error) => {
                // That of another version may have other fields.
                let Versioned { version } = serde_json::from_str(&text)?;
                ensure_version(version)?;
                return Err(error.into());
            }
        };
        ensure_version(text.version)?;
        if text.boot != boot_id()? {
            return Ok(None);
        }
        let lease = |(key, value): (String, Box<RawValue>)| RawLease {
            end: text.ends.get(&key).copied().unwrap_or_default(),
            ..RawLease::new(key, value.get().into())
        };
        let held = text.held.into_iter().filter_map(|(key, until)| Some((key.parse().ok()?, until)));
        let known = Self {
            network: NetworkConfig::parse(&text.network.to_string())?,
            node: KnownNode {
                attrs: text.own,
                public_ips: PublicIps { v4: text.given_public_ip, v6: text.given_public_ipv6 },
            },
            subnet: text.subnet.parse()?,
            leases: text.leases.into_iter().map(lease).collect(),
            held: held.collect(),
        };
        Ok(Some((known, text.datastore)))
    }

    /// Returns the other nodes, without those whose entries cannot be used, and without those all of whose subnets are `elsewhere`:
    /// checking an entry takes longer than anything else that is done with it.
    #[must_use]
    pub fn peers_but(mut self, elsewhere: impl Fn(&IpNet) -> bool) -> Vec<Peer> {
        let is_elsewhere = |key: SubnetKey| key.nets().all(|net| elsewhere(&net));
        self.leases.retain(|lease| !lease.key.parse().is_ok_and(is_elsewhere));
        let mut leases = LeaseSet::new(&self.network, self.subnet);
        leases.apply(LeaseUpdate::Snapshot(self.leases));
        leases.peers()
    }

    /// Replaces the file in one step. Only root can read it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path, datastore: &str) -> Result<()> {
        let lease = |lease: &RawLease| {
            anyhow::Ok((lease.key.clone(), RawValue::from_string(lease.text().into_owned())?))
        };
        let ends = self.leases.iter().filter(|lease| lease.end != LeaseEnd::Unknown);
        let text = Text {
            version: VERSION,
            boot: boot_id()?,
            datastore: datastore.to_owned(),
            network: self.network.to_json(),
            given_public_ip: self.node.public_ips.v4,
            given_public_ipv6: self.node.public_ips.v6,
            own: self.node.attrs.clone(),
            subnet: self.subnet.to_string(),
            leases: self.leases.iter().map(lease).collect::<Result<BTreeMap<_, _>>>()?,
            ends: ends.map(|lease| (lease.key.clone(), lease.end)).collect(),
            held: self.held.iter().map(|(key, until)| (key.to_string(), *until)).collect(),
        };
        fs::create_dir_all(atomic_file::folder(path))?;
        Ok(atomic_file::replace_with(path, 0o600, |file| Ok(serde_json::to_writer_pretty(file, &text)?))?)
    }
}

fn ensure_version(version: u32) -> Result<()> {
    if version != VERSION {
        bail!("it has version {version}, and this agent reads version {VERSION}");
    }
    Ok(())
}

fn boot_id() -> Result<String> {
    let id = fs::read_to_string(BOOT_ID).with_context(|| format!("reading {BOOT_ID}"))?;
    Ok(id.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const STORE: &str = "etcd /coreos.com/network";
    const VALUE: &str = r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#;

    fn known(leases: usize) -> LastKnown {
        const ENDS: [LeaseEnd; 3] = [LeaseEnd::Unknown, LeaseEnd::Never, LeaseEnd::At(1_800_000_000)];
        let lease = |n: usize| RawLease {
            end: ENDS[n % ENDS.len()],
            ..RawLease::new(format!("10.5.{}.0-24", n + 2), VALUE.as_bytes().to_vec())
        };
        LastKnown {
            network: NetworkConfig::parse(r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}"#)
                .unwrap(),
            node: KnownNode {
                attrs: serde_json::from_str(VALUE).unwrap(),
                public_ips: PublicIps { v4: None, v6: "fd00::3".parse().ok() },
            },
            subnet: "10.5.1.0-24".parse().unwrap(),
            leases: (0..leases).map(lease).collect(),
            held: (0..leases / 2).map(|n| (lease(n).key.parse().unwrap(), 1_700_000_000)).collect(),
        }
    }

    fn ensure_same(read: &LastKnown, written: &LastKnown) {
        assert_eq!(read.network, written.network);
        let own = |known: &LastKnown| serde_json::to_string(&known.node.attrs).unwrap();
        assert_eq!((own(read), read.node.public_ips), (own(written), written.node.public_ips));
        assert_eq!((read.subnet, &read.leases, &read.held), (written.subnet, &written.leases, &written.held));
    }

    #[test]
    fn a_written_file_is_read_back_and_is_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/subnet.last-known.json");
        assert!(LastKnown::read(&path, STORE).unwrap().is_none());
        for leases in [0, 1, 7] {
            known(leases).write(&path, STORE).unwrap();
            ensure_same(&LastKnown::read(&path, STORE).unwrap().unwrap(), &known(leases));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a temporary file is left");
    }

    #[test]
    fn what_makes_a_usable_lease_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (unused, kept) in [
            (&b"\"x\": 1e999"[..], "\"x\": 1e999"),
            (b"\"x\": \"\xff\"", "\"x\": \"\u{fffd}\""),
            (b"\"x\": \"\\ud800\"", "\"x\": \"\\ud800\""),
        ] {
            let value = |unused: &[u8]| [b"{", unused, b", ", &VALUE.as_bytes()[1..]].concat();
            let mut written = known(2);
            written.leases[0].value = value(unused);
            LeaseAttrs::parse(&written.leases[0].value).unwrap();
            written.write(&path, STORE).unwrap();
            written.leases[0].value = value(kept.as_bytes());
            ensure_same(&LastKnown::read(&path, STORE).unwrap().unwrap(), &written);
        }
    }

    #[test]
    fn a_file_of_another_datastore_or_of_the_time_before_a_reboot_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        known(1).write(&path, STORE).unwrap();
        assert!(LastKnown::read(&path, "etcd /other").unwrap().is_none());
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(&boot_id().unwrap(), "another boot")).unwrap();
        assert!(LastKnown::read(&path, STORE).unwrap().is_none());
    }

    #[test]
    fn the_file_of_an_agent_that_wrote_no_ends_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        known(2).write(&path, STORE).unwrap();
        let mut text: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for field in ["ends", "held"] {
            text.as_object_mut().unwrap().remove(field).unwrap();
        }
        fs::write(&path, text.to_string()).unwrap();
        let read = LastKnown::read(&path, STORE).unwrap().unwrap();
        assert!(read.held.is_empty() && read.leases.iter().all(|lease| lease.end == LeaseEnd::Unknown));
    }

    #[test]
    fn nodes_that_are_known_otherwise_are_left_out_if_all_their_subnets_are() {
        let subnets = |elsewhere: &[&str]| {
            let mut known = known(2);
            known.leases.push(RawLease::new("10.5.9.0-24&fd44::-64".to_owned(), VALUE.as_bytes().to_vec()));
            let elsewhere: Vec<IpNet> = elsewhere.iter().map(|net| net.parse().unwrap()).collect();
            let peers = known.peers_but(|net| elsewhere.contains(net));
            peers.into_iter().map(|peer| peer.subnet.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(subnets(&[]), ["10.5.2.0/24", "10.5.3.0/24", "10.5.9.0/24"]);
        assert_eq!(subnets(&["10.5.2.0/24", "10.5.9.0/24"]), ["10.5.3.0/24", "10.5.9.0/24"]);
        assert_eq!(subnets(&["10.5.9.0/24", "fd44::/64"]), ["10.5.2.0/24", "10.5.3.0/24"]);
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        known(1).write(&path, STORE).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for (damaged, said) in [
            (String::new(), "EOF"),
            (text[..text.len() / 2].to_owned(), "EOF"),
            (text.replace("\"version\": 1", "\"version\": 2"), "version 2"),
            ("{\"version\": 3}".to_owned(), "version 3"),
            (text.replace("10.5.1.0-24", "10.5.1.1-24"), "host bits"),
            (text.replace("10.5.0.0/16", "10.5.0.0"), "Network"),
        ] {
            fs::write(&path, damaged).unwrap();
            let error = format!("{:#}", LastKnown::read(&path, STORE).unwrap_err());
            assert!(error.contains(said), "no {said:?} in {error}");
        }
    }
}
