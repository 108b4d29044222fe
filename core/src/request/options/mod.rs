//! The members of `options`: one table, for arguments, statements and jobs, and for docs/exporting.md, which a test compares with it.
#![forbid(unsafe_code)]

mod values;

use std::time::Duration;

use serde_json::{Map, Value};

use self::values::{
    MAX_OBJECT_BYTES, at_least_one, channel, character, existing, existing_run, force_quote, include, names, non_finite,
    object_name, retries, run_key, set, single_file, text, texts, timeout,
};
use crate::error::{Code, Error, Result, unknown_key};
use crate::format::{ForceQuote, NonFinite};
use crate::s3::properties::{Texts, is_disposition};

/// One option.
pub struct Definition {
    /// Its key.
    pub name: &'static str,
    /// Default, as docs/exporting.md shows it.
    pub default: &'static str,
    /// Values that the option takes, as the error says it.
    pub takes: &'static str,
    /// Effect, as docs/exporting.md describes it.
    pub does: &'static str,
    set: fn(&mut Options, &Value) -> Option<()>,
}

/// All of them, by name.
pub const OPTIONS: &[Definition] = &[
    Definition {
        name: "arrow_extension_types",
        default: "`false`",
        takes: "true or false",
        does: "Parquet: `true` names the extension types `arrow.uuid` and `arrow.json` in the Arrow schema. Polars up to 1.35 cannot read such a file",
        set: |options, value| set(&mut options.arrow_extension_types, value.as_bool()),
    },
    Definition {
        name: "bloom_filter_columns",
        default: "`[]`",
        takes: "an array of columns' names",
        does: "Parquet: columns with bloom filters, so that readers can skip row groups",
        set: |options, value| set(&mut options.bloom_filter_columns, names(value)),
    },
    Definition {
        name: "compression_level",
        default: "6 for gzip, 3 for zstd (1 in Parquet)",
        takes: "a whole number",
        does: "compression level: 0 to 9 for gzip, 1 to 19 for zstd",
        set: |options, value| set(&mut options.compression_level, value.as_i64().and_then(|level| i32::try_from(level).ok())),
    },
    Definition {
        name: "content_disposition",
        default: "none",
        takes: "a line of at most 1024 printable ASCII characters",
        does: "`single_file`: header `Content-Disposition` of the file, which names the file that a browser saves",
        set: |options, value| set(&mut options.content_disposition, text(value).filter(|text| is_disposition(text))),
    },
    Definition {
        name: "delimiter",
        default: "`\",\"`",
        takes: "one ASCII character that is neither a backslash nor a line break",
        does: "CSV: the character between values",
        set: |options, value| set(&mut options.delimiter, character(value).filter(|byte| *byte != b'\\')),
    },
    Definition {
        name: "empty_file",
        default: "`false`",
        takes: "true or false",
        does: "`true`: a query without rows writes one file without documents (only a header, if any). `false`: no file",
        set: |options, value| set(&mut options.empty_file, value.as_bool()),
    },
    Definition {
        name: "existing",
        default: "`\"append\"`",
        takes: "\"append\" or \"error\"",
        does: "`\"error\"`: refuse (42710) if `<uri>/` holds objects before the query runs. An empty object named `<uri>/` does not count. Needs `s3:ListBucket`",
        set: |options, value| set(&mut options.existing, existing(value)),
    },
    Definition {
        name: "existing_run",
        default: "`\"return\"`",
        takes: "\"return\", \"error\" or \"replace\"",
        does: "with `run_key`, if there is a run of that key: `\"return\"`: export nothing, and return that run. `\"error\"`: refuse (42710). `\"replace\"`: export, and the commit replaces that run",
        set: |options, value| set(&mut options.existing_run, existing_run(value)),
    },
    Definition {
        name: "force_quote",
        default: "`[]`",
        takes: "\"*\" or an array of columns' names",
        does: "CSV: columns whose values are always quoted; `\"*\"`: all columns",
        set: |options, value| set(&mut options.force_quote, force_quote(value)),
    },
    Definition {
        name: "header",
        default: "`false`",
        takes: "true or false",
        does: "CSV: `true`: each file begins with the columns' names",
        set: |options, value| set(&mut options.header, value.as_bool()),
    },
    Definition {
        name: "manifest_name",
        default: "none",
        takes: NAME,
        does: "name of a second copy of the manifest, `<uri>/<name>`. An existing object of that name is an error (42710)",
        set: |options, value| set(&mut options.manifest_name, object_name(value)),
    },
    Definition {
        name: "manifest_query",
        default: "`false`",
        takes: "true or false",
        does: "`true`: the manifest holds the query's text, not only its SHA-256",
        set: |options, value| set(&mut options.manifest_query, value.as_bool()),
    },
    Definition {
        name: "max_file_bytes",
        default: "83886080000",
        takes: "a whole number from 1 to 5497558138880",
        does: "largest size of a `single_file`. Parts are made large enough for 10,000 parts to hold it",
        set: |options, value| {
            set(&mut options.max_file_bytes, value.as_u64().filter(|bytes| (1..=MAX_OBJECT_BYTES).contains(bytes)))
        },
    },
    Definition {
        name: "metadata",
        default: "`{}`",
        takes: "an object of texts, which S3 takes as metadata",
        does: "metadata of every object: `x-amz-meta-<key>`",
        set: |options, value| set(&mut options.metadata, texts(value)),
    },
    Definition {
        name: "nan",
        default: "`\"string\"`",
        takes: "\"string\" or \"null\"",
        does: "plain JSON: NaN and infinities as `\"string\"` or `\"null\"`",
        set: |options, value| set(&mut options.nan, non_finite(value)),
    },
    Definition {
        name: "notify",
        default: "none",
        takes: "the name of a channel, of 1 to 63 bytes",
        does: "channel that the commit notifies of the result, as `pg_notify` does",
        set: |options, value| set(&mut options.notify, channel(value)),
    },
    Definition {
        name: "null",
        default: "`\"\"`",
        takes: "a text without line breaks",
        does: "CSV: text for NULL, never quoted",
        set: |options, value| set(&mut options.null, text(value).filter(|text| !text.contains(['\r', '\n', '\0']))),
    },
    Definition {
        name: "partition_columns",
        default: "`\"exclude\"`",
        takes: "\"exclude\" or \"include\"",
        does: "`\"include\"`: the columns of `partition_by` are in the documents too",
        set: |options, value| set(&mut options.include_partition_columns, include(value)),
    },
    Definition {
        name: "quote",
        default: "`\"\\\"\"`",
        takes: "one ASCII character that is no line break",
        does: "CSV: quote character; doubled inside a value",
        set: |options, value| set(&mut options.quote, character(value)),
    },
    Definition {
        name: "retries",
        default: "0",
        takes: "a whole number from 0 to 20",
        does: "jobs: how often a job starts again after a failure that may pass; 0 to 20",
        set: |options, value| set(&mut options.retries, retries(value)),
    },
    Definition {
        name: "row_group_bytes",
        default: "as `buffer_memory` allows",
        takes: "a whole number from 1",
        does: "Parquet: encoded and compressed bytes that end a row group, checked after each batch (up to 16,384 rows or 4 MiB). More than the memory allows is refused (53400)",
        set: |options, value| set(&mut options.row_group_bytes, at_least_one(value)),
    },
    Definition {
        name: "row_group_rows",
        default: "122880",
        takes: "a whole number from 1",
        does: "Parquet: maximum rows of a row group",
        set: |options, value| set(&mut options.row_group_rows, at_least_one(value)),
    },
    Definition {
        name: "run_key",
        default: "none",
        takes: RUN_KEY,
        does: "name of the run: the manifest is `<uri>/_<run_key>.manifest`, and a key has one run at most. Needs `s3:GetObject` and `s3:ListBucket`",
        set: |options, value| set(&mut options.run_key, run_key(value)),
    },
    Definition {
        name: "single_file",
        default: "`false`",
        takes: "true, false, or a name without slashes that no export would give",
        does: "`true`: one file of any size. A name: one file `<uri>/<name>`; an existing object of that name is an error (42710)",
        set: |options, value| set(&mut options.single_file, single_file(value)),
    },
    Definition {
        name: "success_marker",
        default: "none",
        takes: NAME,
        does: "name of an empty object, such as `\"_SUCCESS\"`, written after the manifest",
        set: |options, value| set(&mut options.success_marker, object_name(value)),
    },
    Definition {
        name: "tags",
        default: "`{}`",
        takes: "an object of texts, which S3 takes as tags",
        does: "tags of every object, beside those of the integration. Needs `s3:PutObjectTagging`",
        set: |options, value| set(&mut options.tags, texts(value)),
    },
    Definition {
        name: "timeout",
        default: "the setting",
        takes: "a length of time as \"90s\", \"30min\" or \"2h\", or a number of milliseconds",
        does: "longest time from the start until all files are stored (57014 after it); `0`: no limit",
        set: |options, value| set(&mut options.timeout, timeout(value)),
    },
];

const RUN_KEY: &str = "a name of at most 200 characters, without slashes, that no export would give";
const NAME: &str = "a name without slashes that no export would give";
/// Options as they were given; `None`: not at all.
#[derive(Debug, Clone, Default)]
// Each field is the option of its name, which OPTIONS describes.
#[allow(missing_docs)]
pub struct Options {
    pub arrow_extension_types: Option<bool>,
    pub bloom_filter_columns: Option<Vec<String>>,
    pub compression_level: Option<i32>,
    pub content_disposition: Option<String>,
    pub delimiter: Option<u8>,
    pub empty_file: Option<bool>,
    pub existing: Option<Existing>,
    pub existing_run: Option<ExistingRun>,
    pub force_quote: Option<ForceQuote>,
    pub header: Option<bool>,
    pub include_partition_columns: Option<bool>,
    pub manifest_name: Option<String>,
    pub manifest_query: Option<bool>,
    pub max_file_bytes: Option<u64>,
    pub metadata: Option<Texts>,
    pub nan: Option<NonFinite>,
    pub notify: Option<String>,
    pub null: Option<String>,
    pub quote: Option<u8>,
    pub retries: Option<u32>,
    pub row_group_bytes: Option<usize>,
    pub row_group_rows: Option<usize>,
    pub run_key: Option<String>,
    pub single_file: Option<SingleFile>,
    pub success_marker: Option<String>,
    pub tags: Option<Texts>,
    pub timeout: Option<Duration>,
}

/// Whether all documents go into one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SingleFile {
    /// Off.
    No,
    /// Under the name that the first of several would have.
    Numbered,
    /// Under this name.
    Named(String),
}

/// Reaction to objects that the location holds already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Write beside them.
    Append,
    /// Refuse.
    Error,
}

/// Reaction to a run that has the key already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExistingRun {
    /// Export nothing; the result is that run's.
    Return,
    /// Refuse.
    Error,
    /// Export, and let the commit replace it.
    Replace,
}

impl Options {
    /// Errors: 22023 for a key that is not known, and for a value that its option does not take.
    pub fn parse(given: &Map<String, Value>) -> Result<Self> {
        let mut options = Options::default();
        for (key, value) in given {
            let Some(definition) = OPTIONS.iter().find(|definition| definition.name == key) else {
                return Err(unknown_key("option", key, &OPTIONS.iter().map(|definition| definition.name).collect::<Vec<_>>()));
            };
            (definition.set)(&mut options, value).ok_or_else(|| {
                Error::new(Code::InvalidParameter, format!("invalid value for option \"{key}\""))
                    .detail(format!("It takes {}.", definition.takes))
            })?;
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_the_table() {
        let page = include_str!("../../../../docs/exporting.md");
        let heading = "| option | default | |\n|---|---|---|\n";
        let table = page.split_once(heading).unwrap().1.split("\n\n").next().unwrap();
        let rows: Vec<String> =
            OPTIONS.iter().map(|option| format!("| `{}` | {} | {} |", option.name, option.default, option.does)).collect();
        assert_eq!(table.lines().collect::<Vec<_>>(), rows);
    }

    #[test]
    fn they_are_in_the_order_of_their_names() {
        assert!(OPTIONS.is_sorted_by_key(|option| option.name));
    }

    #[test]
    fn values_that_make_no_sense_are_refused_with_what_would() {
        for (option, value) in [
            ("arrow_extension_types", r#""yes""#),
            ("bloom_filter_columns", r#""a""#),
            ("bloom_filter_columns", "[1]"),
            ("row_group_bytes", "0"),
            ("row_group_rows", "-1"),
            ("compression_level", r#""9""#),
            ("compression_level", "1.5"),
            ("notify", r#""""#),
            ("notify", r#""0123456789012345678901234567890123456789012345678901234567890123""#),
            ("notify", "7"),
            ("retries", "-1"),
            ("retries", "21"),
            ("retries", r#""3""#),
            ("content_disposition", r#""a\nb""#),
            ("content_disposition", "true"),
            ("delimiter", r#""""#),
            ("delimiter", r#"",,""#),
            ("delimiter", r#""\\""#),
            ("delimiter", r#""\n""#),
            ("delimiter", r#""é""#),
            ("empty_file", r#""yes""#),
            ("existing", r#""delete""#),
            ("existing_run", r#""append""#),
            ("run_key", r#""a/b""#),
            ("run_key", r#""01a20fdb-b929-7267-a31a-d4ee50573122""#),
            ("force_quote", r#""a""#),
            ("force_quote", "[1]"),
            ("header", "1"),
            ("manifest_name", r#""a/b""#),
            ("manifest_name", r#""..""#),
            ("manifest_name", r#""_01a20fdb-b929-7267-a31a-d4ee50573122.manifest""#),
            ("single_file", r#""000001.json""#),
            ("manifest_query", "1"),
            ("max_file_bytes", "0"),
            ("max_file_bytes", "5497558138881"),
            ("metadata", r#"["a"]"#),
            ("metadata", r#"{"a": 1}"#),
            ("nan", r#""zero""#),
            ("nan", "null"),
            ("null", r#""a\nb""#),
            ("partition_columns", "true"),
            ("quote", r#""''""#),
            ("single_file", "1"),
            ("single_file", r#""""#),
            ("success_marker", "true"),
            ("success_marker", r#""\u0007""#),
            ("tags", r#""a=b""#),
            ("tags", r#"{"a": null}"#),
            ("timeout", r#""soon""#),
            ("timeout", "-1"),
            ("timeout", "true"),
        ] {
            let given = serde_json::from_str(&format!(r#"{{"{option}": {value}}}"#)).unwrap();
            let error = Options::parse(&given).unwrap_err();
            let takes = OPTIONS.iter().find(|definition| definition.name == option).unwrap().takes;
            assert_eq!(error.code(), Code::InvalidParameter, "{option} {value}");
            assert_eq!(error.summary(), format!("invalid value for option \"{option}\": It takes {takes}."));
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_list_of_those_known() {
        let error = Options::parse(serde_json::json!({ "headers": true }).as_object().unwrap()).unwrap_err();
        assert_eq!(error.message(), "unknown option \"headers\"");
        assert!(error.hint_text().unwrap().starts_with("Known: arrow_extension_types, bloom_filter_columns, "));
    }
}
