//! The notification of an export: JSON for whoever listens on a channel, sent with the commit that writes the manifest.
//!
//! Postgres refuses a payload of 8,000 bytes in the commit, hours after the export began. So the text is bounded here.
#![forbid(unsafe_code)]

use serde_json::{Value, json};
use uuid::Uuid;

use crate::files::chunker::Totals;

/// Most bytes of a payload that Postgres takes.
pub const MAX_PAYLOAD_BYTES: usize = 7_999;

/// Result of an export, as a notification tells it.
#[derive(Debug)]
pub struct Notification<'a> {
    /// Id of the export.
    pub export_id: Uuid,
    /// URL of the manifest, as the export returns it.
    pub manifest: &'a str,
    /// Location of the export.
    pub uri: &'a str,
    /// Format of the files.
    pub format: &'a str,
    /// Documents, files and bytes written.
    pub totals: Totals,
    /// The key of the run, if the export has one.
    pub run_key: Option<&'a str>,
    /// Name of the feed and number of the run, if the export is a run of a feed.
    pub feed: Option<(&'a str, u64)>,
}

impl Notification<'_> {
    /// Returns the payload. A location that makes the payload too long is left out: the manifest's URL begins with it.
    pub fn payload(&self) -> String {
        let mut members = json!({
            "export_id": self.export_id.to_string(),
            "manifest": self.manifest,
            "uri": self.uri,
            "format": self.format,
            "documents": self.totals.documents,
            "files": self.totals.files,
            "bytes": self.totals.bytes,
        });
        if let Some(run_key) = self.run_key.filter(|_| self.feed.is_none()) {
            insert(&mut members, "run_key", json!(run_key));
        }
        if let Some((name, run)) = self.feed {
            insert(&mut members, "feed", json!({ "name": name, "run": run }));
        }
        let payload = members.to_string();
        if payload.len() <= MAX_PAYLOAD_BYTES {
            return payload;
        }
        if let Some(members) = members.as_object_mut() {
            members.remove("uri");
        }
        members.to_string()
    }
}

fn insert(members: &mut Value, name: &str, value: Value) {
    if let Some(members) = members.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naming::keys::MAX_KEY_BYTES;

    fn notification<'a>(manifest: &'a str, uri: &'a str) -> Notification<'a> {
        Notification {
            export_id: Uuid::now_v7(),
            manifest,
            uri,
            format: "parquet",
            totals: Totals { documents: 7, files: 2, bytes: u64::MAX },
            run_key: None,
            feed: None,
        }
    }

    #[test]
    fn a_payload_tells_the_result() {
        let mut given = notification("s3://b/x/_k.manifest", "s3://b/x");
        given.run_key = Some("k");
        let payload: Value = serde_json::from_str(&given.payload()).unwrap();
        assert_eq!(payload["manifest"], "s3://b/x/_k.manifest");
        assert_eq!((&payload["documents"], &payload["files"], &payload["run_key"]), (&json!(7), &json!(2), &json!("k")));
        given.feed = Some(("orders", 3));
        let payload: Value = serde_json::from_str(&given.payload()).unwrap();
        assert_eq!(payload["feed"], json!({ "name": "orders", "run": 3 }));
        assert_eq!(payload.get("run_key"), None, "the name of a feed's run is the feed's own");
    }

    /// Characters of a key that JSON writes with six bytes are the worst.
    #[test]
    fn the_longest_payload_is_one_that_postgres_takes() {
        let key = "\u{1}".repeat(MAX_KEY_BYTES);
        let (manifest, uri) = (format!("s3://{}/{key}", "b".repeat(63)), format!("s3://{}/{key}", "b".repeat(63)));
        let run_key = "😀".repeat(200);
        let longest = Notification { run_key: Some(&run_key), ..notification(&manifest, &uri) };
        let payload = longest.payload();
        assert!(payload.len() <= MAX_PAYLOAD_BYTES, "{}", payload.len());
        assert!(payload.contains("manifest") && !payload.contains("\"uri\""));
        let short = notification("s3://b/x/_1.manifest", "s3://b/x").payload();
        assert!(short.contains("\"uri\""));
    }
}
