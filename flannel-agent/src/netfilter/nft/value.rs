//! Fields and values of nft's expressions. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value as Json;

use super::super::rules::{Field, Step, Test, Value};
use super::{Named, text};

/// Returns what an expression is about.
pub(super) fn field(expression: &Json) -> Field {
    let Some((kind, inner)) = only(expression) else { return Field::Other("".into()) };
    let other = || Field::Other(words(expression).into());
    let of_packet = || Field::Packet(words(expression).into());
    let key = text(&inner["key"]);
    match (kind, key) {
        ("meta", "nfproto" | "protocol") => Field::Family,
        ("meta", "l4proto") => Field::Protocol,
        ("meta", "oif" | "oifname") => Field::Out,
        ("meta", "iif" | "iifname") => Field::In,
        ("meta", "mark") => Field::Mark(u32::MAX),
        ("meta", "skuid" | "skgid" | "cgroup") | ("socket", _) => Field::Sender,
        ("ct", "state") => Field::State,
        // `dnat` and `snat`, which iptables has among the states.
        ("ct", "status") => Field::State,
        ("ct", "bytes" | "packets" | "avgpkt")
        | ("meta", "length" | "cpu")
        | ("numgen" | "exthdr" | "tcp option", _) => of_packet(),
        ("fib", _) if inner["result"] == "type" && inner["flags"][0] == "daddr" => Field::Kind,
        ("payload", _) => match (text(&inner["protocol"]), text(&inner["field"])) {
            ("ip" | "ip6", "saddr") => Field::Source,
            ("ip" | "ip6", "daddr") => Field::Destination,
            ("ip", "protocol") => Field::Protocol,
            ("udp" | "tcp" | "th", "sport") => Field::SourcePort,
            ("udp" | "tcp" | "th", "dport") => Field::Port,
            ("tcp", "flags") => Field::Flags,
            ("icmp" | "icmpv6", "type") => Field::IcmpType,
            // `@th,16,16`, say.
            ("", _) if inner["base"] == "th" && inner["len"] == 16 && inner["offset"] == 0 => {
                Field::SourcePort
            }
            ("", _) if inner["base"] == "th" && inner["len"] == 16 && inner["offset"] == 16 => Field::Port,
            ("ether" | "vlan" | "icmp" | "icmpv6", _) => other(),
            _ => of_packet(),
        },
        ("&", _) => match (field(&inner[0]), inner[1].as_u64().map(u32::try_from)) {
            (Field::Mark(_), Some(Ok(mask))) => Field::Mark(mask),
            (field @ (Field::Flags | Field::Packet(_)), _) => field,
            _ => other(),
        },
        ("concat", _) => Field::All(inner.as_array().into_iter().flatten().map(field).collect()),
        _ => other(),
    }
}

/// Returns about what nft writes for an expression: `ct mark`, `ip ttl`.
pub(super) fn words(expression: &Json) -> String {
    const PARTS: [&str; 5] = ["key", "base", "protocol", "name", "field"];
    match only(expression) {
        Some(("&", inner)) => words(&inner[0]),
        Some((kind, inner)) => {
            let parts = PARTS.iter().filter_map(|part| inner[part].as_str());
            let kind = Some(kind).filter(|kind| *kind != "payload");
            kind.into_iter().chain(parts).collect::<Vec<_>>().join(" ")
        }
        None => String::new(),
    }
}

/// Returns the tests that an expression implies: `udp dport` is only in packets of UDP.
pub(super) fn tests_of(expression: &Json) -> Vec<Step> {
    let Some((kind, inner)) = only(expression) else { return Vec::new() };
    if kind == "concat" || kind == "&" {
        return inner.as_array().into_iter().flatten().flat_map(tests_of).collect();
    }
    let test = |field, name| vec![Step::Test(Test::new(field, [Value::name(name)]))];
    match (kind, text(&inner["protocol"])) {
        ("payload", "ip") => test(Field::Family, "ipv4"),
        ("payload", "ip6") | ("exthdr", _) => test(Field::Family, "ipv6"),
        ("tcp option", _) => test(Field::Protocol, "tcp"),
        ("payload", "" | "th" | "ether" | "vlan") => Vec::new(),
        ("payload", protocol) => test(Field::Protocol, protocol),
        _ => Vec::new(),
    }
}

/// Returns the values on the right of a comparison, or in a set; `None` if they are not known.
pub(super) fn values(right: &Json, named: &Named) -> Option<Arc<[Value]>> {
    if let Some(name) = right.as_str().and_then(|text| text.strip_prefix('@')) {
        return named.sets.get(name).cloned();
    }
    let items = match right {
        Json::Null => &[],
        Json::Array(items) => &items[..],
        _ => match only(right) {
            Some(("set", Json::Array(items))) => items,
            _ => std::slice::from_ref(right),
        },
    };
    items.iter().map(value).collect()
}

/// Returns one value.
pub(super) fn value(json: &Json) -> Option<Value> {
    match json {
        Json::String(text) => Some(address(text).map_or_else(
            || Value::name(if text == "ip" { "ipv4" } else { text }),
            |number| Value::Numbers(number, number),
        )),
        Json::Number(number) => number.as_u64().map(|number| Value::Numbers(number.into(), number.into())),
        _ => match only(json)? {
            ("elem", inner) => value(&inner["val"]),
            ("concat", Json::Array(parts)) => parts.iter().map(value).collect::<Option<_>>().map(Value::All),
            ("range", Json::Array(ends)) => match (value(ends.first()?)?, value(ends.get(1)?)?) {
                (Value::Numbers(first, _), Value::Numbers(_, last)) => Some(Value::Numbers(first, last)),
                _ => None,
            },
            ("prefix", inner) => {
                let length = inner["len"].as_u64()?.try_into().ok()?;
                let net = IpNet::new(text(&inner["addr"]).parse().ok()?, length).ok()?;
                Some(Value::Numbers(number(net.network()), number(net.broadcast())))
            }
            _ => None,
        },
    }
}

fn address(text: &str) -> Option<u128> {
    text.parse().ok().map(number)
}

/// Returns an address as a number.
pub(in crate::netfilter) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// Returns the only key of an object, and its value.
pub(super) fn only(object: &Json) -> Option<(&str, &Json)> {
    let mut entries = object.as_object()?.iter();
    let (key, value) = entries.next()?;
    entries.next().is_none().then_some((key.as_str(), value))
}
