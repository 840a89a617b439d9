//! A JSON object read as Go reads it: keys without regard to case, the last of several equal ones counts.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::ConfigError;

/// The object's values by lower-case key. `null` counts as absent.
#[derive(Default)]
pub(super) struct Keys(HashMap<String, Box<RawValue>>);

impl Keys {
    pub(super) fn parse(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    fn raw(&self, key: &str) -> Option<&str> {
        self.0.get(&key.to_lowercase()).map(|value| value.get()).filter(|text| *text != "null")
    }

    fn typed<T: DeserializeOwned>(&self, key: &str, allowed: &str) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.raw(key) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|_| ConfigError::bad(key, text, allowed))
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        Ok(self.typed(key, "true or false")?.unwrap_or(default))
    }

    /// A whole number from `min` to `max`.
    pub(super) fn integer<T>(&self, key: &str, min: T, max: T) -> Result<Option<T>, ConfigError>
    where
        T: DeserializeOwned + PartialOrd + fmt::Display + Copy,
    {
        let allowed = format!("a whole number from {min} to {max}");
        let number: Option<T> = self.typed(key, &allowed)?;
        match number.filter(|number| *number < min || *number > max) {
            Some(outside) => Err(ConfigError::bad(key, outside, allowed)),
            None => Ok(number),
        }
    }

    /// A string that says a `T`.
    pub(super) fn parsed<T: FromStr>(&self, key: &str, allowed: &str) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.typed::<String>(key, allowed)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| ConfigError::bad(key, format!("{text:?}"), allowed))
    }

    pub(super) fn object(&self, key: &str) -> Result<Option<Self>, ConfigError> {
        self.typed(key, "a JSON object such as {\"Type\": \"vxlan\"}")
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
            keys.0.insert(key.to_lowercase(), value);
        }
        Ok(keys)
    }
}
