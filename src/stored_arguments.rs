//! The arguments of an export as the row of a job or of a feed keeps them: the query, where it goes and by what permission in columns
//! of their own, all others in one jsonb, under the names that SQL gives them.
#![forbid(unsafe_code)]

use s3_export_core::request::{Arguments, PermissionArguments};
use serde_json::{Value, json};

/// Names of the arguments that the jsonb holds.
pub const NAMES: [&str; 8] = [
    "format",
    "compression",
    "output_chunk_size",
    "output_chunk_bytes",
    "partition_by",
    "include_query_id",
    "wrap_types",
    "options",
];

/// All arguments but `uri`, the permission and `query`, without those that are NULL.
pub fn to_options(arguments: &Arguments) -> Value {
    let options: Option<Value> = arguments.options.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let mut all = json!({
        "format": arguments.format,
        "compression": arguments.compression,
        "output_chunk_size": arguments.output_chunk_size,
        "output_chunk_bytes": arguments.output_chunk_bytes,
        "partition_by": arguments.partition_by,
        "include_query_id": arguments.include_query_id,
        "wrap_types": arguments.wrap_types,
        "options": options,
    });
    if let Some(members) = all.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    all
}

/// Returns the arguments that [`to_options`] was given.
pub fn to_arguments(uri: String, permission: PermissionArguments, query: String, options: &Value) -> Arguments {
    let text = |name| options.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = |name| options.get(name).and_then(Value::as_i64);
    let boolean = |name| options.get(name).and_then(Value::as_bool);
    Arguments {
        uri: Some(uri),
        permission,
        query: Some(query),
        format: text("format"),
        compression: text("compression"),
        output_chunk_size: number("output_chunk_size").and_then(|number| i32::try_from(number).ok()),
        output_chunk_bytes: number("output_chunk_bytes"),
        partition_by: options
            .get("partition_by")
            .and_then(Value::as_array)
            .map(|columns| columns.iter().filter_map(|column| column.as_str().map(str::to_owned)).collect()),
        include_query_id: boolean("include_query_id"),
        wrap_types: boolean("wrap_types"),
        options: options.get("options").map(Value::to_string),
    }
}

/// Returns the stored arguments with the default of each that is missing and may not be NULL.
pub fn with_defaults(mut options: Value) -> Value {
    if let Some(members) = options.as_object_mut() {
        for (name, default) in
            [("format", json!("json")), ("include_query_id", json!(false)), ("wrap_types", json!(true)), ("options", json!({}))]
        {
            members.entry(name).or_insert(default);
        }
    }
    options
}

#[cfg(feature = "pg_test")]
mod tests {
    use super::*;
    use crate::inside_tests;

    inside_tests! {
        arguments_are_kept_whole,
    }

    fn arguments_are_kept_whole() {
        let arguments = |output_chunk_bytes| Arguments {
            uri: Some("s3://b/x".into()),
            permission: PermissionArguments::Integration(Some("i".into())),
            query: Some("SELECT 1".into()),
            format: Some("json".into()),
            compression: Some("none".into()),
            output_chunk_size: Some(7),
            output_chunk_bytes,
            partition_by: output_chunk_bytes.map(|_| vec!["a".into(), "b\"c".into()]),
            include_query_id: Some(true),
            wrap_types: Some(false),
            options: Some(r#"{"nan":"null","timeout":1500}"#.into()),
        };
        for given in [arguments(None), arguments(Some(i64::MAX))] {
            let stored = to_options(&given);
            let back = to_arguments("s3://b/x".into(), given.permission.clone(), "SELECT 1".into(), &stored);
            assert_eq!(format!("{back:?}"), format!("{given:?}"));
        }
    }
}
