//! How to reach the API server: as clientcmd's `BuildConfigFromFlags` does it for flanneld.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use hyper::header::HeaderValue;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use crate::lease::url::without_login;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between probes of an idle connection.
const PROBE: Duration = Duration::from_secs(10);
/// A connection whose data or probes nobody acknowledges for this long is broken.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Where the API server is, and who we are. Without both it is what a pod's service account says.
#[derive(Clone, Debug, Default)]
pub(super) struct Access {
    /// `--kube-api-url`: takes precedence over the other sources.
    pub api_url: Option<String>,
    /// `--kubeconfig-file`.
    pub kubeconfig: Option<PathBuf>,
}

/// A client, and the server that it talks to.
#[derive(Clone)]
pub(super) struct Connected {
    pub client: Client,
    pub url: String,
}

impl Access {
    /// Reads the files, and returns a client with what they have now. Connects at the first request.
    pub(super) async fn connect(&self) -> Result<Connected> {
        let config = self.config().await?;
        let url = without_login(&config.cluster_url.to_string()).into_owned();
        let client = client(&config).with_context(|| format!("preparing to talk to the API server {url}"))?;
        Ok(Connected { client, url })
    }

    async fn config(&self) -> Result<Config> {
        let mut config = match (&self.kubeconfig, &self.api_url) {
            (Some(file), _) => from_file(file)
                .await
                .with_context(|| format!("reading --kubeconfig-file {}", file.display()))?,
            (None, Some(url)) => for_url(url)?,
            (None, None) => Config::incluster().context(
                "no access to Kubernetes: outside a pod give --kubeconfig-file or --kube-api-url; inside, the service \
                 account of the pod must be mounted",
            )?,
        };
        if let Some(url) = &self.api_url {
            config.cluster_url = parse(url)?;
        }
        Ok(config)
    }
}

/// Returns how to reach the API server at `--kube-api-url` without a kubeconfig file. A pod may have to reach it without
/// the service's address, before kube-proxy works. Its token is sent over TLS only.
fn for_url(url: &str) -> Result<Config> {
    let parsed = parse(url)?;
    let service_account = if parsed.scheme_str() == Some("https") { Config::incluster().ok() } else { None };
    Ok(service_account.unwrap_or_else(|| Config::new(parsed)))
}

fn parse(url: &str) -> Result<hyper::Uri> {
    url.parse().with_context(|| format!("--kube-api-url {} is not a URL", without_login(url)))
}

async fn from_file(file: &PathBuf) -> Result<Config> {
    let kubeconfig = Kubeconfig::read_from(file).map_err(without_text)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // kube panics when it makes a header of a token that cannot be one.
    let user = serde_json::to_value(&config.auth_info).context("reading its user")?;
    let token = user["token"].as_str().unwrap_or_default();
    ensure!(
        HeaderValue::from_str(token).is_ok(),
        "the token in it has a line end, or another character that none has"
    );
    Ok(config)
}

/// Returns an error of reading a kubeconfig file without the lines of the file, which may have a token or a key.
fn without_text(error: KubeconfigError) -> anyhow::Error {
    let KubeconfigError::Parse(error) = error else { return error.into() };
    let place = error.location().map(|place| format!(" at line {}, column {}", place.line(), place.column()));
    anyhow!(
        "it is not a kubeconfig file: wrong YAML, or a value of a wrong kind{}",
        place.unwrap_or_default()
    )
}

fn client(config: &Config) -> Result<Client> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(PROBE));
    connector.set_keepalive_interval(Some(PROBE));
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let http = HttpClient::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, &*config.default_namespace))
}
