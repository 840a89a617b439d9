//! nft's statements. Pure.

use std::net::IpAddr;

use serde_json::Value as Json;

use super::super::rules::{Action, Field, Mark, Side, Step, Target, Test, Value};
use super::value::{field, only, tests_of, value, values, words};
use super::{Named, text};

/// Returns the parts of a rule that a statement is.
pub(super) fn steps(statement: &Json, named: &Named) -> Vec<Step> {
    let Some((kind, inner)) = only(statement) else { return Vec::new() };
    match kind {
        "match" => compare(inner, named),
        "vmap" => {
            let mut steps = tests_of(&inner["key"]);
            let map = inner["data"].as_str().and_then(|name| named.maps.get(name.strip_prefix('@')?));
            let choices = map.cloned().unwrap_or_else(|| choices(&inner["data"]["set"]));
            steps.push(match one_of(&inner["key"], &choices) {
                Some(actions) => Step::OneOf(actions),
                None => Step::Choose(field(&inner["key"]), choices),
            });
            steps
        }
        "mangle" => {
            let mut steps = tests_of(&inner["key"]);
            steps.extend(change(inner).map(Step::Act));
            steps
        }
        "limit" | "quota" | "meter" => vec![Step::Test(Test::of_packet(kind))],
        // A set that packets fill, each at its own rate.
        "set" if has_limit(&inner["stmt"]) => vec![Step::Test(Test::of_packet("limit"))],
        "ct count" => vec![Step::Test(Test::unknown(kind))],
        // A match of iptables. iptables lists its own tables.
        "xt" if inner["type"] == "match" => {
            vec![Step::Test(Test::unknown(format!("-m {}", text(&inner["name"]))))]
        }
        "queue" | "dup" => vec![Step::Act(Action::Show)],
        "fwd" | "tproxy" => vec![Step::Act(Action::Unknown)],
        "ct helper" => vec![Step::Act(Action::Help)],
        "notrack" => vec![Step::Act(Action::Untrack)],
        "dnat" => vec![Step::Act(Action::Translate(Side::Destination, targets(inner)))],
        "snat" => vec![Step::Act(Action::Translate(Side::Source, targets(inner)))],
        "masquerade" | "redirect" => {
            let side = if kind == "redirect" { Side::Destination } else { Side::Source };
            let target = Target { address: None, port: port(&inner["port"]) };
            vec![Step::Act(Action::Translate(side, vec![target]))]
        }
        _ => verdict(statement).map(Step::Act).into_iter().collect(),
    }
}

fn has_limit(statements: &Json) -> bool {
    let mut statements = statements.as_array().into_iter().flatten().filter_map(only);
    statements.any(|(kind, _)| ["limit", "quota"].contains(&kind))
}

/// Returns what a verdict map does for its values.
pub(super) fn choices(elements: &Json) -> Vec<(Value, Action)> {
    let pairs = elements.as_array().into_iter().flatten();
    pairs.filter_map(|pair| Some((value(&pair[0])?, verdict(&pair[1])?))).collect()
}

/// Returns the actions of which one is chosen for each packet: for all numbers that `numgen` gives.
fn one_of(key: &Json, choices: &[(Value, Action)]) -> Option<Vec<Action>> {
    let (kind, inner) = only(key)?;
    let (first, count) = (inner["offset"].as_u64().unwrap_or_default(), inner["mod"].as_u64()?);
    let has = |number: u64| {
        let is_in = |value: &Value| matches!(value, Value::Numbers(first, last) if (*first..=*last).contains(&number.into()));
        choices.iter().any(|(value, _)| is_in(value))
    };
    // There are as many numbers as choices, or fewer.
    let is_whole = kind == "numgen" && count <= choices.len() as u64 && (first..first + count).all(has);
    is_whole.then(|| choices.iter().map(|(_, action)| action.clone()).collect())
}

/// Returns what a side is translated to: an address and port, or each of a map.
fn targets(translation: &Json) -> Vec<Target> {
    let (to, port) = (&translation["addr"], port(&translation["port"]));
    if let Some(address) = address(to) {
        return vec![Target { address: Some(address), port }];
    }
    let elements = to["map"]["data"]["set"].as_array();
    let of_pair = |pair: &Json| match &pair[1]["concat"] {
        Json::Array(parts) => {
            Some(Target { address: Some(address(parts.first()?)?), port: self::port(parts.get(1)?) })
        }
        _ => Some(Target { address: Some(address(&pair[1])?), port }),
    };
    let targets = elements.into_iter().flatten().map(of_pair).collect::<Option<Vec<_>>>();
    targets.unwrap_or_default()
}

fn address(json: &Json) -> Option<IpAddr> {
    json.as_str()?.parse().ok()
}

fn port(json: &Json) -> Option<u16> {
    json.as_u64()?.try_into().ok()
}

fn verdict(statement: &Json) -> Option<Action> {
    let (kind, inner) = only(statement)?;
    let target = || text(&inner["target"]).to_owned();
    Some(match kind {
        "accept" => Action::Accept,
        "return" => Action::Return,
        "drop" => Action::Stop,
        "reject" => Action::Reject,
        "jump" => Action::Jump(target()),
        "goto" => Action::Goto(target()),
        _ => return None,
    })
}

fn compare(comparison: &Json, named: &Named) -> Vec<Step> {
    let left = &comparison["left"];
    let mut steps = tests_of(left);
    let operator = text(&comparison["op"]);
    if field(left) == Field::Flags {
        let test = Test::new(Field::Flags, flags(&comparison["right"]));
        steps.push(Step::Test(Test { negated: operator == "!=", ..test }));
        return steps;
    }
    let test = values(&comparison["right"], named).and_then(|values| {
        let one = match values.first() {
            Some(Value::Numbers(first, last)) => Some((*first, *last)),
            _ => None,
        };
        let values = match (operator, one) {
            ("==" | "in" | "!=", _) => values,
            ("<", Some((first, _))) => [Value::Numbers(0, first.checked_sub(1)?)].into(),
            ("<=", Some((_, last))) => [Value::Numbers(0, last)].into(),
            (">", Some((_, last))) => [Value::Numbers(last + 1, u128::MAX)].into(),
            (">=", Some((first, _))) => [Value::Numbers(first, u128::MAX)].into(),
            _ => return None,
        };
        Some(Test { field: field(left), values, negated: operator == "!=" })
    });
    let unknown = || match (field(left), comparison["right"].as_str()) {
        (Field::Packet(about), _) => Test::of_packet(about),
        (_, Some(set)) if set.starts_with('@') => Test::unknown(format!("{} in {set}", words(left))),
        _ => Test::unknown(words(left)),
    };
    steps.push(Step::Test(test.unwrap_or_else(unknown)));
    steps
}

/// Returns the names in an expression: one, or several that are joined.
fn flags(names: &Json) -> Vec<Value> {
    match names {
        Json::String(name) => vec![Value::name(name)],
        Json::Array(names) => names.iter().flat_map(flags).collect(),
        Json::Object(joined) => joined.values().flat_map(flags).collect(),
        _ => Vec::new(),
    }
}

/// Returns how a statement changes a packet; `None` if it changes only what the connection tracker knows.
fn change(mangle: &Json) -> Option<Action> {
    match field(&mangle["key"]) {
        Field::Mark(_) => Some(Action::Mark(mark(&mangle["value"]))),
        _ if mangle["key"].get("ct").is_some() => None,
        _ => Some(Action::Change),
    }
}

fn mark(new: &Json) -> Mark {
    let number = |json: &Json| json.as_u64().and_then(|number| u32::try_from(number).ok());
    if let Some(flip) = number(new) {
        return Mark::Bits { keep: 0, flip };
    }
    let Some((operator, sides)) = only(new) else { return Mark::Unknown };
    match (operator, field(&sides[0]), number(&sides[1])) {
        ("|", Field::Mark(u32::MAX), Some(bits)) => Mark::Bits { keep: !bits, flip: bits },
        ("&", Field::Mark(u32::MAX), Some(bits)) => Mark::Bits { keep: bits, flip: 0 },
        ("^", Field::Mark(u32::MAX), Some(bits)) => Mark::Bits { keep: u32::MAX, flip: bits },
        _ => Mark::Unknown,
    }
}
