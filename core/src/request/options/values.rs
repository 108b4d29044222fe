//! Values of options, read from JSON. `None`: the option does not take the value.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde_json::Value;

use crate::format::{ForceQuote, NonFinite};
use crate::naming::keys::{ObjectName, manifest_of_run};
use crate::request::duration;
use crate::request::options::{Existing, ExistingRun, SingleFile};
use crate::s3::properties::Texts;

/// Most bytes of the name of a channel that Postgres takes.
const MAX_CHANNEL_BYTES: usize = 63;
/// Most retries of a job: with the longest pauses, three hours.
const MAX_RETRIES: u64 = 20;
/// Most bytes of an object that S3 takes.
pub const MAX_OBJECT_BYTES: u64 = 5 << 40;

/// Gives the option its value.
pub fn set<T>(option: &mut Option<T>, value: Option<T>) -> Option<()> {
    *option = Some(value?);
    Some(())
}

pub fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

pub fn texts(value: &Value) -> Option<Texts> {
    value.as_object()?.iter().map(|(key, value)| Some((key.clone(), text(value)?))).collect()
}

pub fn character(value: &Value) -> Option<u8> {
    match value.as_str()?.as_bytes() {
        [byte] if byte.is_ascii() && !b"\r\n\0".contains(byte) => Some(*byte),
        _ => None,
    }
}

pub fn channel(value: &Value) -> Option<String> {
    text(value).filter(|name| (1..=MAX_CHANNEL_BYTES).contains(&name.len()) && !name.contains('\0'))
}

pub fn retries(value: &Value) -> Option<u32> {
    value.as_u64().filter(|retries| *retries <= MAX_RETRIES).and_then(|retries| u32::try_from(retries).ok())
}

pub fn existing(value: &Value) -> Option<Existing> {
    match value.as_str()? {
        "append" => Some(Existing::Append),
        "error" => Some(Existing::Error),
        _ => None,
    }
}

pub fn existing_run(value: &Value) -> Option<ExistingRun> {
    match value.as_str()? {
        "return" => Some(ExistingRun::Return),
        "error" => Some(ExistingRun::Error),
        "replace" => Some(ExistingRun::Replace),
        _ => None,
    }
}

pub fn run_key(value: &Value) -> Option<String> {
    let is_free = |run_key: &String| ObjectName::parse(&manifest_of_run(run_key)).is_none() && run_key.chars().count() <= 200;
    object_name(value).filter(is_free)
}

pub fn non_finite(value: &Value) -> Option<NonFinite> {
    match value.as_str()? {
        "string" => Some(NonFinite::String),
        "null" => Some(NonFinite::Null),
        _ => None,
    }
}

pub fn include(value: &Value) -> Option<bool> {
    match value.as_str()? {
        "exclude" => Some(false),
        "include" => Some(true),
        _ => None,
    }
}

pub fn force_quote(value: &Value) -> Option<ForceQuote> {
    match value {
        Value::String(all) if all == "*" => Some(ForceQuote::All),
        given => names(given).map(ForceQuote::Columns),
    }
}

pub fn names(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(text).collect()
}

pub fn at_least_one(value: &Value) -> Option<usize> {
    value.as_u64().filter(|number| *number > 0).and_then(|number| usize::try_from(number).ok())
}

/// A folder that an export may have.
const ANY_EXPORT: &str = "01a20fdb-b929-7267-a31a-d4ee50573122";

/// A last segment of a key. Names of the form that exports give are theirs alone: `cleanup` goes by them.
pub fn object_name(value: &Value) -> Option<String> {
    let is_fine = |name: &String| {
        !name.is_empty()
            && name.len() <= 255
            && !matches!(name.as_str(), "." | "..")
            && !name.contains(|character: char| character == '/' || character.is_control())
            && [name.clone(), format!("{ANY_EXPORT}/{name}")].iter().all(|key| ObjectName::parse(key).is_none())
    };
    text(value).filter(is_fine)
}

pub fn single_file(value: &Value) -> Option<SingleFile> {
    match value {
        Value::Bool(false) => Some(SingleFile::No),
        Value::Bool(true) => Some(SingleFile::Numbered),
        named => object_name(named).map(SingleFile::Named),
    }
}

pub fn timeout(value: &Value) -> Option<Duration> {
    match value {
        Value::String(text) => duration::parse(text),
        Value::Number(milliseconds) => duration::parse(&milliseconds.to_string()),
        _ => None,
    }
}
