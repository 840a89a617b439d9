//! Settings of the backends that write routes into a cloud's network. Keys are flannel's.

use std::fmt;

use super::ConfigError;
use super::keys::Keys;

/// Settings of the aws-vpc backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsVpcConfig {
    /// `RouteTableID`: the route tables that get a route to this node. If empty, the one of the instance's subnet does.
    pub route_tables: Vec<String>,
}

impl AwsVpcConfig {
    pub(super) fn read(keys: &Keys) -> Result<Self, ConfigError> {
        const ALLOWED: &str = "the ID of a route table, or a list of IDs: [\"rtb-1\", \"rtb-2\"]";
        Ok(Self { route_tables: keys.texts("RouteTableID", ALLOWED)? })
    }
}

/// Settings of the ali-vpc backend. What is absent is found elsewhere: in the environment, or by asking the instance's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AliVpcConfig {
    /// `RegionID`.
    pub region: Option<String>,
    /// `AccessKeyID`.
    pub access_key_id: Option<String>,
    /// `AccessKeySecret`.
    pub access_key_secret: Option<Secret>,
}

impl AliVpcConfig {
    pub(super) fn read(keys: &Keys) -> Result<Self, ConfigError> {
        let text = |key| Ok(keys.parsed::<String>(key, "a text")?.filter(|text| !text.is_empty()));
        Ok(Self {
            region: text("RegionID")?,
            access_key_id: text("AccessKeyID")?,
            access_key_secret: keys.secret("AccessKeySecret")?.filter(|secret| !secret.0.is_empty()),
        })
    }
}

/// A text that neither logs nor messages show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
