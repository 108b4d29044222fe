//! The export that a user asks for: one [`Request`] however it was said (arguments, statement or job), checked before anything
//! runs.
//!
//! Every wish that the signature knows is granted or refused here: nothing is silently ignored.
#![forbid(unsafe_code)]

mod check;
pub mod duration;
pub mod options;
pub mod statement;

use std::time::Duration;

use serde_json::Value;

use crate::error::{Code, Error, Result, unknown_key};
use crate::format::{Compression, FORMATS, FileType, Format};
use crate::naming::uri::Location;
use crate::request::options::{Existing, ExistingRun, Options};
use crate::s3::properties::ExportProperties;

/// Arguments as SQL gives them: `None` is NULL. `options` is an object's text.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// `s3://bucket/prefix`
    pub uri: Option<String>,
    /// Permission to write to `uri`.
    pub permission: PermissionArguments,
    /// The SELECT.
    pub query: Option<String>,
    /// `json`, `csv`, `parquet`
    pub format: Option<String>,
    /// `none` or an algorithm's name; NULL: what is usual for the format
    pub compression: Option<String>,
    /// Documents a file.
    pub output_chunk_size: Option<i32>,
    /// Uncompressed bytes a file.
    pub output_chunk_bytes: Option<i64>,
    /// Columns whose values name folders.
    pub partition_by: Option<Vec<String>>,
    /// Files in a folder named by the export id.
    pub include_query_id: Option<bool>,
    /// Rockset's type wrappers.
    pub wrap_types: Option<bool>,
    /// The `options` argument, a JSON object.
    pub options: Option<String>,
}

/// The arguments that say what lets an export write: `None` is NULL.
#[derive(Debug, Clone)]
pub enum PermissionArguments {
    /// Name of an integration.
    Integration(Option<String>),
    /// A role that the server assumes, and its external id.
    Role {
        /// ARN.
        aws_role: Option<String>,
        /// External id that the role's trust policy demands.
        aws_external_id: Option<String>,
    },
}

/// Permission by which an export writes to its location.
#[derive(Debug, Clone)]
pub enum Permission {
    /// The integration of this name.
    Integration(String),
    /// A superuser's word in `s3_export.inline_roles`.
    Role {
        /// ARN of the role that the server assumes.
        aws_role: String,
        /// External id that the role's trust policy demands.
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
    /// Destination of the files.
    pub location: Location,
    /// Permission to write to `location`.
    pub permission: Permission,
    /// The SELECT, as it was given.
    pub query: String,
    /// The statement that the query is a part of, if it is.
    pub statement: Option<Statement>,
    /// Format of the files.
    pub format: Format,
    /// How files are compressed; `None`: not at all.
    pub compression: Option<Compression>,
    /// When a file ends.
    pub cut: Cut,
    /// Folders by values.
    pub partitions: Option<Partitions>,
    /// Files in a folder named by the export id.
    pub include_query_id: bool,
    /// A query without rows writes a file all the same.
    pub empty_file: bool,
    /// The name of the manifest's second copy.
    pub manifest_name: Option<String>,
    /// The manifest holds the query's text, not only its hash.
    pub manifest_query: bool,
    /// The channel that the commit notifies of the result.
    pub notify: Option<String>,
    /// How often a job starts again after a failure that may pass; `None`: the caller has said nothing.
    pub retries: Option<u32>,
    /// The name of an empty object that comes after the manifest.
    pub success_marker: Option<String>,
    /// Reaction to objects that are there already.
    pub existing: Existing,
    /// The key of the run, which names the manifest.
    pub run_key: Option<String>,
    /// Reaction to a run that has the key already.
    pub existing_run: ExistingRun,
    /// Longest time that it may take, zero: any; `None`: the setting `s3_export.timeout`.
    pub timeout: Option<Duration>,
    /// Tags, metadata and the like of its objects.
    pub properties: ExportProperties,
}

/// Statement that the query was cut out of, for errors to point into.
#[derive(Debug, Clone)]
pub struct Statement {
    /// All of it.
    pub text: String,
    /// Characters before the query.
    pub before: usize,
}

/// When a file ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// At so many documents or bytes, whichever comes first.
    Chunks {
        /// Documents a file; `None`: the setting `s3_export.output_chunk_size`.
        documents: Option<u64>,
        /// Most uncompressed bytes a file of more than one document may have.
        bytes: Option<u64>,
    },
    /// Never: there is one.
    SingleFile {
        /// Its name; `None`: that of the first of several.
        name: Option<String>,
        /// Most bytes that it may have.
        most_bytes: u64,
    },
}

/// Folders by the values of columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partitions {
    /// Outer folders first.
    pub columns: Vec<String>,
    /// The documents hold these columns too.
    pub include: bool,
}

impl Request {
    /// Whether an object of the export has a name of the user's making, which another object may have already.
    pub fn has_own_names(&self) -> bool {
        self.has_own_objects() || self.run_key.is_some()
    }

    /// Whether an object besides the manifest has a name of the user's own.
    pub fn has_own_objects(&self) -> bool {
        let has_own_file = matches!(&self.cut, Cut::SingleFile { name: Some(_), .. });
        has_own_file || self.manifest_name.is_some() || self.success_marker.is_some()
    }

    /// Whether the export looks at what is in the bucket before its query runs. Without s3:ListBucket a store hides that there is no
    /// object.
    pub fn looks(&self) -> bool {
        self.existing == Existing::Error || self.has_own_names()
    }

    /// Checks `arguments`. Errors: 22004 for a NULL, 22023 for a value that makes no sense.
    pub fn from_arguments(arguments: Arguments) -> Result<Self> {
        let location = Location::parse(&required("uri", arguments.uri)?)?;
        let permission = Permission::from_arguments(arguments.permission)?;
        let query = required("query", arguments.query)?;
        let format = required("format", arguments.format)?;
        let options = Options::parse(&json_object("options", &required("options", arguments.options)?)?)?;
        let wrap_types = required("wrap_types", arguments.wrap_types)?;
        let chunk_size = positive("output_chunk_size", arguments.output_chunk_size.map(i64::from))?;
        let chunk_bytes = positive("output_chunk_bytes", arguments.output_chunk_bytes)?;
        check::refuse_useless(&options, &format, wrap_types, arguments.partition_by.is_some())?;
        check::refuse_same_names(&options)?;
        Ok(Request {
            properties: check::properties(&options)?,
            location,
            permission,
            query,
            statement: None,
            compression: check::compression(arguments.compression.as_deref(), options.compression_level, &format)?,
            format: match format.as_str() {
                "json" => Format::Json(check::wrapping(wrap_types, &options)),
                "csv" => Format::Csv(check::csv_style(&options)?),
                "parquet" => Format::Parquet(check::parquet_style(&options)),
                unknown => return Err(unknown_key("format", unknown, &FORMATS)),
            },
            cut: check::cut(&options, chunk_size, chunk_bytes)?,
            partitions: check::partitions(arguments.partition_by, &options)?,
            include_query_id: check::include_query_id(required("include_query_id", arguments.include_query_id)?, &options)?,
            empty_file: options.empty_file.unwrap_or(false),
            manifest_name: options.manifest_name,
            manifest_query: options.manifest_query.unwrap_or(false),
            notify: options.notify,
            retries: options.retries,
            success_marker: options.success_marker,
            existing: options.existing.unwrap_or(Existing::Append),
            run_key: options.run_key,
            existing_run: options.existing_run.unwrap_or(ExistingRun::Return),
            timeout: options.timeout,
        })
    }

    /// Returns the type by which the files are named and announced.
    pub fn file_type(&self) -> FileType {
        FileType::of(&self.format, self.compression)
    }
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::format::{Algorithm, NonFinite, Wrapping};

    /// The arguments that a call leaves at their defaults.
    pub(crate) fn arguments() -> Arguments {
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
            partition_by: None,
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
        assert_eq!(request.format, Format::Json(Wrapping::Rockset));
        assert_eq!(request.cut, Cut::Chunks { documents: None, bytes: None });
        assert_eq!((request.compression, request.partitions), (None, None));
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
        assert_eq!(code(|a| a.compression = Some("lzma".into())), Some(Code::InvalidParameter));
        for options in ["[]", "{", "null", r#"{"frmat":1}"#] {
            assert_eq!(code(|a| a.options = Some(options.into())), Some(Code::InvalidParameter), "{options}");
        }
        for columns in [vec![], vec!["a".to_owned(), "a".to_owned()]] {
            assert_eq!(code(|a| a.partition_by = Some(columns)), Some(Code::InvalidParameter));
        }
    }

    #[test]
    fn options_that_would_do_nothing_or_fit_nothing_are_refused_with_22023() {
        let with = |format: &str, compression: &str, options: &str| {
            let arguments = Arguments {
                format: Some(format.into()),
                compression: Some(compression.into()),
                options: Some(options.into()),
                ..arguments()
            };
            Request::from_arguments(arguments).err().map(|error| error.code())
        };
        for (format, compression, options) in [
            ("json", "none", r#"{"delimiter":";"}"#),
            ("json", "none", r#"{"header":false}"#),
            ("json", "none", r#"{"nan":"null"}"#),
            ("csv", "none", r#"{"nan":"null"}"#),
            ("csv", "none", r#"{"delimiter":"\""}"#),
            ("csv", "none", r#"{"null":"a,b"}"#),
            ("csv", "none", r#"{"null":"\""}"#),
            ("json", "none", r#"{"partition_columns":"include"}"#),
            ("json", "none", r#"{"row_group_rows":1000}"#),
            ("parquet", "none", r#"{"header":true}"#),
            ("parquet", "snappy", r#"{"compression_level":1}"#),
            ("json", "none", r#"{"max_file_bytes":1000}"#),
            ("json", "none", r#"{"max_file_bytes":1000,"single_file":false}"#),
            ("json", "none", r#"{"content_disposition":"inline"}"#),
            ("json", "none", r#"{"compression_level":1}"#),
            ("json", "gzip", r#"{"compression_level":10}"#),
            ("json", "zstd", r#"{"compression_level":0}"#),
            ("json", "none", r#"{"single_file":"x","manifest_name":"x"}"#),
            ("json", "none", r#"{"success_marker":"x","manifest_name":"x"}"#),
            ("json", "none", r#"{"run_key":"x","manifest_name":"_x.manifest"}"#),
            ("json", "none", r#"{"existing_run":"error"}"#),
            ("json", "none", r#"{"run_key":"x","existing_run":"replace","manifest_name":"x"}"#),
            ("json", "none", r#"{"run_key":"x","existing_run":"replace","single_file":"x"}"#),
        ] {
            assert_eq!(with(format, compression, options), Some(Code::InvalidParameter), "{options}");
        }
        for (format, compression, options) in [
            ("csv", "gzip", r#"{"delimiter":";","header":true,"null":"NULL","compression_level":0}"#),
            ("json", "zstd", r#"{"compression_level":19,"single_file":"x","manifest_name":"y","success_marker":"z"}"#),
        ] {
            assert_eq!(with(format, compression, options), None, "{options}");
        }
        let single = || Some(r#"{"single_file":true}"#.to_owned());
        assert_eq!(code(|a| (a.options, a.output_chunk_size) = (single(), Some(7))), Some(Code::InvalidParameter));
        assert_eq!(code(|a| (a.options, a.partition_by) = (single(), Some(vec!["a".into()]))), Some(Code::InvalidParameter));
    }

    #[test]
    fn properties_of_objects_that_s3_would_refuse_are_refused_with_22023() {
        let with = |options: &str| Request::from_arguments(Arguments { options: Some(options.into()), ..arguments() });
        for (options, why) in [
            (r#"{"tags":{"a&b":""}}"#, "letters, digits"),
            (r#"{"tags":{"aws:a":""}}"#, "reserved"),
            (r#"{"tags":{"1":"","2":"","3":"","4":"","5":"","6":"","7":"","8":"","9":"","10":"","11":""}}"#, "at most 10"),
            (r#"{"metadata":{"Owner":"x"}}"#, "lower-case"),
            (r#"{"metadata":{"owner":"größe"}}"#, "ASCII"),
            (r#"{"metadata":{"s3-export-id":"x"}}"#, "itself"),
            (&format!(r#"{{"metadata":{{"a":"{}"}}}}"#, "x".repeat(2000)), "bytes"),
        ] {
            let error = with(options).unwrap_err();
            assert_eq!(error.code(), Code::InvalidParameter, "{options}");
            assert!(error.summary().contains(why), "{}", error.summary());
        }
        let options = r#"{"tags":{"run":"1"},"metadata":{"owner":"x"},"single_file":true,"content_disposition":"inline"}"#;
        let properties = with(options).unwrap().properties;
        assert_eq!((properties.tags.len(), properties.metadata.len()), (1, 1));
        assert_eq!(properties.content_disposition.as_deref(), Some("inline"));
    }

    #[test]
    fn parquet_is_compressed_unless_refused_and_takes_algorithms_of_its_own() {
        let compression = |format: &str, compression: Option<&str>| {
            let (format, compression) = (Some(format.to_owned()), compression.map(str::to_owned));
            let request = Request::from_arguments(Arguments { format, compression, ..arguments() });
            request.map(|request| request.compression.map(|compression| (compression.algorithm, compression.level)))
        };
        assert_eq!(compression("json", None).unwrap(), None);
        assert_eq!(compression("parquet", None).unwrap(), Some((Algorithm::Zstd, 1)));
        assert_eq!(compression("parquet", Some("none")).unwrap(), None);
        assert_eq!(compression("parquet", Some("snappy")).unwrap().unwrap().0, Algorithm::Snappy);
        for (format, name) in [("json", "snappy"), ("csv", "lz4"), ("parquet", "lzma")] {
            assert_eq!(compression(format, Some(name)).unwrap_err().code(), Code::InvalidParameter, "{format} {name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_options_are_taken_or_refused(key in "(nan|existing|manifest_query|single_file|\\PC{0,8})", value in "\\PC{0,12}") {
            let text = serde_json::json!({ key.as_str(): value.as_str() }).to_string();
            if let Some(code) = code(|a| a.options = Some(text)) {
                proptest::prop_assert_eq!(code, Code::InvalidParameter);
            }
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
        assert_eq!(request.format, Format::Json(Wrapping::Plain(NonFinite::Null)));
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
