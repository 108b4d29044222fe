//! What is asked for: one [`Request`] however it was said (arguments, statement or job), checked before anything runs.
//!
//! Every wish that the signature knows is either granted, or refused here with 0A000: nothing is silently ignored.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde_json::Value;

use crate::duration;
use crate::error::{Code, Error, Result};
use crate::uri::Location;

/// Arguments as SQL gives them: `None` is NULL. `options` is an object's text.
#[derive(Debug)]
pub struct Arguments {
    /// `s3://bucket/prefix`
    pub uri: Option<String>,
    /// What lets the export write there.
    pub permission: PermissionArguments,
    /// The SELECT.
    pub query: Option<String>,
    /// `json`
    pub format: Option<String>,
    /// `none`
    pub compression: Option<String>,
    /// Documents a file.
    pub output_chunk_size: Option<i32>,
    /// Uncompressed bytes a file.
    pub output_chunk_bytes: Option<i64>,
    /// Whether `partition_by` has a value.
    pub partition_by: bool,
    /// Files in a folder named by the export id.
    pub include_query_id: Option<bool>,
    /// Rockset's type wrappers.
    pub wrap_types: Option<bool>,
    /// The `options` argument, a JSON object.
    pub options: Option<String>,
}

/// The arguments that say what lets an export write: `None` is NULL.
#[derive(Debug)]
pub enum PermissionArguments {
    /// Name of an integration.
    Integration(Option<String>),
    /// A role that the server assumes, and its external id.
    Role {
        /// ARN.
        aws_role: Option<String>,
        /// What the role's trust policy demands.
        aws_external_id: Option<String>,
    },
}

/// What lets an export write to its location.
#[derive(Debug, Clone)]
pub enum Permission {
    /// The integration of this name.
    Integration(String),
    /// A superuser's word in `s3_export.inline_roles`.
    Role {
        /// ARN of the role that the server assumes.
        aws_role: String,
        /// What the role's trust policy demands.
        aws_external_id: String,
    },
}

impl std::fmt::Display for Permission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Permission::Integration(name) => write!(f, "integration \"{name}\""),
            Permission::Role { aws_role, .. } => write!(f, "role {aws_role}"),
        }
    }
}

impl Permission {
    fn from_arguments(arguments: PermissionArguments) -> Result<Self> {
        Ok(match arguments {
            PermissionArguments::Integration(name) => Permission::Integration(required("integration", name)?),
            PermissionArguments::Role { aws_role, aws_external_id } => Permission::Role {
                aws_role: required("aws_role", aws_role)?,
                aws_external_id: required("aws_external_id", aws_external_id)?,
            },
        })
    }
}

/// A checked wish for one export.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where the files go.
    pub location: Location,
    /// What lets it write there.
    pub permission: Permission,
    /// The SELECT, as it was given.
    pub query: String,
    /// Documents a file; `None`: the setting `s3_export.output_chunk_size`.
    pub chunk_size: Option<u64>,
    /// Most uncompressed bytes a file of more than one document may have.
    pub chunk_bytes: Option<u64>,
    /// Files in a folder named by the export id.
    pub include_query_id: bool,
    /// How values are written.
    pub wrapping: Wrapping,
    /// The manifest holds the query's text, not only its hash.
    pub manifest_query: bool,
    /// What to do where objects are already.
    pub existing: Existing,
    /// Longest time that it may take, zero: any; `None`: the setting `s3_export.timeout`.
    pub timeout: Option<Duration>,
}

/// What to do where the location holds objects already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Write beside them.
    Append,
    /// Refuse.
    Error,
}

/// How values that JSON has no type for are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// `{"__rockset_type":…,"value":…}`
    Rockset,
    /// Plain JSON, one JSON type a column.
    Plain(NonFinite),
}

/// What NaN and the infinities become in plain JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonFinite {
    /// `"NaN"`, `"Infinity"`, `"-Infinity"`
    String,
    /// `null`
    Null,
}

/// Keys of `options` that this release acts on.
const BUILT_OPTIONS: [&str; 4] = ["existing", "manifest_query", "nan", "timeout"];

/// Keys of `options` that are in the contract and not built yet.
const PLANNED_OPTIONS: [&str; 9] = [
    "compression_level",
    "delimiter",
    "empty_file",
    "header",
    "manifest_name",
    "max_file_bytes",
    "partition_columns",
    "single_file",
    "success_marker",
];

impl Request {
    /// Checks `arguments`. Errors: 22004 for a NULL, 22023 for a value that makes no sense, 0A000 for one not built yet.
    pub fn from_arguments(arguments: Arguments) -> Result<Self> {
        let location = Location::parse(&required("uri", arguments.uri)?)?;
        let permission = Permission::from_arguments(arguments.permission)?;
        let query = required("query", arguments.query)?;
        check_choice("format", &required("format", arguments.format)?, "json", &["csv", "parquet"])?;
        check_choice("compression", &required("compression", arguments.compression)?, "none", &["gzip", "zstd"])?;
        if arguments.partition_by {
            return Err(Error::new(Code::Unsupported, "partition_by is not supported yet"));
        }
        let options = Options::parse(&required("options", arguments.options)?)?;
        let wrap_types = required("wrap_types", arguments.wrap_types)?;
        Ok(Request {
            location,
            permission,
            query,
            chunk_size: positive("output_chunk_size", arguments.output_chunk_size.map(i64::from))?,
            chunk_bytes: positive("output_chunk_bytes", arguments.output_chunk_bytes)?,
            include_query_id: required("include_query_id", arguments.include_query_id)?,
            wrapping: if wrap_types { Wrapping::Rockset } else { Wrapping::Plain(options.non_finite) },
            manifest_query: options.manifest_query,
            existing: options.existing,
            timeout: options.timeout,
        })
    }
}

struct Options {
    non_finite: NonFinite,
    manifest_query: bool,
    existing: Existing,
    timeout: Option<Duration>,
}

impl Options {
    fn parse(text: &str) -> Result<Self> {
        let mut options =
            Options { non_finite: NonFinite::String, manifest_query: false, existing: Existing::Append, timeout: None };
        for (key, value) in json_object("options", text)? {
            match key.as_str() {
                "existing" => options.existing = existing(&value)?,
                "nan" => options.non_finite = non_finite(&value)?,
                "manifest_query" => {
                    options.manifest_query = value.as_bool().ok_or_else(|| bad_value("manifest_query", "true or false"))?;
                }
                "timeout" => options.timeout = Some(timeout(&value)?),
                planned if PLANNED_OPTIONS.contains(&planned) => {
                    return Err(Error::new(Code::Unsupported, format!("option \"{planned}\" is not supported yet")));
                }
                unknown => return Err(unknown_key("option", unknown, &BUILT_OPTIONS)),
            }
        }
        Ok(options)
    }
}

fn non_finite(value: &Value) -> Result<NonFinite> {
    match value.as_str() {
        Some("string") => Ok(NonFinite::String),
        Some("null") => Ok(NonFinite::Null),
        _ => Err(bad_value("nan", "\"string\" or \"null\"")),
    }
}

fn existing(value: &Value) -> Result<Existing> {
    match value.as_str() {
        Some("append") => Ok(Existing::Append),
        Some("error") => Ok(Existing::Error),
        _ => Err(bad_value("existing", "\"append\" or \"error\"")),
    }
}

fn timeout(value: &Value) -> Result<Duration> {
    let parsed = match value {
        Value::String(text) => duration::parse(text),
        Value::Number(milliseconds) => duration::parse(&milliseconds.to_string()),
        _ => None,
    };
    parsed.ok_or_else(|| bad_value("timeout", "a length of time as \"90s\", \"30min\" or \"2h\", or a number of milliseconds"))
}

fn bad_value(option: &str, allowed: &str) -> Error {
    Error::new(Code::InvalidParameter, format!("invalid value for option \"{option}\"")).detail(format!("It takes {allowed}."))
}

/// The error for a key that a set of options does not know: 22023, with the list of those it does.
pub fn unknown_key(what: &str, key: &str, known: &[&str]) -> Error {
    Error::new(Code::InvalidParameter, format!("unknown {what} \"{key}\"")).hint(format!("Known: {}.", known.join(", ")))
}

/// The members of the object that `text` holds. Errors: 22023 when it is no JSON object.
pub fn json_object(argument: &str, text: &str) -> Result<serde_json::Map<String, Value>> {
    match serde_json::from_str(text) {
        Ok(Value::Object(members)) => Ok(members),
        _ => Err(Error::new(Code::InvalidParameter, format!("{argument} must be a JSON object"))),
    }
}

/// The argument's value. Errors: 22004 when it is NULL.
pub fn required<T>(argument: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::new(Code::Null, format!("{argument} must not be null")))
}

fn positive(argument: &str, value: Option<i64>) -> Result<Option<u64>> {
    match value {
        Some(number) if number < 1 => {
            Err(Error::new(Code::InvalidParameter, format!("{argument} must be at least 1, not {number}")))
        }
        Some(number) => Ok(Some(number.unsigned_abs())),
        None => Ok(None),
    }
}

fn check_choice(argument: &str, value: &str, built: &str, planned: &[&str]) -> Result<()> {
    if value == built {
        Ok(())
    } else if planned.contains(&value) {
        Err(Error::new(Code::Unsupported, format!("{argument} \"{value}\" is not supported yet")))
    } else {
        Err(unknown_key(argument, value, &[built]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments() -> Arguments {
        Arguments {
            uri: Some("s3://bucket/x".into()),
            permission: PermissionArguments::Integration(Some("i".into())),
            query: Some("SELECT 1".into()),
            format: Some("json".into()),
            compression: Some("none".into()),
            include_query_id: Some(false),
            wrap_types: Some(true),
            options: Some("{}".into()),
            output_chunk_size: None,
            output_chunk_bytes: None,
            partition_by: false,
        }
    }

    fn code(change: impl FnOnce(&mut Arguments)) -> Option<Code> {
        let mut changed = arguments();
        change(&mut changed);
        Request::from_arguments(changed).err().map(|error| error.code())
    }

    #[test]
    fn defaults_make_a_request() {
        let request = Request::from_arguments(arguments()).unwrap();
        assert_eq!(request.wrapping, Wrapping::Rockset);
        assert_eq!((request.chunk_size, request.chunk_bytes), (None, None));
    }

    #[test]
    fn nulls_are_refused_with_22004() {
        assert_eq!(code(|a| a.uri = None), Some(Code::Null));
        assert_eq!(code(|a| a.permission = PermissionArguments::Integration(None)), Some(Code::Null));
        let role = || PermissionArguments::Role { aws_role: Some("r".into()), aws_external_id: None };
        assert_eq!(code(|a| a.permission = role()), Some(Code::Null));
        assert_eq!(code(|a| a.query = None), Some(Code::Null));
        assert_eq!(code(|a| a.format = None), Some(Code::Null));
        assert_eq!(code(|a| a.options = None), Some(Code::Null));
    }

    #[test]
    fn senseless_values_are_refused_with_22023() {
        assert_eq!(code(|a| a.output_chunk_size = Some(0)), Some(Code::InvalidParameter));
        assert_eq!(code(|a| a.output_chunk_size = Some(-5)), Some(Code::InvalidParameter));
        assert_eq!(code(|a| a.output_chunk_bytes = Some(0)), Some(Code::InvalidParameter));
        assert_eq!(code(|a| a.format = Some("JSON5".into())), Some(Code::InvalidParameter));
        for options in [
            "[]",
            "{",
            r#"{"frmat":1}"#,
            r#"{"nan":"zero"}"#,
            r#"{"nan":null}"#,
            r#"{"manifest_query":1}"#,
            r#"{"existing":"delete"}"#,
            r#"{"timeout":"soon"}"#,
            r#"{"timeout":-1}"#,
            r#"{"timeout":true}"#,
        ] {
            assert_eq!(code(|a| a.options = Some(options.into())), Some(Code::InvalidParameter), "{options}");
        }
    }

    #[test]
    fn what_is_not_built_yet_is_refused_with_0a000() {
        assert_eq!(code(|a| a.format = Some("parquet".into())), Some(Code::Unsupported));
        assert_eq!(code(|a| a.compression = Some("zstd".into())), Some(Code::Unsupported));
        assert_eq!(code(|a| a.partition_by = true), Some(Code::Unsupported));
        assert_eq!(code(|a| a.options = Some(r#"{"single_file":true}"#.into())), Some(Code::Unsupported));
    }

    proptest::proptest! {
        #[test]
        fn any_options_are_taken_or_refused(key in "(nan|existing|manifest_query|single_file|\\PC{0,8})", value in "\\PC{0,12}") {
            let text = serde_json::json!({ key.as_str(): value.as_str() }).to_string();
            let taken = code(|a| a.options = Some(text)).is_none();
            let fits = matches!((key.as_str(), value.as_str()), ("nan", "string" | "null") | ("existing", "append" | "error"));
            proptest::prop_assert_eq!(taken, fits);
            // What is no JSON at all is refused, not believed.
            if serde_json::from_str::<serde_json::Value>(&value).is_err() {
                proptest::prop_assert_eq!(code(|a| a.options = Some(value)), Some(Code::InvalidParameter));
            }
        }
    }

    #[test]
    fn plain_json_takes_its_rule_for_nan_from_the_options() {
        let mut plain = arguments();
        plain.wrap_types = Some(false);
        plain.options = Some(r#"{"nan":"null","manifest_query":true}"#.into());
        let request = Request::from_arguments(plain).unwrap();
        assert_eq!(request.wrapping, Wrapping::Plain(NonFinite::Null));
        assert!(request.manifest_query);
    }

    #[test]
    fn a_timeout_is_a_text_or_a_number_of_milliseconds() {
        for options in [r#"{"timeout":"1.5s"}"#, r#"{"timeout":1500}"#] {
            let arguments = Arguments { options: Some(options.into()), ..arguments() };
            assert_eq!(Request::from_arguments(arguments).unwrap().timeout, Some(Duration::from_millis(1500)));
        }
    }
}
