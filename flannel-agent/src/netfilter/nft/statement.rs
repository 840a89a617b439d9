//! nft's statements. Pure.

use serde_json::Value as Json;

use super::super::rules::{Action, Field, Mark, Step, Test, Value};
use super::value::{field, only, tests_of, value, values};
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
            steps.push(Step::Choose(field(&inner["key"]), choices));
            steps
        }
        "mangle" => {
            let mut steps = tests_of(&inner["key"]);
            steps.extend(change(inner).map(Step::Act));
            steps
        }
        "limit" | "quota" | "meter" => vec![Step::Test(Test::of_packet())],
        // A set that packets fill, each at its own rate.
        "set" if has_limit(&inner["stmt"]) => vec![Step::Test(Test::of_packet())],
        "ct count" => vec![Step::Test(Test::unknown())],
        // A match of iptables. iptables lists its own tables.
        "xt" if inner["type"] == "match" => vec![Step::Test(Test::unknown())],
        "queue" | "dup" => vec![Step::Act(Action::Show)],
        "fwd" | "tproxy" => vec![Step::Act(Action::Stop)],
        "ct helper" => vec![Step::Act(Action::Help)],
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

fn verdict(statement: &Json) -> Option<Action> {
    let (kind, inner) = only(statement)?;
    let target = || text(&inner["target"]).to_owned();
    Some(match kind {
        "accept" => Action::Accept,
        "return" => Action::Return,
        "drop" | "reject" => Action::Stop,
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
    let unknown = if field(left) == Field::Packet { Test::of_packet() } else { Test::unknown() };
    steps.push(Step::Test(test.unwrap_or(unknown)));
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
