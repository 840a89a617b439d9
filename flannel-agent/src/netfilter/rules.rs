//! Rules of iptables and nftables in one form, as far as they decide about packets. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A table with its chains, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// How an operator names it: `iptables -t mangle`, `nft table inet firewalld`.
    pub name: String,
    /// Whose packets it sees.
    pub family: Family,
    /// Its chains.
    pub chains: BTreeMap<String, Chain>,
}

/// Address families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
    /// Both.
    Both,
}

impl Family {
    /// Returns the family of this name, in the letters of nft.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "ip" => Some(Self::V4),
            "ip6" => Some(Self::V6),
            "inet" => Some(Self::Both),
            _ => None,
        }
    }

    /// Returns whether IPv4 is among them, or with `v6` IPv6.
    #[must_use]
    pub const fn includes(self, v6: bool) -> bool {
        matches!((self, v6), (Self::Both, _) | (Self::V4, false) | (Self::V6, true))
    }
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets enter it, if not by another chain.
    pub base: Option<Base>,
    /// Its rules in their order.
    pub rules: Vec<Rule>,
}

/// The place of a chain in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The hook.
    pub hook: Hook,
    /// Chains of lower priority see packets before.
    pub priority: i64,
    /// Whether packets that no rule decides about are dropped.
    pub drops: bool,
    /// Whether packets whose mark it changes are routed again.
    pub reroutes: bool,
    /// Whether it translates addresses: then it sees the first packet of a connection alone.
    pub translates: bool,
}

impl Base {
    /// Returns the priority at which the kernel translates addresses at a hook, whatever those of its chains.
    #[must_use]
    pub const fn translation(hook: Hook) -> i64 {
        match hook {
            Hook::Prerouting | Hook::Output => -100,
            Hook::Input | Hook::Forward | Hook::Postrouting => 100,
        }
    }
}

/// A hook for packets that the host receives, forwards or sends, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// They have arrived.
    Prerouting,
    /// They were routed to the host itself.
    Input,
    /// They were routed elsewhere.
    Forward,
    /// The host's own were routed.
    Output,
    /// They leave.
    Postrouting,
}

impl Hook {
    /// Returns its name, in the letters of nft.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }

    /// Returns the hook of this name, in the letters of iptables or nft.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "PREROUTING" | "prerouting" => Some(Self::Prerouting),
            "INPUT" | "input" => Some(Self::Input),
            "FORWARD" | "forward" => Some(Self::Forward),
            "OUTPUT" | "output" => Some(Self::Output),
            "POSTROUTING" | "postrouting" => Some(Self::Postrouting),
            _ => None,
        }
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How an operator finds it.
    pub text: String,
    /// Its parts in their order. The first test that fails ends it.
    pub steps: Vec<Step>,
}

/// A part of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A test.
    Test(Test),
    /// What it does.
    Act(Action),
    /// What it does for each value of a field (a verdict map).
    Choose(Field, Vec<(Value, Action)>),
    /// It does one of these, chosen at random or in turn.
    OneOf(Vec<Action>),
}

/// What a rule does with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Lets it pass this hook's table.
    Accept,
    /// Goes on after the jump.
    Return,
    /// Goes through a chain, and then on.
    Jump(String),
    /// Goes through a chain, and then on after the jump into this one.
    Goto(String),
    /// Drops it.
    Stop,
    /// Drops it, and tells its sender.
    Reject,
    /// Shows it to a program, which may drop it, or copies it.
    Show,
    /// Lets a helper of the connection tracker read the packets of its connection, as for FTP.
    Help,
    /// Changes it, or how it is queued.
    Change,
    /// Does something that is not known: it may change the packet, or take it to another place.
    Unknown,
    /// Marks it.
    Mark(Mark),
    /// Keeps the connection tracker off it, and so all that translates addresses.
    Untrack,
    /// Gives its connection one of these ends at this side. Which is not known if there is none.
    Translate(Side, Vec<Target>),
}

/// A side of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// What a side of a packet is translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address; `None` for one of the host's own.
    pub address: Option<IpAddr>,
    /// The port; `None` if it stays, or one of several is taken.
    pub port: Option<u16>,
}

/// How a mark changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// These bits are kept, and then those flipped.
    Bits {
        /// What is kept.
        keep: u32,
        /// What is flipped.
        flip: u32,
    },
    /// In a way that is not known, as from the mark of a connection.
    Unknown,
}

/// A test of a packet: whether a field has one of these values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// The field.
    pub field: Field,
    /// The values.
    pub values: Arc<[Value]>,
    /// Whether it is to have none of them.
    pub negated: bool,
}

/// What is tested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// Address family: `ipv4`.
    Family,
    /// Protocol above IP, by name or number.
    Protocol,
    /// Source address.
    Source,
    /// Destination address.
    Destination,
    /// Source port.
    SourcePort,
    /// Destination port.
    Port,
    /// Type of an ICMP message, by name or number.
    IcmpType,
    /// Flags of TCP that it has, in small letters.
    Flags,
    /// Something that differs among the packets of a flow, such as their length or rate, in the words of the rule.
    Packet(Arc<str>),
    /// Name of the interface by which it leaves; `*` at the end is for anything.
    Out,
    /// Name of the interface by which it came.
    In,
    /// These bits of the mark.
    Mark(u32),
    /// State of its connection, in small letters.
    State,
    /// Kind of the destination address, in small letters: `local`.
    Kind,
    /// The process that has sent it: user, group, cgroup.
    Sender,
    /// Several fields at once.
    All(Vec<Self>),
    /// Anything else, in the words of the rule.
    Other(Arc<str>),
}

/// A value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Numbers or addresses, from the first to the last.
    Numbers(u128, u128),
    /// A name.
    Name(String),
    /// A value for each of several fields.
    All(Vec<Self>),
}

impl Test {
    /// Returns a test whose answer is not known. `about`: what it looks at, in the words of the rule.
    #[must_use]
    pub fn unknown(about: impl Into<Arc<str>>) -> Self {
        Self::new(Field::Other(about.into()), [])
    }

    /// Returns a test whose answer differs among the packets of a flow. `about`: as of [`Self::unknown`].
    #[must_use]
    pub fn of_packet(about: impl Into<Arc<str>>) -> Self {
        Self::new(Field::Packet(about.into()), [])
    }

    /// Returns the test for one of these values.
    #[must_use]
    pub fn new(field: Field, values: impl Into<Arc<[Value]>>) -> Self {
        Self { field, values: values.into(), negated: false }
    }
}

impl Value {
    /// Returns the value of a name.
    #[must_use]
    pub fn name(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}
