//! A JSON object read as Go reads it: keys in any case, and of several equal keys the last one counts.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::ConfigError;
use super::cloud::Secret;

/// The values of an object by lower-case key. `null` counts as absent.
#[derive(Default)]
pub(super) struct Keys {
    values: HashMap<String, Box<RawValue>>,
    /// What error messages put before a key: empty, or the name of the enclosing key and a dot.
    path: String,
}

impl Keys {
    pub(super) fn parse(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    fn raw(&self, key: &str) -> Option<&str> {
        self.values.get(&key.to_lowercase()).map(|value| value.get()).filter(|text| *text != "null")
    }

    fn typed<T: DeserializeOwned>(&self, key: &str, allowed: &str) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.raw(key) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|_| self.bad(key, text, allowed))
    }

    /// Reads a boolean.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        Ok(self.typed(key, "true or false")?.unwrap_or(default))
    }

    /// Reads a whole number from `min` to `max`.
    pub(super) fn integer<T>(&self, key: &str, min: T, max: T) -> Result<Option<T>, ConfigError>
    where
        T: DeserializeOwned + PartialOrd + fmt::Display + Copy,
    {
        let allowed = format!("a whole number from {min} to {max}");
        let number: Option<T> = self.typed(key, &allowed)?;
        match number.filter(|number| *number < min || *number > max) {
            Some(outside) => Err(self.bad(key, outside, &allowed)),
            None => Ok(number),
        }
    }

    /// Reads a string and parses it.
    pub(super) fn parsed<T: FromStr>(&self, key: &str, allowed: &str) -> Result<Option<T>, ConfigError> {
        self.read(key, allowed, |text| text.parse().ok())
    }

    /// Reads a string that must be there, and parses it.
    pub(super) fn required<T: FromStr>(&self, key: &str, allowed: &str) -> Result<T, ConfigError> {
        self.parsed(key, allowed)?.ok_or_else(|| self.missing(key, allowed))
    }

    /// Reads the name of a `T`, in any case.
    pub(super) fn choice<T: ValueEnum>(&self, key: &str) -> Result<Option<T>, ConfigError> {
        self.read(key, &names::<T>(), |text| T::from_str(text, true).ok())
    }

    /// Reads the name of a `T`, in any case, which must be there.
    pub(super) fn required_choice<T: ValueEnum>(&self, key: &str) -> Result<T, ConfigError> {
        self.choice(key)?.ok_or_else(|| self.missing(key, &names::<T>()))
    }

    /// Reads a string, or a list of strings. Returns an empty list if the key is absent.
    pub(super) fn texts(&self, key: &str, allowed: &str) -> Result<Vec<String>, ConfigError> {
        let Some(text) = self.raw(key) else { return Ok(Vec::new()) };
        let one = serde_json::from_str::<String>(text).map(|one| vec![one]);
        let texts: Option<Vec<String>> = one.or_else(|_| serde_json::from_str(text)).ok();
        let is_usable = |texts: &Vec<String>| texts.iter().all(|text| !text.is_empty());
        texts.filter(is_usable).ok_or_else(|| self.bad(key, text, allowed))
    }

    /// Reads a string that an error does not show.
    pub(super) fn secret(&self, key: &str) -> Result<Option<Secret>, ConfigError> {
        let Some(text) = self.raw(key) else { return Ok(None) };
        let secret = serde_json::from_str(text).map(Secret);
        secret.map(Some).map_err(|_| self.bad(key, "not shown here", "a text"))
    }

    fn read<T>(
        &self,
        key: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.typed::<String>(key, allowed)? else { return Ok(None) };
        parse(&text).map(Some).ok_or_else(|| self.bad(key, format!("{text:?}"), allowed))
    }

    /// Reads an object.
    pub(super) fn object(&self, key: &str) -> Result<Option<Self>, ConfigError> {
        let object: Option<Self> = self.typed(key, "a JSON object such as {\"Type\": \"vxlan\"}")?;
        Ok(object.map(|object| Self { path: format!("{}{key}.", self.path), ..object }))
    }

    fn bad(&self, key: &str, value: impl ToString, allowed: &str) -> ConfigError {
        ConfigError::bad(format!("{}{key}", self.path), value, allowed)
    }

    fn missing(&self, key: &str, allowed: &str) -> ConfigError {
        ConfigError::Missing { key: format!("{}{key}", self.path), allowed: allowed.to_owned() }
    }
}

/// Lists the names of a `T`: "auto, bpf or netlink".
fn names<T: ValueEnum>() -> String {
    let values = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    let names: Vec<_> = values.map(|value| value.get_name().to_owned()).collect();
    match names.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => names.concat(),
    }
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(KeysVisitor)
    }
}

struct KeysVisitor;

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = Keys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
        let mut keys = Keys::default();
        while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
            keys.values.insert(key.to_lowercase(), value);
        }
        Ok(keys)
    }
}
