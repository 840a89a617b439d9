//! What the instance's metadata say, and the credentials.

use std::env;

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use serde::Deserialize;

use super::super::cloud::{CloudError, Http};
use super::sign::Credentials;
use crate::config::{AliVpcConfig, Secret};

/// The metadata server.
const METADATA: &str = "http://100.100.100.200/latest";
const TTL: (&str, &str) = ("X-aliyun-ecs-metadata-token-ttl-seconds", "300");
const TOKEN: &str = "X-aliyun-ecs-metadata-token";
/// Names of variables with an ID, a secret and, of temporary credentials, a token. The first are flannel's.
const VARIABLES: [[&str; 3]; 2] = [
    ["ACCESS_KEY_ID", "ACCESS_KEY_SECRET", "SECURITY_TOKEN"],
    ["ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_SECURITY_TOKEN"],
];

/// Where this instance is.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) region: String,
    pub(super) vpc: String,
    pub(super) vswitch: String,
    pub(super) instance: String,
}

/// The metadata server of an instance.
pub(super) struct Metadata<'a> {
    http: &'a Http,
    token: Option<HeaderValue>,
}

/// Credentials of a RAM role.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RoleCredentials {
    access_key_id: String,
    access_key_secret: String,
    security_token: String,
}

impl<'a> Metadata<'a> {
    /// Gets a token, without which an instance in hardened mode says nothing.
    pub(super) async fn open(http: &'a Http) -> Result<Self, CloudError> {
        let request: Result<Request<Full<Bytes>>, _> =
            Request::put(format!("{METADATA}/api/token")).header(TTL.0, TTL.1).body(Full::default());
        let answer = http.send(request.map_err(|error| failed("a token", &error.to_string()))?).await;
        let answer = answer.map_err(|error| failed("a token", &error.to_string()))?;
        let token =
            if answer.status.is_success() { HeaderValue::from_bytes(&answer.body).ok() } else { None };
        Ok(Self { http, token })
    }

    /// Returns where this instance is.
    pub(super) async fn place(&self, config: &AliVpcConfig) -> Result<Place, CloudError> {
        let region = match &config.region {
            Some(region) => region.clone(),
            None => self.get("region-id").await?,
        };
        Ok(Place {
            region,
            vpc: self.get("vpc-id").await?,
            vswitch: self.get("vswitch-id").await?,
            instance: self.get("instance-id").await?,
        })
    }

    /// Returns the credentials of the configuration, else of the environment, else of the instance's RAM role.
    pub(super) async fn credentials(&self, config: &AliVpcConfig) -> Result<Credentials, CloudError> {
        if let Some(given) = given(config, |name| env::var(name).ok()) {
            return Ok(given);
        }
        let path = "ram/security-credentials/";
        let role = self.get(path).await.map_err(|error| {
            error.when(
                "no AccessKeyID and AccessKeySecret in the configuration or the environment, and no RAM role",
            )
        })?;
        let text = self.get(&format!("{path}{}", role.trim())).await?;
        // The error does not show the text, which has the secret.
        let role: RoleCredentials = serde_json::from_str(&text).map_err(|_| {
            CloudError::failed("the credentials of the instance's RAM role are not understood")
        })?;
        let RoleCredentials { access_key_id: id, access_key_secret, security_token } = role;
        Ok(Credentials { id, secret: Secret(access_key_secret), token: Some(security_token) })
    }

    async fn get(&self, path: &str) -> Result<String, CloudError> {
        let mut request = Request::get(format!("{METADATA}/meta-data/{path}"));
        if let Some(token) = &self.token {
            request = request.header(TOKEN, token);
        }
        let request = request.body(Full::default()).map_err(|error| failed(path, &error.to_string()))?;
        let answer = self.http.send(request).await.map_err(|error| failed(path, &error.to_string()))?;
        if answer.status.is_success() {
            Ok(answer.text().trim().to_owned())
        } else {
            Err(failed(path, answer.status.as_str()))
        }
    }
}

fn failed(what: &str, why: &str) -> CloudError {
    CloudError::failed(format!(
        "asking the instance's metadata for {what}: {why}. The backend ali-vpc is for instances of Alibaba Cloud"
    ))
}

/// Returns the credentials that an administrator has given. `variable`: returns an environment variable.
fn given(config: &AliVpcConfig, variable: impl Fn(&str) -> Option<String>) -> Option<Credentials> {
    if let (Some(id), Some(secret)) = (&config.access_key_id, &config.access_key_secret) {
        return Some(Credentials { id: id.clone(), secret: secret.clone(), token: None });
    }
    let given = |name| variable(name).filter(|value| !value.is_empty());
    VARIABLES.into_iter().find_map(|[id, secret, token]| {
        Some(Credentials { id: given(id)?, secret: Secret(given(secret)?), token: given(token) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_the_configurations_else_the_environments() {
        let key = |id: &str, secret: Option<&str>| AliVpcConfig {
            access_key_id: Some(id.to_owned()),
            access_key_secret: secret.map(|secret| Secret(secret.to_owned())),
            region: None,
        };
        let flannels = [("ACCESS_KEY_ID", "old"), ("ACCESS_KEY_SECRET", "s")];
        let alibabas = [
            ("ALIBABA_CLOUD_ACCESS_KEY_ID", "new"),
            ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "s"),
            ("ALIBABA_CLOUD_SECURITY_TOKEN", "t"),
        ];
        for (config, variables, expected) in [
            (AliVpcConfig::default(), &[][..], None),
            (key("config", Some("s")), &flannels[..], Some(("config", false))),
            (key("config", None), &flannels, Some(("old", false))),
            (AliVpcConfig::default(), &flannels[..1], None),
            (AliVpcConfig::default(), &alibabas, Some(("new", true))),
        ] {
            let variable = |name: &str| {
                let found = variables.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let found = given(&config, variable);
            let found = found.as_ref().map(|found| (found.id.as_str(), found.token.is_some()));
            assert_eq!(found, expected, "{variables:?}");
        }
    }
}
