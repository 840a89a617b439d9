//! The annotations of a Node, with flannel's names and texts (flannel's pkg/subnet/kube/annotations.go). Pure.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::json;
use serde_json::value::RawValue;

use crate::lease::entry::LeaseAttrs;

/// `"true"` if flannel manages the node.
pub(super) const MANAGED: &str = "kube-subnet-manager";
/// [`LeaseAttrs::backend_type`].
pub(super) const BACKEND_TYPE: &str = "backend-type";
/// [`LeaseAttrs::backend_data`], or `null`.
pub(super) const BACKEND_DATA: &str = "backend-data";
/// [`LeaseAttrs::backend_v6_data`], or `null`.
pub(super) const BACKEND_V6_DATA: &str = "backend-v6-data";
/// [`LeaseAttrs::public_ip`].
pub(super) const PUBLIC_IP: &str = "public-ip";
/// [`LeaseAttrs::public_ipv6`].
pub(super) const PUBLIC_IPV6: &str = "public-ipv6";
/// An administrator's choice of the address, used as `--public-ip` is.
pub(super) const NODE_PUBLIC_IP: &str = "node-public-ip";
/// The same as `--public-ipv6`.
pub(super) const NODE_PUBLIC_IPV6: &str = "node-public-ipv6";
/// An administrator's choice of the address that other nodes send to. This node itself does not use it.
pub(super) const OVERWRITE: &str = "public-ip-overwrite";
/// The same for IPv6.
pub(super) const OVERWRITE_V6: &str = "public-ipv6-overwrite";

/// The first part of the annotations' names, such as `flannel.alpha.coreos.com/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prefix(String);

impl Prefix {
    /// Checks `--kube-annotation-prefix`, and completes it as flannel does.
    pub(super) fn new(text: &str) -> Result<Self> {
        let mut prefix = text.to_owned();
        if !prefix.contains('/') {
            prefix.push('/');
        }
        if !prefix.ends_with(['/', '-']) {
            prefix.push('-');
        }
        let word = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
        };
        let fits = prefix.split_once('/').is_some_and(|(domain, rest)| {
            domain.contains('.') && domain.split('.').all(word) && (rest.is_empty() || word(rest))
        });
        ensure!(
            fits,
            "--kube-annotation-prefix {text:?} is not a domain in lower case, or one with /word after it, such as \
             flannel.alpha.coreos.com or flannel.alpha.coreos.com/blue"
        );
        Ok(Self(prefix))
    }

    /// Returns the full name of an annotation.
    pub(super) fn name(&self, annotation: &str) -> String {
        format!("{}{annotation}", self.0)
    }

    /// Returns the part after the prefix, if the name has the prefix.
    pub(super) fn strip<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(&self.0)
    }
}

/// Returns the annotations that flannel writes for a node, without the prefix.
pub(super) fn desired(attrs: &LeaseAttrs) -> BTreeMap<&'static str, String> {
    let LeaseAttrs { public_ip, public_ipv6, backend_type, backend_data, backend_v6_data } = attrs;
    let text = |data: &Option<Box<RawValue>>| data.as_ref().map_or("null", |data| data.get()).to_owned();
    let vxlan = backend_type == "vxlan";
    let mut annotations =
        BTreeMap::from([(MANAGED, "true".to_owned()), (BACKEND_TYPE, backend_type.clone())]);
    if backend_data.is_some() || !vxlan {
        annotations.insert(BACKEND_DATA, text(backend_data));
        annotations.insert(PUBLIC_IP, public_ip.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED).to_string());
    }
    if let Some(ip) = public_ipv6
        && ((vxlan && backend_v6_data.is_some()) || backend_type == "host-gw")
    {
        annotations.insert(BACKEND_V6_DATA, text(backend_v6_data));
        annotations.insert(PUBLIC_IPV6, ip.to_string());
    }
    annotations
}

/// Returns the patch that turns `present` into `desired`; `None` if nothing differs. Other annotations stay.
pub(super) fn patch<'a>(
    prefix: &Prefix,
    present: impl Fn(&str) -> Option<&'a str>,
    desired: &BTreeMap<&'static str, String>,
) -> Option<String> {
    let differs = |(name, value): &(&&str, &String)| present(name) != Some(value.as_str());
    let changes = desired.iter().filter(differs).map(|(name, value)| (prefix.name(name), value));
    let changes: BTreeMap<_, _> = changes.collect();
    (!changes.is_empty()).then(|| json!({ "metadata": { "annotations": changes } }).to_string())
}

#[cfg(test)]
mod tests;
