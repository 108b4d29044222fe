//! The settings of a caller's session, as a job's row keeps them.
#![forbid(unsafe_code)]

use serde_json::{Map, Value, json};

use crate::pg::caller::{Carried, Rights};

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
        settings_are_kept_with_their_rights,
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
