//! The certificates of a control plane, made by openssl.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::{LIMIT, finish};

/// Makes an authority, a server certificate for this address, a client certificate of an administrator, and the key of
/// service accounts.
pub(super) fn make(folder: &Path, ip: Ipv4Addr, service: Ipv4Addr) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let openssl =
        |line: &str| finish(Command::new("openssl").args(line.split(' ')).current_dir(folder), "", LIMIT);
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!(
        "req -x509 {key} -days 3650 -subj /CN=test-bed -keyout ca.key -out ca.crt -addext keyUsage=critical,keyCertSign,cRLSign"
    ))?;
    let names = format!(
        "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:{ip},IP:{service}"
    );
    for (name, subject, extensions) in [
        ("apiserver", "/CN=kube-apiserver", format!("extendedKeyUsage=serverAuth\nsubjectAltName={names}\n")),
        ("admin", "/O=system:masters/CN=admin", "extendedKeyUsage=clientAuth\n".to_owned()),
    ] {
        fs::write(folder.join("extensions"), extensions)?;
        openssl(&format!("req {key} -subj {subject} -keyout {name}.key -out {name}.csr"))?;
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -out {name}.crt -extfile extensions"
        ))?;
    }
    openssl("genrsa -out accounts.key 2048")?;
    openssl("rsa -in accounts.key -pubout -out accounts.pub").map(drop)
}
