//! What we show to etcd, and what we ask of it: certificates and user.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::error::describe;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// etcd ends connections that ping more often than every 5 s (`--grpc-keepalive-min-time`), or at all while
/// nothing is asked of it.
const PING_INTERVAL: Duration = Duration::from_secs(6);
/// A member that leaves a ping unanswered for so long is gone: stopped, or unplugged.
const PING_TIMEOUT: Duration = Duration::from_secs(4);
/// etcd's answer to a login where it has none (`rpctypes.ErrAuthNotEnabled`).
const NO_LOGIN: &str = "etcdserver: authentication is not enabled";

/// Certificates for etcd, as PEM files. They are read at every connection, so that renewed ones are used.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Authorities that may have issued etcd's certificate (`--etcd-cafile`); without, the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key (`--etcd-certfile`, `--etcd-keyfile`).
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A user of etcd's.
#[derive(Clone)]
pub struct Login {
    /// Its name.
    pub user: String,
    /// Its password, which is never shown.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How a member lets us in.
pub(super) struct Access {
    pub tls: TlsFiles,
    pub login: Option<Login>,
}

impl Access {
    /// Connects to one member and logs in.
    pub(super) async fn connect(&self, endpoint: &str) -> anyhow::Result<Client> {
        let mut options = options();
        if self.tls.is_for(endpoint) {
            options = options.with_tls(self.tls.read()?);
        }
        let open = async |options| Client::connect([endpoint], Some(options)).await;
        let client = match &self.login {
            None => open(options).await,
            Some(Login { user, password }) => match open(options.clone().with_user(user, password)).await {
                // An etcd without users serves everyone; flanneld's client goes on, too.
                Err(Error::GRpcStatus(status)) if status.message() == NO_LOGIN => open(options).await,
                opened => opened,
            },
        };
        client.map_err(|error| anyhow!(describe(&error)))
    }
}

impl TlsFiles {
    /// Whether an endpoint is spoken to in TLS: by its scheme, and without one if any file is given.
    fn is_for(&self, endpoint: &str) -> bool {
        let given = self.ca.is_some() || self.identity.is_some();
        endpoint.starts_with("https://") || (given && !endpoint.starts_with("http://"))
    }

    /// For errors: a member that refuses our certificate often does so by hanging up without a word.
    pub(super) fn told(&self, endpoint: &str) -> String {
        if !self.is_for(endpoint) {
            return String::new();
        }
        let ca = self.ca.as_ref().map_or("the system's authorities".into(), |ca| ca.display().to_string());
        let shown =
            self.identity.as_ref().map_or("no certificate".into(), |(cert, _)| cert.display().to_string());
        format!(" (trusting {ca}, showing {shown})")
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
    let found = found.with_context(|| format!("{flag} {} is no PEM file", file.display()))?;
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
        // A member cut off from its cluster must not look alive.
        .with_require_leader(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_says_whether_it_is_tls() {
        let without = TlsFiles::default();
        let with = TlsFiles { ca: Some("/ca.pem".into()), identity: None };
        for (endpoint, plain, given) in [
            ("https://etcd:2379", true, true),
            ("http://etcd:2379", false, false),
            ("etcd:2379", false, true),
        ] {
            assert_eq!((without.is_for(endpoint), with.is_for(endpoint)), (plain, given), "{endpoint}");
        }
        assert_eq!(without.told("https://a"), " (trusting the system's authorities, showing no certificate)");
        assert_eq!(with.told("http://a"), "");
    }

    #[test]
    fn a_password_is_not_shown() {
        let login = Login { user: "root".into(), password: "secret".into() };
        let shown = format!("{login:?}");
        assert!(shown.contains("root") && !shown.contains("secret"), "{shown}");
    }
}
