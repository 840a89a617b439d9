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

#[cfg(test)]
mod tests {
    use super::super::{Backend, NetworkConfig};
    use super::*;

    #[test]
    fn route_tables_are_one_or_a_list() {
        let tables = |value: &str| {
            let backend = format!(r#"{{"Type": "aws-vpc", "RouteTableID": {value}}}"#);
            let config =
                NetworkConfig::parse(&format!(r#"{{"Network": "10.5.0.0/16", "Backend": {backend}}}"#));
            config.map(|config| match config.backend {
                Backend::AwsVpc(AwsVpcConfig { route_tables }) => route_tables.join(" "),
                other => panic!("{other:?}"),
            })
        };
        for (value, expected) in
            [(r#""rtb-1""#, "rtb-1"), (r#"["rtb-1", "rtb-2"]"#, "rtb-1 rtb-2"), ("null", ""), ("[]", "")]
        {
            assert_eq!(tables(value).as_deref(), Ok(expected), "{value}");
        }
        for value in ["7", r#""""#, r#"["rtb-1", ""]"#, r#"["rtb-1", 2]"#] {
            let error = tables(value).unwrap_err().to_string();
            assert!(error.starts_with(&format!("Backend.RouteTableID is {value}; allowed: ")), "{error}");
        }
    }

    #[test]
    fn a_secret_stands_in_no_message() {
        let config = |secret: &str| {
            format!(
                r#"{{"Network": "10.5.0.0/16", "Backend": {{"Type": "ali-vpc", "AccessKeyID": "id", "AccessKeySecret": {secret}}}}}"#
            )
        };
        let (one, other) = (
            NetworkConfig::parse(&config(r#""hunter2""#)).unwrap(),
            NetworkConfig::parse(&config(r#""hunter3""#)).unwrap(),
        );
        let changes = one.changes(&other);
        assert_eq!(changes.len(), 1);
        let shown = format!("{one:?} {}", changes[0]);
        assert!(
            !shown.contains("hunter") && shown.contains("AccessKeySecret from a secret to a secret"),
            "{shown}"
        );
        assert_eq!(one.with(&changes).unwrap(), other);
        let error = NetworkConfig::parse(&config(r#"["hunter2"]"#)).unwrap_err().to_string();
        assert_eq!(error, "Backend.AccessKeySecret is not shown here; allowed: a text");
    }
}
