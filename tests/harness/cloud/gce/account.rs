//! Tokens for the keys of service accounts (RFC 7523), checked by openssl.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::super::server::Request;
use crate::process::{LIMIT, finish};

/// Checks what asks for a token: a JSON web token that openssl finds to be signed by the account's key. Returns the account.
pub(super) fn check(public_key: &Path, form: &str) -> Result<String> {
    let parameters = Request::parameters(form);
    let value = |name: &str| parameters.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value);
    ensure!(
        value("grant_type") == "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "grant_type {}",
        value("grant_type")
    );
    let (signed, signature) = value("assertion").rsplit_once('.').context("no signature")?;
    let (header, claims) = signed.split_once('.').context("no claims")?;
    let folder = public_key.parent().context("no folder")?;
    let [data, binary] = ["assertion.txt", "assertion.sig"].map(|name| folder.join(name));
    fs::write(&data, signed)?;
    fs::write(&binary, from_base64url(signature)?)?;
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-verify"]).arg(public_key).arg("-signature").arg(&binary).arg(&data);
    finish(&mut openssl, "", LIMIT)?;
    let header: Value = serde_json::from_slice(&from_base64url(header)?)?;
    let claims: Value = serde_json::from_slice(&from_base64url(claims)?)?;
    ensure!(header["alg"] == "RS256" && header["typ"] == "JWT", "{header}");
    ensure!(claims["scope"] == "https://www.googleapis.com/auth/compute", "{claims}");
    let lifetime = claims["exp"].as_u64().zip(claims["iat"].as_u64()).map(|(end, begin)| end - begin);
    ensure!(lifetime.is_some_and(|seconds| seconds <= 3600), "{claims}");
    claims["iss"].as_str().map(str::to_owned).context("no account")
}

/// Decodes base64url without padding (RFC 4648, section 5).
fn from_base64url(text: &str) -> Result<Vec<u8>> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for letter in text.bytes() {
        let value = LETTERS.iter().position(|known| *known == letter).context("not base64url")?;
        bits = bits << 6 | u32::try_from(value)?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff)?);
        }
    }
    Ok(bytes)
}
