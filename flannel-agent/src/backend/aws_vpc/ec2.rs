//! The few requests to EC2 that the backend needs: its Query protocol, signed by the SDK's own crate.

use std::time::SystemTime;

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use ipnet::IpNet;
use serde::de::DeserializeOwned;

use super::super::cloud::{Answer, CloudError, ErrorKind, Http, form};
use super::answer::{Done, Instances, NetworkInterface, Refusal, Refused, RouteTable, RouteTables};

/// The version of the interface.
const VERSION: &str = "2016-11-15";
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
/// So many route tables are asked for at a time.
const PAGE: &str = "100";

/// EC2 of a region.
#[derive(Debug)]
pub(super) struct Ec2 {
    pub(super) http: Http,
    /// Its URL, with a path.
    pub(super) endpoint: String,
    pub(super) region: String,
    pub(super) identity: Identity,
}

/// Names and values of a request.
type Parameters<'a> = Vec<(String, &'a str)>;

impl Ec2 {
    /// Returns the network interfaces of an instance.
    pub(super) async fn interfaces_of(&self, instance: &str) -> Result<Vec<NetworkInterface>, CloudError> {
        let answer: Instances =
            self.call("DescribeInstances", vec![("InstanceId.1".to_owned(), instance)]).await?;
        let instances = answer.reservation_set.item.into_iter().flat_map(|found| found.instances_set.item);
        Ok(instances.flat_map(|instance| instance.network_interface_set.item).collect())
    }

    /// Returns these route tables.
    pub(super) async fn route_tables(&self, ids: &[String]) -> Result<Vec<RouteTable>, CloudError> {
        let ids = (1..).zip(ids).map(|(number, id)| (format!("RouteTableId.{number}"), id.as_str()));
        self.describe_route_tables(ids.collect()).await
    }

    /// Returns the route table that holds for an interface: its subnet's, else the VPC's main one.
    pub(super) async fn route_table_of(
        &self,
        NetworkInterface { subnet_id, vpc_id, .. }: &NetworkInterface,
    ) -> Result<Vec<RouteTable>, CloudError> {
        let of_subnet = self.describe_route_tables(filters(&[("association.subnet-id", subnet_id)])).await?;
        if !of_subnet.is_empty() {
            return Ok(of_subnet);
        }
        let main = filters(&[("association.main", "true"), ("vpc-id", vpc_id)]);
        let main = self.describe_route_tables(main).await?;
        if main.is_empty() {
            Err(CloudError::failed(format!("{vpc_id} has no main route table")))
        } else {
            Ok(main)
        }
    }

    async fn describe_route_tables(&self, parameters: Parameters<'_>) -> Result<Vec<RouteTable>, CloudError> {
        let (mut tables, mut token) = (Vec::new(), None::<String>);
        let is_by_id = parameters.iter().any(|(name, _)| name.starts_with("RouteTableId"));
        loop {
            let mut page = parameters.clone();
            // It is refused together with IDs, which are few.
            page.extend((!is_by_id).then(|| ("MaxResults".to_owned(), PAGE)));
            page.extend(token.as_deref().map(|token| ("NextToken".to_owned(), token)));
            let answer: RouteTables = self.call("DescribeRouteTables", page).await?;
            tables.extend(answer.route_table_set.item);
            token = answer.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(tables);
            }
        }
    }

    /// Switches the check off that drops what is not to or from the interface's own addresses.
    pub(super) async fn switch_off_source_dest_check(&self, interface: &str) -> Result<(), CloudError> {
        let parameters =
            vec![("NetworkInterfaceId".to_owned(), interface), ("SourceDestCheck.Value".to_owned(), "false")];
        self.call::<Done>("ModifyNetworkInterfaceAttribute", parameters).await.map(drop)
    }

    /// Makes or replaces a route. `action`: `CreateRoute` or `ReplaceRoute`.
    pub(super) async fn write_route(
        &self,
        action: &str,
        table: &str,
        subnet: IpNet,
        interface: &str,
    ) -> Result<(), CloudError> {
        let text = subnet.to_string();
        let mut parameters = route(table, subnet, &text);
        parameters.push(("NetworkInterfaceId".to_owned(), interface));
        self.call::<Done>(action, parameters).await.map(drop)
    }

    /// Removes a route.
    pub(super) async fn delete_route(&self, table: &str, subnet: IpNet) -> Result<(), CloudError> {
        let text = subnet.to_string();
        self.call::<Done>("DeleteRoute", route(table, subnet, &text)).await.map(drop)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        action: &str,
        parameters: Parameters<'_>,
    ) -> Result<T, CloudError> {
        let fixed = [("Action", action), ("Version", VERSION)];
        let body =
            form(fixed.into_iter().chain(parameters.iter().map(|(name, value)| (name.as_str(), *value))));
        let request = self.signed(body).map_err(|error| error.when(action))?;
        let answer = self.http.send(request).await.map_err(|error| error.when(action))?;
        if !answer.status.is_success() {
            return Err(refused(action, &answer));
        }
        quick_xml::de::from_str(&answer.text())
            .map_err(|error| CloudError::failed(format!("{action}: the answer is not understood: {error}")))
    }

    fn signed(&self, body: String) -> Result<Request<Full<Bytes>>, CloudError> {
        let failed =
            |error: &dyn std::error::Error| CloudError::failed(format!("signing the request: {error}"));
        let parameters = v4::SigningParams::builder()
            .identity(&self.identity)
            .region(&self.region)
            .name("ec2")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| failed(&error))?
            .into();
        let headers = [(CONTENT_TYPE.as_str(), FORM)];
        let signable = SignableRequest::new(
            "POST",
            &self.endpoint,
            headers.into_iter(),
            SignableBody::Bytes(body.as_bytes()),
        )
        .map_err(|error| failed(&error))?;
        let (instructions, _) = sign(signable, &parameters).map_err(|error| failed(&error))?.into_parts();
        let mut request = Request::post(&self.endpoint)
            .header(CONTENT_TYPE, FORM)
            .body(Full::from(body))
            .map_err(|error| failed(&error))?;
        instructions.apply_to_request_http1x(&mut request);
        Ok(request)
    }
}

fn filters<'a>(filters: &[(&'a str, &'a str)]) -> Parameters<'a> {
    let named = (1..).zip(filters);
    let parameters = named.flat_map(|(number, (name, value))| {
        [(format!("Filter.{number}.Name"), *name), (format!("Filter.{number}.Value.1"), *value)]
    });
    parameters.collect()
}

fn route<'a>(table: &'a str, subnet: IpNet, text: &'a str) -> Parameters<'a> {
    let destination =
        if subnet.addr().is_ipv6() { "DestinationIpv6CidrBlock" } else { "DestinationCidrBlock" };
    vec![("RouteTableId".to_owned(), table), (destination.to_owned(), text)]
}

/// Returns why EC2 refuses a request, and what to do.
fn refused(action: &str, answer: &Answer) -> CloudError {
    let refused = quick_xml::de::from_str::<Refused>(&answer.text());
    let refusal = refused.ok().and_then(|refused| refused.errors.error.into_iter().next());
    let refusal = refusal.unwrap_or(Refusal { code: answer.status.to_string(), message: String::new() });
    let Refusal { code, message } = &refusal;
    let kind = match code.as_str() {
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "RequestThrottled"
        | "EC2ThrottledException" => ErrorKind::Throttled(answer.retry_after()),
        "InvalidRoute.NotFound" => ErrorKind::NotFound,
        _ => ErrorKind::Failed,
    };
    let remedy = match code.as_str() {
        "UnauthorizedOperation" | "AccessDenied" => format!(". Permit ec2:{action} to the role of the instance"),
        "RouteLimitExceeded" => {
            ". Have the quota of routes per route table raised, use several tables (RouteTableID), or the backend vxlan".to_owned()
        }
        "AuthFailure" | "RequestExpired" => ". Is the clock of the node right?".to_owned(),
        "InvalidRouteTableID.NotFound" => ". Correct RouteTableID in the network's configuration".to_owned(),
        _ => String::new(),
    };
    let shown: String = message.chars().take(400).collect();
    CloudError::new(kind, format!("{action}: {code}: {shown}{remedy}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::StatusCode;
    use hyper::header::{HeaderMap, RETRY_AFTER};

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, "7".parse().unwrap())]);
        Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: body.to_owned().into() }
    }

    #[test]
    fn refusals_are_told_apart_and_say_what_to_do() {
        let error = |code: &str| {
            format!(
                "<?xml version=\"1.0\"?><Response><Errors><Error><Code>{code}</Code><Message>M.</Message></Error></Errors>\
                 <RequestID>1</RequestID></Response>"
            )
        };
        for (code, kind, said) in [
            (
                "RequestLimitExceeded",
                ErrorKind::Throttled(Some(Duration::from_secs(7))),
                "RequestLimitExceeded: M.",
            ),
            ("InvalidRoute.NotFound", ErrorKind::NotFound, "M."),
            ("UnauthorizedOperation", ErrorKind::Failed, "Permit ec2:CreateRoute"),
            ("RouteLimitExceeded", ErrorKind::Failed, "quota"),
        ] {
            let refused = refused("CreateRoute", &answer(400, &error(code)));
            assert_eq!(refused.kind, kind, "{code}");
            assert!(refused.to_string().contains(said), "{refused}");
        }
        let odd = refused("CreateRoute", &answer(502, "<html>"));
        assert_eq!((odd.kind, odd.to_string().contains("502")), (ErrorKind::Failed, true), "{odd}");
    }
}
