//! The arguments of an export as a job's row keeps them: the query, where it goes and by what permission in columns of their own,
//! all others in one jsonb, under the names that SQL gives them; and the settings of its caller's session.
#![forbid(unsafe_code)]

use s3_export_core::request::{Arguments, PermissionArguments};
use serde_json::{Map, Value, json};

use crate::pg::caller::{Carried, Rights};

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

/// The caller's settings, a member each: the value of a setting of Postgres's own, value and rights of one whose name has a dot, and
/// null where the name is all that is known.
pub fn of_settings(settings: &[(String, Carried)]) -> Map<String, Value> {
    let member = |carried: &Carried| match carried {
        Carried::Value(value) => Value::String(value.clone()),
        Carried::Custom(value, Rights::Superuser) => json!({ "value": value, "superuser": true }),
        Carried::Custom(value, Rights::Role(role)) => json!({ "value": value, "role": role }),
        Carried::OfLogin => Value::Null,
    };
    settings.iter().map(|(name, carried)| (name.clone(), member(carried))).collect()
}

/// Reads [`of_settings`]. Jobs that were enqueued before 0.3.0 say nothing of rights, and get none.
pub fn to_settings(stored: Option<&Value>) -> Vec<(String, Carried)> {
    let carried = |name: &str, member: &Value| match member {
        Value::Null => Some(Carried::OfLogin),
        Value::String(value) if name.contains('.') => Some(Carried::Custom(value.clone(), Rights::NONE)),
        Value::String(value) => Some(Carried::Value(value.clone())),
        member => Some(Carried::Custom(member.get("value")?.as_str()?.to_owned(), to_rights(member))),
    };
    let members = stored.and_then(Value::as_object).into_iter().flatten();
    members.filter_map(|(name, member)| Some((name.clone(), carried(name, member)?))).collect()
}

fn to_rights(member: &Value) -> Rights {
    if member.get("superuser") == Some(&Value::Bool(true)) {
        return Rights::Superuser;
    }
    let role = member.get("role").and_then(Value::as_u64).and_then(|role| u32::try_from(role).ok());
    role.map_or(Rights::NONE, Rights::Role)
}

#[cfg(feature = "pg_test")]
mod tests {
    use super::*;
    use crate::inside_tests;

    inside_tests! {
        arguments_are_kept_whole,
        settings_are_kept_with_their_rights,
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

    fn settings_are_kept_with_their_rights() {
        let custom = |rights| Carried::Custom("x".into(), rights);
        let settings: Vec<(String, Carried)> = [
            ("a.role", custom(Rights::Role(u32::MAX))),
            ("a.superuser", custom(Rights::Superuser)),
            ("b.of_login", Carried::OfLogin),
            ("work_mem", Carried::Value("7MB".into())),
        ]
        .map(|(name, carried)| (name.to_owned(), carried))
        .into();
        assert_eq!(to_settings(Some(&Value::Object(of_settings(&settings)))), settings);
        let of_earlier_version = json!({ "a.b": "x", "work_mem": "7MB" });
        let read = to_settings(Some(&of_earlier_version));
        assert_eq!(read, [("a.b".to_owned(), custom(Rights::NONE)), ("work_mem".to_owned(), Carried::Value("7MB".into()))]);
    }
}
