//! Requests with Alibaba Cloud's signature V3, ACS3-HMAC-SHA256.

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HOST};
use ring::{digest, hmac};

use super::super::cloud::{CloudError, form};
use crate::config::Secret;

const ALGORITHM: &str = "ACS3-HMAC-SHA256";

/// An access key.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) id: String,
    pub(super) secret: Secret,
    /// Temporary credentials have it.
    pub(super) token: Option<String>,
}

/// A request.
pub(super) struct Call<'a> {
    /// `http://` or `https://` and the host.
    pub(super) endpoint: &'a str,
    pub(super) action: &'a str,
    pub(super) version: &'a str,
    /// UTC: `2023-10-26T10:22:32Z`.
    pub(super) date: String,
    /// A text that no other request has.
    pub(super) nonce: String,
    /// Names and values.
    pub(super) parameters: Vec<(&'a str, &'a str)>,
}

impl Call<'_> {
    /// Returns the signed request. Its parameters stand in the query; it has no body.
    pub(super) fn signed(mut self, credentials: &Credentials) -> Result<Request<Full<Bytes>>, CloudError> {
        self.parameters.sort_unstable();
        let query = form(self.parameters.iter().copied());
        let host = self.endpoint.split("://").nth(1).unwrap_or(self.endpoint);
        let empty = hex(digest::digest(&digest::SHA256, b"").as_ref());
        // In the order in which they are signed.
        let mut headers = vec![
            ("host", host),
            ("x-acs-action", self.action),
            ("x-acs-content-sha256", &empty),
            ("x-acs-date", &self.date),
        ];
        headers.extend(credentials.token.as_deref().map(|token| ("x-acs-security-token", token)));
        headers.extend([("x-acs-signature-nonce", self.nonce.as_str()), ("x-acs-version", self.version)]);
        let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let canonical = format!("POST\n/\n{query}\n{lines}\n{names}\n{empty}");
        let text =
            format!("{ALGORITHM}\n{}", hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref()));
        let key = hmac::Key::new(hmac::HMAC_SHA256, credentials.secret.0.as_bytes());
        let signature = hex(hmac::sign(&key, text.as_bytes()).as_ref());
        let mut request = Request::post(format!("{}/?{query}", self.endpoint));
        for (name, value) in headers.into_iter().filter(|(name, _)| *name != HOST.as_str()) {
            request = request.header(name, value);
        }
        let authorization =
            format!("{ALGORITHM} Credential={},SignedHeaders={names},Signature={signature}", credentials.id);
        let request = request.header(AUTHORIZATION, authorization).body(Full::default());
        request.map_err(|error| CloudError::failed(format!("{}: {error}", self.action)))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_documentation_has_its_signature() {
        let call = Call {
            endpoint: "https://ecs.cn-shanghai.aliyuncs.com",
            action: "RunInstances",
            version: "2014-05-26",
            date: "2023-10-26T10:22:32Z".to_owned(),
            nonce: "3156853299f313e23d1673dc12e1703d".to_owned(),
            parameters: vec![
                ("RegionId", "cn-shanghai"),
                ("ImageId", "win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd"),
            ],
        };
        let key = Credentials {
            id: "YourAccessKeyId".to_owned(),
            secret: Secret("YourAccessKeySecret".to_owned()),
            token: None,
        };
        let request = call.signed(&key).unwrap();
        let expected = "ACS3-HMAC-SHA256 Credential=YourAccessKeyId,SignedHeaders=host;x-acs-action;x-acs-content-sha256;x-acs-date;\
                        x-acs-signature-nonce;x-acs-version,\
                        Signature=06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0";
        assert_eq!(request.headers()[AUTHORIZATION], expected);
        assert_eq!(
            request.uri().to_string(),
            "https://ecs.cn-shanghai.aliyuncs.com/?ImageId=win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd&RegionId=cn-shanghai"
        );
    }
}
