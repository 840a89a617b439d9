//! What this agent reads of a Node. The decoder skips everything else, which is nearly all of it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::annotations::{self, Prefix};

/// A Node, or another object of the API where one is expected (`Status` in a watch), as it stands in the answer.
#[derive(Deserialize)]
pub(super) struct Object<'a> {
    #[serde(borrow, default)]
    pub metadata: Metadata<'a>,
    #[serde(borrow, default)]
    pub spec: Spec<'a>,
    /// Of a `Status`: the HTTP code.
    #[serde(default)]
    pub code: Option<u16>,
    /// Of a `Status`: what went wrong.
    #[serde(borrow, default)]
    pub message: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata<'a> {
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    #[serde(borrow)]
    pub resource_version: Cow<'a, str>,
    #[serde(borrow)]
    pub creation_timestamp: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub annotations: Annotations<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec<'a> {
    #[serde(borrow, rename = "podCIDR")]
    pod_cidr: Cow<'a, str>,
    #[serde(borrow, rename = "podCIDRs")]
    pod_cidrs: Option<Vec<Text<'a>>>,
}

/// A text that borrows from the answer unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The annotations in their order.
#[derive(Default)]
pub(super) struct Annotations<'a>(Vec<(Text<'a>, Text<'a>)>);

impl Annotations<'_> {
    /// Returns the value of an annotation.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|(key, value)| (key.0 == name).then_some(&*value.0))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Annotations<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Annotations<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("annotations")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Annotations::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::with_capacity(16);
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Annotations(entries))
            }
        }

        deserializer.deserialize_any(Entries)
    }
}

/// A Node as far as it matters to flannel. Equal views mean the same to every other node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeView {
    pub name: Arc<str>,
    /// When the Node was created, in UTC. Such texts sort by time.
    pub created: Box<str>,
    pub pod_cidrs: Vec<Box<str>>,
    /// flannel's annotations without their prefix, sorted.
    annotations: Vec<(&'static str, Box<str>)>,
}

/// The annotations that this agent reads.
const READ: [&str; 10] = [
    annotations::MANAGED,
    annotations::BACKEND_TYPE,
    annotations::BACKEND_DATA,
    annotations::BACKEND_V6_DATA,
    annotations::PUBLIC_IP,
    annotations::PUBLIC_IPV6,
    annotations::NODE_PUBLIC_IP,
    annotations::NODE_PUBLIC_IPV6,
    annotations::OVERWRITE,
    annotations::OVERWRITE_V6,
];

impl NodeView {
    pub(super) fn new(object: &Object<'_>, prefix: &Prefix) -> Self {
        let Metadata { name, creation_timestamp, annotations, .. } = &object.metadata;
        let known = |name: &str| READ.into_iter().find(|known| prefix.strip(name) == Some(known));
        let mut read: Vec<(&'static str, Box<str>)> = annotations
            .0
            .iter()
            .filter_map(|(name, value)| Some((known(&name.0)?, Box::from(&*value.0))))
            .collect();
        read.sort_unstable();
        Self {
            name: Arc::from(&**name),
            created: Box::from(creation_timestamp.as_deref().unwrap_or_default()),
            pod_cidrs: object.spec.pod_cidrs().map(Box::from).collect(),
            annotations: read,
        }
    }

    /// Returns one of flannel's annotations.
    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.iter().find_map(|(known, value)| (*known == name).then_some(&**value))
    }
}

impl Spec<'_> {
    /// Returns `podCIDRs`, or `podCIDR` where an old API server has no other.
    fn pod_cidrs(&self) -> impl Iterator<Item = &str> {
        let all = self.pod_cidrs.as_deref().unwrap_or_default();
        let single = Some(&*self.pod_cidr).filter(|cidr| all.is_empty() && !cidr.is_empty());
        all.iter().map(|cidr| &*cidr.0).chain(single)
    }
}
