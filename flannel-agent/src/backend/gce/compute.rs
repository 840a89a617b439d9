//! The few requests to Compute Engine that the backend needs.

use std::env;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request, StatusCode};
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::super::cloud::{Answer, CloudError, ErrorKind, Http, form};
use super::answer::{Instance, Operation, Reason, Refusal, Refused, RouteEntry, Routes};
use super::token::{Metadata, Tokens};
use super::{Place, name_of};

/// The interface, unless gcloud's variable names another.
const ENDPOINT: &str = "https://compute.googleapis.com/compute/v1";
const ENDPOINT_VARIABLE: &str = "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE";
/// So many routes are asked for at a time.
const PAGE: &str = "500";
/// The priority of flannel's routes.
const PRIORITY: u32 = 1000;
/// A change is done by then. It usually takes some seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// Interval of asking whether a change is done.
const POLL: Duration = Duration::from_secs(1);

/// Compute Engine, as this instance sees it.
pub(super) struct Compute {
    http: Http,
    tokens: Tokens,
    endpoint: String,
    project: String,
    zone: String,
    instance: String,
}

impl Compute {
    /// Asks the metadata who this instance is.
    pub(super) async fn open(http: Http) -> Result<Self, CloudError> {
        let metadata = Metadata::new(http.clone());
        let project = metadata.get("project/project-id").await?;
        let zone = metadata.get("instance/zone").await?;
        let instance = metadata.get("instance/name").await?;
        let endpoint = env::var(ENDPOINT_VARIABLE).ok().filter(|url| !url.is_empty());
        Ok(Self {
            tokens: Tokens::new(metadata),
            endpoint: endpoint.unwrap_or_else(|| ENDPOINT.to_owned()).trim_end_matches('/').to_owned(),
            project,
            zone: zone.rsplit('/').next().unwrap_or_default().to_owned(),
            instance,
            http,
        })
    }

    /// Returns this instance.
    pub(super) async fn instance(&mut self) -> Result<Instance, CloudError> {
        let path = format!("zones/{}/instances/{}", self.zone, self.instance);
        self.call(Method::GET, &path, None).await
    }

    /// Returns the routes of the project.
    pub(super) async fn routes(&mut self) -> Result<Vec<RouteEntry>, CloudError> {
        let (mut routes, mut token) = (Vec::new(), None::<String>);
        loop {
            let page = token.as_deref().map(|token| ("pageToken", token));
            let query = form([("maxResults", PAGE)].into_iter().chain(page));
            let answer: Routes = self.call(Method::GET, &format!("global/routes?{query}"), None).await?;
            routes.extend(answer.items);
            token = answer.next_page_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(routes);
            }
        }
    }

    /// Makes the route to this node's subnet, and waits until it is there.
    pub(super) async fn insert(&mut self, subnet: IpNet, place: &Place) -> Result<(), CloudError> {
        let route = json!({
            "name": name_of(subnet),
            "description": "pods of a node, by flannel",
            "destRange": subnet.to_string(),
            "network": place.network,
            "nextHopInstance": place.instance,
            "priority": PRIORITY,
            "tags": [],
        });
        let operation = self.call(Method::POST, "global/routes", Some(&route)).await?;
        self.finish(operation).await
    }

    /// Removes a route, and waits until it is gone.
    pub(super) async fn delete(&mut self, name: &str) -> Result<(), CloudError> {
        let operation = self.call(Method::DELETE, &format!("global/routes/{name}"), None).await?;
        self.finish(operation).await
    }

    async fn finish(&mut self, mut operation: Operation) -> Result<(), CloudError> {
        let end = Instant::now() + PATIENCE;
        while operation.status != "DONE" {
            if Instant::now() >= end {
                let name = &operation.name;
                return Err(CloudError::failed(format!(
                    "the operation {name} is not done after {} s",
                    PATIENCE.as_secs()
                )));
            }
            sleep(POLL).await;
            operation =
                self.call(Method::GET, &format!("global/operations/{}", operation.name), None).await?;
        }
        let failed = operation.error.and_then(|error| error.errors.into_iter().next());
        failed.map_or(Ok(()), |reason| Err(refusal(StatusCode::OK, &reason, &reason.message, None)))
    }

    async fn call<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, CloudError> {
        let doing = format!("{method} {}", path.split('?').next().unwrap_or_default());
        let token = self.tokens.get().await?;
        let url = format!("{}/projects/{}/{path}", self.endpoint, self.project);
        let body = body.map(Value::to_string).unwrap_or_default();
        let request: Result<Request<Full<Bytes>>, _> = Request::builder()
            .method(method)
            .uri(url)
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body));
        let request = request.map_err(|error| CloudError::failed(format!("{doing}: {error}")))?;
        let answer = self.http.send(request).await.map_err(|error| error.when(&doing))?;
        if answer.status == StatusCode::UNAUTHORIZED {
            self.tokens.forget();
        }
        if !answer.status.is_success() {
            return Err(refused(&answer).when(doing));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| CloudError::failed(format!("{doing}: the answer is not understood: {error}")))
    }
}

/// Returns why a request is refused, and what to do.
fn refused(answer: &Answer) -> CloudError {
    let Refusal { message, errors } =
        serde_json::from_slice::<Refused>(&answer.body).map(|refused| refused.error).unwrap_or_default();
    let reason = errors.into_iter().next().unwrap_or_default();
    refusal(answer.status, &reason, &message, answer.retry_after())
}

fn refusal(status: StatusCode, reason: &Reason, message: &str, retry_after: Option<Duration>) -> CloudError {
    let code = if reason.reason.is_empty() { &reason.code } else { &reason.reason };
    let is_throttled =
        matches!(code.as_str(), "rateLimitExceeded" | "userRateLimitExceeded" | "RATE_LIMIT_EXCEEDED");
    let kind = match status {
        _ if is_throttled => ErrorKind::Throttled(retry_after),
        StatusCode::TOO_MANY_REQUESTS => ErrorKind::Throttled(retry_after),
        StatusCode::NOT_FOUND => ErrorKind::NotFound,
        _ => ErrorKind::Failed,
    };
    let remedy = match code.as_str() {
        "quotaExceeded" | "QUOTA_EXCEEDED" => {
            ". Have the quota of static routes raised, or use the backend vxlan"
        }
        "insufficientPermissions" => {
            ". Start the instance with the access scope compute-rw or cloud-platform"
        }
        "forbidden" => ". Give the service account the role Compute Network Admin, or permissions for routes",
        "alreadyExists" | "RESOURCE_ALREADY_EXISTS" => {
            ". If another network of the project has the route of this name, give the clusters different pod networks"
        }
        _ => "",
    };
    let shown: String = message.chars().take(400).collect();
    let status = if status.is_success() { String::new() } else { format!("{}: ", status.as_u16()) };
    CloudError::new(kind, format!("{status}{code}: {shown}{remedy}"))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderMap;

    use super::*;

    #[test]
    fn refusals_are_told_apart_and_say_what_to_do() {
        for (status, reason, kind, said) in [
            (403, "rateLimitExceeded", ErrorKind::Throttled(None), "M."),
            (429, "other", ErrorKind::Throttled(None), "429"),
            (404, "notFound", ErrorKind::NotFound, "M."),
            (403, "quotaExceeded", ErrorKind::Failed, "quota of static routes"),
            (403, "insufficientPermissions", ErrorKind::Failed, "access scope"),
            (409, "alreadyExists", ErrorKind::Failed, "different pod networks"),
        ] {
            let body = json!({"error": {"code": status, "message": "M.", "errors": [{"reason": reason, "message": "M."}]}});
            let answer = Answer {
                status: StatusCode::from_u16(status).unwrap(),
                headers: HeaderMap::new(),
                body: body.to_string().into(),
            };
            let refused = refused(&answer);
            assert_eq!(refused.kind, kind, "{reason}");
            assert!(refused.to_string().contains(said), "{refused}");
        }
    }
}
