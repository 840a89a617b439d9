//! What iptables-save prints, as rules. Pure.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::nft::number as number_of;
use super::rules::{
    Action, Base, Chain, Family, Field, Hook, Mark, Rule, Side, Step, Table, Target, Test, Value,
};
use super::words;

/// Matches whose options are read below, or that have none which matter.
const READ: [&str; 13] = [
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "comment",
    "mark",
    "conntrack",
    "state",
    "addrtype",
    "owner",
    "cgroup",
    "multiport",
    "iprange",
];

/// Matches whose answer differs among the packets of a flow.
const OF_PACKETS: [&str; 18] = [
    "bpf",
    "connbytes",
    "cpu",
    "dscp",
    "ecn",
    "frag",
    "hashlimit",
    "hl",
    "length",
    "limit",
    "quota",
    "rateest",
    "recent",
    "statistic",
    "string",
    "tos",
    "ttl",
    "u32",
];

/// Targets after which a packet is what it was.
const HARMLESS: [&str; 14] = [
    "AUDIT",
    "CHECKSUM",
    "CONNSECMARK",
    "IDLETIMER",
    "LED",
    "LOG",
    "NFLOG",
    "RATEEST",
    "SECMARK",
    "SET",
    "TCPMSS",
    "TCPOPTSTRIP",
    "TRACE",
    "ULOG",
];

/// Targets after which a packet is another one, and goes on.
const REWRITING: [&str; 6] = ["CLASSIFY", "DSCP", "ECN", "HL", "TOS", "TTL"];

/// Returns the tables of this text. `command` is the program that lists them.
pub(super) fn parse(saved: &str, command: &str) -> Vec<Table> {
    let mut tables = Vec::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            let family = if command.starts_with("ip6") { Family::V6 } else { Family::V4 };
            tables.push(Table { name: format!("{command} -t {name}"), family, ..Table::default() });
        } else if let Some(table) = tables.last_mut() {
            read_line(line, table);
        }
    }
    tables
}

fn read_line(line: &str, table: &mut Table) {
    if let Some(chain) = line.strip_prefix(':') {
        let mut words = chain.split(' ');
        let name = words.next().unwrap_or_default();
        let base = base(&table.name, name, words.next());
        table.chains.insert(name.to_owned(), Chain { base, rules: Vec::new() });
    } else if let Some(rule) = line.strip_prefix("-A ") {
        let words = words(rule);
        let Some((chain, words)) = words.split_first() else { return };
        let rule = Rule { text: format!("{} -A {rule}", table.name), steps: steps(words, table) };
        table.chains.entry(chain.clone()).or_default().rules.push(rule);
    }
}

fn base(table: &str, chain: &str, policy: Option<&str>) -> Option<Base> {
    let hook = Hook::of(chain)?;
    let table = table.rsplit(' ').next()?;
    let priority = match table {
        "raw" => -300,
        "mangle" => -150,
        "nat" => Base::translation(hook),
        _ => 0,
    };
    let reroutes = priority == -150 && hook == Hook::Output;
    Some(Base { hook, priority, drops: policy == Some("DROP"), reroutes, translates: table == "nat" })
}

/// Reads the matches of a rule, and its target.
fn steps(words: &[String], table: &Table) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut words = words.iter().map(String::as_str).peekable();
    let (mut negated, mut module) = (false, "");
    while let Some(word) = words.next() {
        match word {
            "!" => {
                negated = true;
                continue;
            }
            "-j" => {
                let target = words.next().unwrap_or_default();
                steps.extend(action(target, &words.collect::<Vec<_>>(), table).map(Step::Act));
                break;
            }
            "-g" => {
                steps.push(Step::Act(Action::Goto(words.next().unwrap_or_default().to_owned())));
                break;
            }
            "-m" => {
                module = words.next().unwrap_or_default();
                let about = || format!("-m {module}");
                if OF_PACKETS.contains(&module) {
                    steps.push(Step::Test(Test::of_packet(about())));
                } else if !READ.contains(&module) {
                    steps.push(Step::Test(Test::unknown(about())));
                }
            }
            "--comment" => _ = words.next(),
            "--tcp-flags" => {
                let flags = words.nth(1).unwrap_or_default().to_lowercase();
                let flags: Vec<_> = flags.split(',').map(Value::name).collect();
                steps.push(Step::Test(Test { negated, ..Test::new(Field::Flags, flags) }));
            }
            option if option.starts_with('-') => {
                // An option may have no value.
                let value = words.next_if(|word| !word.starts_with('-') && *word != "!");
                let field = field(option, module);
                steps.extend(field.and_then(|field| test(field, value, negated)).map(Step::Test));
            }
            // More values of an option that is not known.
            _ => {}
        }
        negated = false;
    }
    steps
}

/// Returns what an option of a match tests; `None` if nothing that could fail.
fn field(option: &str, module: &str) -> Option<Field> {
    Some(match option {
        "-p" => Field::Protocol,
        "-s" | "--src-range" => Field::Source,
        "-d" | "--dst-range" => Field::Destination,
        "-o" => Field::Out,
        "-i" => Field::In,
        "--sport" | "--sports" => Field::SourcePort,
        "--dport" | "--dports" => Field::Port,
        "--icmp-type" | "--icmpv6-type" => Field::IcmpType,
        "--ctstate" | "--state" => Field::State,
        "--dst-type" => Field::Kind,
        "--uid-owner" | "--gid-owner" | "--socket-exists" | "--path" | "--cgroup" => Field::Sender,
        "--mark" if module == "mark" => Field::Mark(u32::MAX),
        // Of a match that is not known.
        _ if !READ.contains(&module) => return None,
        _ => Field::Other(option.into()),
    })
}

fn test(field: Field, value: Option<&str>, negated: bool) -> Option<Test> {
    let text = value.unwrap_or_default();
    let each = |parse: fn(&str) -> Option<Value>| text.split(',').map(parse).collect::<Option<Vec<_>>>();
    let (field, values) = match field {
        Field::Mark(_) => {
            let (mark, mask) = masked(text)?;
            (Field::Mark(mask), Some(vec![Value::Numbers(mark.into(), mark.into())]))
        }
        Field::IcmpType if text == "any" => return None,
        // A type alone, or with a code.
        Field::IcmpType => (field, number(text.strip_suffix("/0").unwrap_or(text)).map(|kind| vec![kind])),
        Field::Protocol if text == "all" => return None,
        Field::Protocol => (field, each(|name| Some(number(name).unwrap_or_else(|| Value::name(name))))),
        Field::Source | Field::Destination => (field, each(addresses)),
        Field::SourcePort | Field::Port => (field, each(|ports| number(&ports.replace(':', "-")))),
        Field::Out | Field::In => (field, Some(vec![Value::Name(text.replace('+', "*"))])),
        Field::State | Field::Kind => {
            (field, Some(text.split(',').map(|name| Value::Name(name.to_lowercase())).collect()))
        }
        _ => (field, Some(Vec::new())),
    };
    let known = values.map(|values| Test { negated, ..Test::new(field, values) });
    Some(known.unwrap_or_else(|| Test::unknown(text)))
}

fn action(target: &str, options: &[&str], table: &Table) -> Option<Action> {
    let value = |option| {
        let at = options.iter().position(|word| *word == option)?;
        options.get(at + 1).copied()
    };
    Some(match target {
        "ACCEPT" => Action::Accept,
        "RETURN" => Action::Return,
        "DROP" => Action::Stop,
        "REJECT" => Action::Reject,
        "NFQUEUE" | "QUEUE" | "TEE" => Action::Show,
        "CT" if options.contains(&"--helper") => Action::Help,
        "CT" if options.contains(&"--notrack") => Action::Untrack,
        "NOTRACK" => Action::Untrack,
        "DNAT" => Action::Translate(Side::Destination, targets(value("--to-destination"))),
        "SNAT" => Action::Translate(Side::Source, targets(value("--to-source"))),
        "MASQUERADE" => Action::Translate(Side::Source, vec![Target { address: None, port: None }]),
        "REDIRECT" => {
            let port = value("--to-ports").and_then(|port| port.parse().ok());
            Action::Translate(Side::Destination, vec![Target { address: None, port }])
        }
        "NETMAP" => Action::Translate(Side::Destination, Vec::new()),
        "CT" => return None,
        // The new mark is what is left of the old one, with these bits flipped.
        "MARK" => Action::Mark(match value("--set-xmark").and_then(masked) {
            Some((flip, mask)) => Mark::Bits { keep: !mask, flip },
            None => Mark::Unknown,
        }),
        "CONNMARK" if options.contains(&"--restore-mark") => Action::Mark(Mark::Unknown),
        "CONNMARK" => return None,
        _ if HARMLESS.contains(&target) => return None,
        chain if table.chains.contains_key(chain) => Action::Jump(chain.to_owned()),
        _ if REWRITING.contains(&target) => Action::Change,
        _ => Action::Unknown,
    })
}

/// Parses `10.5.1.2`, `10.5.1.2:80`, `fd44::2` and `[fd44::2]:80`. A range is not read: it leads to many.
fn targets(text: Option<&str>) -> Vec<Target> {
    let address = |text: &str| text.trim_matches(['[', ']']).parse().ok();
    let target = |text: &str| match text.parse::<SocketAddr>() {
        Ok(end) => Some(Target { address: Some(end.ip()), port: Some(end.port()) }),
        Err(_) => Some(Target { address: Some(address(text)?), port: None }),
    };
    text.and_then(target).into_iter().collect()
}

/// Parses `0x1/0xff` and `0x1`.
fn masked(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => Some((number(text)?, u32::MAX)),
    }
}

/// Parses `5` and `5-7`.
fn number(text: &str) -> Option<Value> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(Value::Numbers(first.parse().ok()?, last.parse().ok()?))
}

/// Parses `10.0.0.1`, `10.0.0.0/8` and `10.0.0.1-10.0.0.5`.
fn addresses(text: &str) -> Option<Value> {
    let (first, last): (IpAddr, IpAddr) = match (text.split_once('-'), text.parse::<IpNet>()) {
        (Some((first, last)), _) => (first.parse().ok()?, last.parse().ok()?),
        (None, Ok(net)) => (net.network(), net.broadcast()),
        (None, Err(_)) => {
            let address = text.parse().ok()?;
            (address, address)
        }
    };
    Some(Value::Numbers(number_of(first), number_of(last)))
}
