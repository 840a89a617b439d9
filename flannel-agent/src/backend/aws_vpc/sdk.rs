//! What Amazon's SDK finds by its default chain: credentials, region, and the instance's metadata (IMDSv2).

use std::env;
use std::time::Duration;

use aws_config::imds;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::ProvideCredentials as _;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use tokio::time::timeout;

use super::super::cloud::{CloudError, Http, chain};
use super::ec2::Ec2;

/// The SDK asks several times. What it has not found by then it does not find.
const DEADLINE: Duration = Duration::from_secs(30);

/// The SDK's settings for this node.
pub(super) struct Sdk {
    http: Http,
    config: SdkConfig,
    imds: imds::Client,
}

impl Sdk {
    pub(super) async fn load(http: Http) -> Self {
        let client = client(&http);
        let config = aws_config::defaults(BehaviorVersion::latest()).http_client(client.clone()).load().await;
        let imds =
            imds::Client::builder().configure(&ProviderConfig::default().with_http_client(client)).build();
        Self { http, config, imds }
    }

    /// Returns the ID of this instance.
    pub(super) async fn instance_id(&self) -> Result<String, CloudError> {
        self.metadata("instance-id").await
    }

    /// Returns EC2 of this node's region, with credentials that are valid now.
    pub(super) async fn ec2(&self) -> Result<Ec2, CloudError> {
        let region = match self.config.region() {
            Some(region) => region.to_string(),
            None => self.metadata("placement/region").await?,
        };
        let endpoint = match configured_endpoint(|name| env::var(name).ok()) {
            Some(endpoint) => endpoint,
            None => format!("https://ec2.{region}.{}/", self.metadata("services/domain").await?),
        };
        let provider = self.config.credentials_provider();
        let provider = provider.ok_or_else(|| CloudError::failed("the AWS SDK has no credentials"))?;
        let credentials = timeout(DEADLINE, provider.provide_credentials()).await;
        let credentials =
            credentials.map_err(|_| CloudError::failed("the AWS SDK finds no credentials in time"))?;
        let credentials = credentials.map_err(|error| {
            CloudError::failed(format!(
                "the AWS SDK finds no credentials: {}. Give the instance a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                chain(&error)
            ))
        })?;
        Ok(Ec2 { http: self.http.clone(), endpoint, region, identity: credentials.into() })
    }

    async fn metadata(&self, path: &str) -> Result<String, CloudError> {
        let answer = timeout(DEADLINE, self.imds.get(format!("/latest/meta-data/{path}"))).await;
        let answer = answer.map_err(|_| CloudError::failed("the instance's metadata do not come in time"))?;
        answer.map(Into::into).map_err(|error| {
            CloudError::failed(format!(
                "asking the instance's metadata for {path}: {}. The backend aws-vpc is for instances of EC2 with metadata; from a \
                 container with its own network their hop limit has to be 2",
                chain(&error)
            ))
        })
    }
}

/// Returns the URL of EC2 that the SDK's variables name. `variable`: returns an environment variable.
fn configured_endpoint(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let given = |name| variable(name).filter(|value| !value.is_empty());
    if given("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return None;
    }
    let url = given("AWS_ENDPOINT_URL_EC2").or_else(|| given("AWS_ENDPOINT_URL"))?;
    Some(format!("{}/", url.trim_end_matches('/')))
}

/// Lets the SDK send its requests by the agent's client.
fn client(http: &Http) -> SharedHttpClient {
    let connector = SharedHttpConnector::new(Connector(http.clone()));
    http_client_fn(move |_, _| connector.clone())
}

#[derive(Debug)]
struct Connector(Http);

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let http = self.0.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let request =
                request.map(|body| Full::new(Bytes::copy_from_slice(body.bytes().unwrap_or_default())));
            let answer =
                http.send(request).await.map_err(|error| ConnectorError::io(error.to_string().into()))?;
            let mut response = Response::new(SdkBody::from(answer.body));
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdks_variables_name_another_endpoint() {
        let with = |variables: &[(&str, &str)]| {
            configured_endpoint(|name| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let (both, ec2) = (("AWS_ENDPOINT_URL", "http://a:1"), ("AWS_ENDPOINT_URL_EC2", "http://b/"));
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[("AWS_ENDPOINT_URL", "")]), None);
        assert_eq!(with(&[both]).as_deref(), Some("http://a:1/"));
        assert_eq!(with(&[both, ec2]).as_deref(), Some("http://b/"));
        assert_eq!(with(&[both, ec2, ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")]), None);
    }
}
