//! Roles that a caller names himself, without an integration.
//!
//! The server assumes them with credentials of its own, which every role in the world that trusts the server accepts: whoever
//! may name any role may write to all of them (the confused deputy). So a superuser lists the roles, each with its locations.
#![forbid(unsafe_code)]

use s3_export_core::error::unknown_key;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::integration::settings::Settings;
use s3_export_core::naming::uri::{Allowed, Location};
use serde_json::{Value, json};

use crate::settings;

/// Members of an entry of `s3_export.inline_roles`.
const MEMBERS: &[&str] = &[
    "allowed_locations",
    "aws_profile",
    "aws_role",
    "bucket_key",
    "checksum",
    "dual_stack",
    "endpoint",
    "expected_bucket_owner",
    "fips",
    "kms_encryption_context",
    "kms_key_id",
    "max_bytes",
    "max_documents",
    "object_acl",
    "object_lock_days",
    "object_lock_mode",
    "path_style",
    "region",
    "requester_pays",
    "sse",
    "storage_class",
    "sts_endpoint",
    "tags",
];

/// The entry that lets the role write there, as an integration. Errors: 42501 when none does, F0000 when the setting is
/// malformed.
pub fn allowed(aws_role: &str, location: &Location) -> Result<Settings> {
    entry(settings::inline_roles().as_deref(), aws_role, location)
}

fn entry(setting: Option<&str>, aws_role: &str, location: &Location) -> Result<Settings> {
    let entries = match setting {
        Some(text) => parse(text)?,
        None => Vec::new(),
    };
    let matching = entries.into_iter().find(|entry| {
        let allows = |allowed: Vec<Allowed>| allowed.iter().any(|allowed| allowed.allows(location));
        entry.aws_role.as_deref() == Some(aws_role) && entry.allowed().is_ok_and(allows)
    });
    matching.ok_or_else(|| {
        Error::new(Code::Privilege, format!("role {aws_role} may not be named inline for {location}"))
            .hint("A superuser lists such roles, each with its locations, in s3_export.inline_roles.")
    })
}

fn parse(text: &str) -> Result<Vec<Settings>> {
    let Ok(Value::Array(entries)) = serde_json::from_str(text) else { return Err(malformed("It is no JSON array.")) };
    entries.into_iter().map(integration).collect()
}

/// An entry with what every integration has.
fn integration(entry: Value) -> Result<Settings> {
    let Value::Object(mut members) = entry else { return Err(malformed("An entry is no JSON object.")) };
    if let Some(unknown) = members.keys().find(|key| !MEMBERS.contains(&key.as_str())) {
        return Err(malformed(&format!("{}.", unknown_key("member", unknown, MEMBERS).summary())));
    }
    if !members.get("aws_role").is_some_and(Value::is_string) {
        return Err(malformed("An entry has no aws_role."));
    }
    let locations = members.get("allowed_locations").and_then(Value::as_array);
    let are_locations = |entries: &Vec<Value>| {
        !entries.is_empty() && entries.iter().all(|entry| entry.as_str().is_some_and(|entry| Allowed::parse(entry).is_ok()))
    };
    if !locations.is_some_and(are_locations) {
        return Err(malformed("The allowed_locations of an entry are no array of s3:// locations."));
    }
    let source = if members.contains_key("aws_profile") { "profile" } else { "ambient" };
    members.insert("credential_source".to_owned(), json!(source));
    members.insert("superuser_owns".to_owned(), json!(true));
    Settings::from_given(&members).map_err(|error| malformed(&format!("{}.", error.message())))
}

fn malformed(why: &str) -> Error {
    Error::new(Code::Configuration, "the setting s3_export.inline_roles is malformed")
        .detail(why)
        .hint(r#"Write it as [{"aws_role": "arn:…", "allowed_locations": ["s3://bucket/prefix"]}]."#)
}

#[cfg(feature = "pg_test")]
#[allow(clippy::unwrap_used, reason = "a test's panic is its report")]
mod tests {
    use super::*;
    use crate::inside_tests;

    inside_tests! {
        only_listed_pairs_of_role_and_location_are_allowed,
        a_malformed_setting_is_an_error,
    }

    const ROLE: &str = "arn:aws:iam::012345678901:role/x";

    fn code(setting: &str, role: &str, uri: &str) -> Option<Code> {
        entry(Some(setting), role, &Location::parse(uri).unwrap()).err().map(|error| error.code())
    }

    fn only_listed_pairs_of_role_and_location_are_allowed() {
        let other = "arn:aws:iam::012345678901:role/y";
        let setting = format!(
            r#"[{{"aws_role": "{ROLE}", "allowed_locations": ["s3://bucket/team"]}},
                {{"aws_role": "{other}", "allowed_locations": ["s3://other"], "region": "eu-1"}}]"#
        );
        assert_eq!(code(&setting, ROLE, "s3://bucket/team/x"), None);
        assert_eq!(code(&setting, other, "s3://other/x"), None);
        for (role, uri) in [
            (ROLE, "s3://bucket/team2"),
            (ROLE, "s3://other/x"),
            (other, "s3://bucket/team"),
            ("arn:aws:iam::012345678901:role/xx", "s3://bucket/team"),
        ] {
            assert_eq!(code(&setting, role, uri), Some(Code::Privilege), "{role} {uri}");
        }
        assert!(entry(None, ROLE, &Location::parse("s3://bucket").unwrap()).is_err());
    }

    fn a_malformed_setting_is_an_error() {
        for setting in [
            "x",
            "{}",
            "[1]",
            r#"[{"aws_role": "r"}]"#,
            r#"[{"allowed_locations": ["s3://bucket"]}]"#,
            r#"[{"aws_role": "r", "allowed_locations": []}]"#,
            r#"[{"aws_role": "r", "allowed_locations": ["x"]}]"#,
            r#"[{"aws_role": "r", "allowed_locations": ["s3://bucket"], "region": 1}]"#,
            r#"[{"aws_role": "r", "allowed_locations": ["s3://bucket"], "path_style": "yes"}]"#,
            r#"[{"aws_role": "r", "allowed_locations": ["s3://bucket"], "checksum": "md5"}]"#,
            r#"[{"aws_role": "r", "allowed_locations": ["s3://bucket"], "max_bytes": 0}]"#,
            r#"[{"aws_role": "r", "allowed_locations": ["s3://bucket"], "tags": {"a": 1}}]"#,
            r#"[{"aws_role": "r", "allowed_locations": ["s3://bucket"], "owner": "me"}]"#,
        ] {
            assert_eq!(code(setting, "r", "s3://bucket"), Some(Code::Configuration), "{setting}");
        }
    }
}
