//! Tokens for Google's interfaces: of the instance's service account, or of a key file that GOOGLE_APPLICATION_CREDENTIALS names.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, fs};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::super::cloud::{CloudError, Http, form};

/// The metadata server, unless Google's variable names another.
const METADATA: &str = "169.254.169.254";
const METADATA_VARIABLE: &str = "GCE_METADATA_HOST";
const KEY_VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
/// What the token is for.
const SCOPE: &str = "https://www.googleapis.com/auth/compute";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// A token is replaced this long before it ends.
const MARGIN: Duration = Duration::from_secs(60);
/// How long the key's own statement holds.
const ASSERTION: Duration = Duration::from_secs(600);

/// What the instance says of itself.
pub(super) struct Metadata {
    http: Http,
    host: String,
}

impl Metadata {
    pub(super) fn new(http: Http) -> Self {
        let host = env::var(METADATA_VARIABLE).ok().filter(|host| !host.is_empty());
        Self { http, host: host.unwrap_or_else(|| METADATA.to_owned()) }
    }

    /// Returns the value at a path.
    pub(super) async fn get(&self, path: &str) -> Result<String, CloudError> {
        let doing = format!("asking the instance's metadata for {path}");
        let failed = |why: String| {
            CloudError::failed(format!("{doing}: {why}. The backend gce is for instances of Compute Engine"))
        };
        let url = format!("http://{}/computeMetadata/v1/{path}", self.host);
        let request: Result<Request<Full<Bytes>>, _> =
            Request::get(url).header("Metadata-Flavor", "Google").body(Full::default());
        let answer = self.http.send(request.map_err(|error| failed(error.to_string()))?).await;
        let answer = answer.map_err(|error| failed(error.to_string()))?;
        if answer.status.is_success() { Ok(answer.text()) } else { Err(failed(answer.status.to_string())) }
    }
}

/// Returns a token that is valid, and asks for a new one where the last one ends.
pub(super) struct Tokens {
    metadata: Metadata,
    last: Option<(String, Instant)>,
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
    /// In seconds.
    expires_in: u64,
}

/// A key file of a service account.
#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    client_email: String,
    #[serde(default)]
    private_key: String,
    #[serde(default)]
    private_key_id: String,
    #[serde(default)]
    token_uri: String,
}

impl Tokens {
    pub(super) fn new(metadata: Metadata) -> Self {
        Self { metadata, last: None }
    }

    /// The last one is not accepted.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    pub(super) async fn get(&mut self) -> Result<String, CloudError> {
        if let Some((token, end)) = &self.last
            && *end > Instant::now() + MARGIN
        {
            return Ok(token.clone());
        }
        let Token { access_token, expires_in } = match env::var(KEY_VARIABLE)
            .ok()
            .filter(|file| !file.is_empty())
        {
            Some(file) => {
                self.of_key(&file).await.map_err(|error| error.when(format!("the key file {file}")))?
            }
            None => parse(self.metadata.get("instance/service-accounts/default/token").await?.as_bytes())?,
        };
        self.last = Some((access_token.clone(), Instant::now() + Duration::from_secs(expires_in)));
        Ok(access_token)
    }

    /// Exchanges a statement that the key signs for a token (RFC 7523).
    async fn of_key(&self, file: &str) -> Result<Token, CloudError> {
        let path = file.to_owned();
        let text =
            spawn_blocking(|| fs::read(path)).await.map_err(|error| CloudError::failed(error.to_string()))?;
        let text = text.map_err(|error| CloudError::failed(error.to_string()))?;
        let key: KeyFile = serde_json::from_slice(&text).map_err(|error| {
            CloudError::failed(format!("it is not JSON of the expected form (line {})", error.line()))
        })?;
        if key.kind != "service_account" {
            return Err(CloudError::failed(format!("its type is {}; allowed: service_account", key.kind)));
        }
        let statement = statement(&key, SystemTime::now()).map_err(CloudError::failed)?;
        let body = form([("grant_type", GRANT), ("assertion", &statement)]);
        let request: Result<Request<Full<Bytes>>, _> = Request::post(&key.token_uri)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::from(body));
        let request = request.map_err(|error| CloudError::failed(format!("token_uri: {error}")))?;
        let answer = self.metadata.http.send(request).await?;
        if !answer.status.is_success() {
            let shown: String = answer.text().chars().take(200).collect();
            return Err(CloudError::failed(format!("{} answers {}: {shown}", key.token_uri, answer.status)));
        }
        parse(&answer.body)
    }
}

fn parse(answer: &[u8]) -> Result<Token, CloudError> {
    // The error does not show the text, which has the token.
    serde_json::from_slice(answer)
        .map_err(|_| CloudError::failed("the answer to a request for a token has none"))
}

/// Returns a JSON web token (RFC 7519) that says that the owner of the key asks for a token.
fn statement(key: &KeyFile, now: SystemTime) -> Result<String, String> {
    let issued = now.duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": key.private_key_id});
    let claims = json!({
        "iss": key.client_email,
        "scope": SCOPE,
        "aud": key.token_uri,
        "iat": issued.as_secs(),
        "exp": (issued + ASSERTION).as_secs(),
    });
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let der = PrivatePkcs8KeyDer::from_pem_slice(key.private_key.as_bytes());
    let der = der.map_err(|_| "its private_key is not PEM of a PKCS#8 key")?;
    let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der())
        .map_err(|error| format!("its private_key: {error}"))?;
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .map_err(|error| format!("signing by its private_key: {error}"))?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
