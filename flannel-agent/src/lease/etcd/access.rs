//! Connects to members of etcd, with certificates and a user.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::error::describe;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between pings during a request. etcd closes connections that ping more often than every 5 s
/// (`--grpc-keepalive-min-time`), or without a request.
const PING_INTERVAL: Duration = Duration::from_secs(6);
/// A member that does not answer a ping within this time has stopped or is unplugged.
const PING_TIMEOUT: Duration = Duration::from_secs(4);
/// etcd's answer to a login if it has no users (`rpctypes.ErrAuthNotEnabled`).
const NO_LOGIN: &str = "etcdserver: authentication is not enabled";

/// PEM files with certificates. They are read for every connection, so that renewed ones are used.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Authorities that may have issued etcd's certificate (`--etcd-cafile`). `None` means those of the system.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key (`--etcd-certfile`, `--etcd-keyfile`).
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A user of etcd.
#[derive(Clone)]
pub struct Login {
    /// The name.
    pub user: String,
    /// The password. `Debug` does not print it.
    pub password: Password,
}

/// A password, or where it is.
#[derive(Clone)]
pub enum Password {
    /// This text.
    Given(String),
    /// The text of this file (`--etcd-password-file`), which is read for every connection.
    File(PathBuf),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What a connection to a member needs.
pub(super) struct MemberAccess {
    pub tls: TlsFiles,
    pub login: Option<Login>,
}

impl MemberAccess {
    /// Connects to one member and logs in.
    pub(super) async fn connect(&self, endpoint: &str) -> anyhow::Result<Client> {
        let mut options = options();
        if self.tls.apply_to(endpoint) {
            options = options.with_tls(self.tls.read()?);
        }
        let open = async |options| Client::connect([endpoint], Some(options)).await;
        let client = match &self.login {
            None => open(options).await,
            Some(Login { user, password }) => {
                let password = password.read()?;
                match open(options.clone().with_user(user, password)).await {
                    // An etcd without users needs no login. flanneld's client connects without one, too.
                    Err(Error::GRpcStatus(status)) if status.message() == NO_LOGIN => open(options).await,
                    opened => opened,
                }
            }
        };
        client.map_err(|error| anyhow!(describe(&error)))
    }
}

impl Password {
    /// Returns it. In a file, an end of line behind it is not part of it.
    fn read(&self) -> anyhow::Result<String> {
        const FLAG: &str = "--etcd-password-file";
        let file = match self {
            Self::Given(password) => return Ok(password.clone()),
            Self::File(file) => file,
        };
        let text = String::from_utf8(read(FLAG, file)?);
        // The error would have the bytes.
        let text = text.map_err(|_| anyhow!("{FLAG} {} is not UTF-8", file.display()))?;
        let password = text.trim_end_matches(['\n', '\r']);
        ensure!(!password.is_empty(), "{FLAG} {} is empty", file.display());
        Ok(password.to_owned())
    }
}

impl TlsFiles {
    /// Returns true if connections to the endpoint use TLS. The scheme decides; without one, any file means TLS.
    fn apply_to(&self, endpoint: &str) -> bool {
        let given = self.ca.is_some() || self.identity.is_some();
        endpoint.starts_with("https://") || (given && !endpoint.starts_with("http://"))
    }

    /// Describes the files, for errors: a member that refuses our certificate often closes the connection without a
    /// reason.
    pub(super) fn describe(&self, endpoint: &str) -> String {
        if !self.apply_to(endpoint) {
            return String::new();
        }
        let ca = self.ca.as_ref().map_or("the system's authorities".into(), |ca| ca.display().to_string());
        let identity =
            self.identity.as_ref().map_or("no certificate".into(), |(cert, _)| cert.display().to_string());
        format!(" (trusting {ca}, showing {identity})")
    }

    fn read(&self) -> anyhow::Result<TlsOptions> {
        let tls = TlsOptions::new().timeout(CONNECT_TIMEOUT);
        let tls = match &self.ca {
            Some(file) => tls.ca_certificate(Certificate::from_pem(certificates("--etcd-cafile", file)?)),
            None => tls.with_native_roots(),
        };
        let Some((cert, key)) = &self.identity else { return Ok(tls) };
        let cert = certificates("--etcd-certfile", cert)?;
        Ok(tls.identity(Identity::from_pem(cert, private_key("--etcd-keyfile", key)?)))
    }
}

fn certificates(flag: &str, file: &Path) -> anyhow::Result<Vec<u8>> {
    let pem = read(flag, file)?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let found = found.with_context(|| format!("{flag} {} is not a PEM file", file.display()))?;
    ensure!(
        !found.is_empty(),
        "{flag} {} has no certificate in it (-----BEGIN CERTIFICATE-----)",
        file.display()
    );
    Ok(pem)
}

fn private_key(flag: &str, file: &Path) -> anyhow::Result<Vec<u8>> {
    let pem = read(flag, file)?;
    PrivateKeyDer::from_pem_slice(&pem).with_context(|| {
        format!("{flag} {} has no private key that can be used without a password", file.display())
    })?;
    Ok(pem)
}

fn read(flag: &str, file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("reading {flag} {}", file.display()))
}

fn options() -> ConnectOptions {
    ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
        .with_keep_alive_while_idle(false)
        // A member without its cluster cannot answer, and must refuse requests instead of holding them.
        .with_require_leader(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_decides_whether_tls_is_used() {
        let without = TlsFiles::default();
        let with = TlsFiles { ca: Some("/ca.pem".into()), identity: None };
        for (endpoint, plain, given) in [
            ("https://etcd:2379", true, true),
            ("http://etcd:2379", false, false),
            ("etcd:2379", false, true),
        ] {
            assert_eq!((without.apply_to(endpoint), with.apply_to(endpoint)), (plain, given), "{endpoint}");
        }
        assert_eq!(
            without.describe("https://a"),
            " (trusting the system's authorities, showing no certificate)"
        );
        assert_eq!(with.describe("http://a"), "");
    }

    #[test]
    fn a_password_in_a_file_ends_with_its_line_and_no_error_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let password = Password::File(file.clone());
        assert!(password.read().unwrap_err().to_string().contains("--etcd-password-file"));
        for (text, expected) in [("sec ret", "sec ret"), ("sec ret\n", "sec ret"), (" secret\r\n", " secret")]
        {
            std::fs::write(&file, text).unwrap();
            assert_eq!(password.read().unwrap(), expected);
        }
        for wrong in [&b""[..], b"\n", b"secret\xff"] {
            std::fs::write(&file, wrong).unwrap();
            let error = format!("{:?}", password.read().unwrap_err());
            assert!(error.contains("--etcd-password-file") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let login = Login { user: "root".into(), password: Password::Given("secret".into()) };
        let text = format!("{login:?}");
        assert!(text.contains("root") && !text.contains("secret"), "{text}");
    }
}
