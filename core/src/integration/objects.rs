//! Checks of the columns that say what objects carry: tags, retention, encryption context, bucket key.
//!
//! The table's constraints bound lengths and kinds. Which characters S3 takes is said here alone, since a constraint would depend on the
//! database's collation. So these checks hold for each use of an integration, and not only for `create_integration`.
#![forbid(unsafe_code)]

use serde_json::{Map, Value};

use crate::error::{Code, Error, Result};
use crate::integration::settings::Settings;
use crate::s3::checksum::Algorithm;
use crate::s3::properties::{check_encryption_context, check_tags};

/// Modes of S3 Object Lock.
pub const LOCK_MODES: [&str; 2] = ["GOVERNANCE", "COMPLIANCE"];
/// Longest retention, in days: that of a bucket's default.
const MAX_LOCK_DAYS: u32 = 36_500;

/// Tells whether a column takes a value.
type Test<'a> = &'a dyn Fn(&Value) -> bool;

/// Errors: 22023 for a column of another type. `columns`: of a new integration.
pub fn kinds(columns: &Map<String, Value>) -> Result<()> {
    let is_texts = |value: &Value| value.as_object().is_some_and(|texts| texts.values().all(Value::is_string));
    let is_days = |value: &Value| value.as_u64().is_some_and(|days| (1..=u64::from(MAX_LOCK_DAYS)).contains(&days));
    let kinds: [(&str, Test<'_>, &str); 6] = [
        ("tags", &is_texts, "an object of texts"),
        (
            "object_lock_mode",
            &|value| value.as_str().is_some_and(|mode| LOCK_MODES.contains(&mode)),
            "GOVERNANCE or COMPLIANCE",
        ),
        ("object_lock_days", &is_days, "a whole number from 1 to 36500"),
        ("kms_encryption_context", &is_texts, "an object of texts"),
        ("bucket_key", &Value::is_boolean, "true or false"),
        ("requester_pays", &Value::is_boolean, "true or false"),
    ];
    for (column, is_good, takes) in kinds {
        if columns.get(column).is_some_and(|value| !value.is_null() && !is_good(value)) {
            return Err(Error::new(Code::InvalidParameter, format!("invalid {column}")).detail(format!("It takes {takes}.")));
        }
    }
    Ok(())
}

/// Errors: 22023 for values that a store would refuse, or that do not go together. `what`: the integration, for the message.
pub fn check(settings: &Settings, what: &str) -> Result<()> {
    let invalid = |column: &str, why: String| -> Result<()> {
        let detail = format!("The value belongs to {what}. {why}");
        Err(Error::new(Code::InvalidParameter, format!("invalid {column}")).detail(detail))
    };
    let needs = |column: &str, other: &str| {
        Err(Error::new(Code::InvalidParameter, format!("{column} needs {other}"))
            .detail(format!("The value belongs to {what}.")))
    };
    if let Some(Err(why)) = settings.tags.as_ref().map(check_tags) {
        return invalid("tags", why);
    }
    match (&settings.object_lock_mode, settings.object_lock_days) {
        (None, None) => {}
        (Some(_), None) => return needs("object_lock_mode", "object_lock_days"),
        (None, Some(_)) => return needs("object_lock_days", "object_lock_mode"),
        (Some(mode), Some(days)) if !LOCK_MODES.contains(&mode.as_str()) || !(1..=MAX_LOCK_DAYS).contains(&days) => {
            let takes = format!("The mode is GOVERNANCE or COMPLIANCE, and the days are 1 to {MAX_LOCK_DAYS}.");
            return invalid("object_lock_mode or object_lock_days", takes);
        }
        (Some(_), Some(_)) if settings.checksum == Algorithm::None => {
            return needs("object_lock_mode", "a checksum: S3 locks no object without one");
        }
        (Some(_), Some(_)) => {}
    }
    if let Some(context) = &settings.kms_encryption_context {
        if !settings.sse.as_deref().is_some_and(|sse| sse.starts_with("aws:kms")) {
            return needs("kms_encryption_context", "sse aws:kms or aws:kms:dsse");
        }
        if let Err(why) = check_encryption_context(context) {
            return invalid("kms_encryption_context", why);
        }
    }
    if settings.bucket_key.is_some() && settings.sse.as_deref() != Some("aws:kms") {
        return needs("bucket_key", "sse aws:kms");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::integration::settings::tests::settings;

    fn refused(columns: Value) -> Option<String> {
        let Value::Object(members) = columns.clone() else { unreachable!("{columns} is an object") };
        let error = kinds(&members).and_then(|()| check(&settings(columns), "integration \"x\"")).err()?;
        assert_eq!(error.code(), Code::InvalidParameter);
        Some(error.summary())
    }

    #[test]
    fn columns_that_go_together_are_taken() {
        for good in [
            json!({}),
            json!({ "tags": {}, "requester_pays": true, "bucket_key": null }),
            json!({ "tags": { "größe": "1", "a": "" } }),
            json!({ "object_lock_mode": "COMPLIANCE", "object_lock_days": 36500 }),
            json!({ "sse": "aws:kms:dsse", "kms_encryption_context": { "app": "x" } }),
            json!({ "sse": "aws:kms", "kms_encryption_context": { "app": "x" }, "bucket_key": false }),
        ] {
            assert_eq!(refused(good.clone()), None, "{good}");
        }
    }

    #[test]
    fn other_columns_are_refused_by_their_names() {
        for (column, bad) in [
            ("tags", json!({ "tags": ["a"] })),
            ("tags", json!({ "tags": { "a": 1 } })),
            ("tags", json!({ "tags": { "a": "x&y" } })),
            ("tags", json!({ "tags": { "": "" } })),
            ("object_lock_mode", json!({ "object_lock_mode": "governance", "object_lock_days": 1 })),
            ("object_lock_mode", json!({ "object_lock_mode": "GOVERNANCE" })),
            ("object_lock_days", json!({ "object_lock_days": 1 })),
            ("object_lock_days", json!({ "object_lock_mode": "GOVERNANCE", "object_lock_days": 0 })),
            ("object_lock_days", json!({ "object_lock_mode": "GOVERNANCE", "object_lock_days": 36501 })),
            ("object_lock_days", json!({ "object_lock_mode": "GOVERNANCE", "object_lock_days": 1.5 })),
            ("checksum", json!({ "object_lock_mode": "GOVERNANCE", "object_lock_days": 1, "checksum": "none" })),
            ("kms_encryption_context", json!({ "kms_encryption_context": { "a": "b" } })),
            ("kms_encryption_context", json!({ "sse": "AES256", "kms_encryption_context": { "a": "b" } })),
            ("kms_encryption_context", json!({ "sse": "aws:kms", "kms_encryption_context": {} })),
            ("kms_encryption_context", json!({ "sse": "aws:kms", "kms_encryption_context": "a" })),
            ("bucket_key", json!({ "bucket_key": true })),
            ("bucket_key", json!({ "sse": "aws:kms:dsse", "bucket_key": true })),
            ("requester_pays", json!({ "requester_pays": "yes" })),
        ] {
            assert!(refused(bad.clone()).is_some_and(|message| message.contains(column)), "{bad}");
        }
    }
}
