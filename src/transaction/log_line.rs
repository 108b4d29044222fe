//! Lines of the server's log about exports.
//!
//! A line ends with a JSON object, whose escapes keep texts of the user's in one line. Texts that nobody has checked stand in that
//! object alone, so that no user can forge a line.
#![forbid(unsafe_code)]

use std::time::Duration;

use s3_export_core::files::chunker::Totals;
use s3_export_core::integration::policy::ascii;
use serde_json::{Map, Value};

use crate::settings;
use crate::settings::LogExports;

/// Most characters of each text in a line.
const MAX_TEXT: usize = 1024;

/// What the log may tell of an export.
#[derive(Debug, Clone, Default)]
pub struct LogLine {
    /// The export, in words.
    pub subject: String,
    /// The export, as JSON.
    pub fields: Map<String, Value>,
    /// Whether the line is the only record of the export, and so is written whatever the setting says.
    pub is_only_record: bool,
    /// Whether nobody else tells the log of a failure.
    pub tells_failure: bool,
}

impl LogLine {
    /// The line of an export that is committed; `None`: nobody wants it.
    pub fn committed(&self, totals: Totals, time: Duration) -> Option<String> {
        let is_wanted = self.is_only_record || settings::log_exports() != LogExports::Off;
        is_wanted.then(|| {
            format!(
                "{}: {} documents, {} files, {} bytes, {:.3} s; {}",
                self.subject,
                totals.documents,
                totals.files,
                totals.bytes,
                time.as_secs_f64(),
                self.fields_as_text(),
            )
        })
    }

    /// The line of an export that has failed; `None`: nobody wants it.
    pub fn failed(&self, sqlstate: &str) -> Option<String> {
        let is_wanted = self.tells_failure && settings::log_exports() == LogExports::All;
        is_wanted.then(|| format!("an export failed (SQLSTATE {sqlstate}); {}", self.fields_as_text()))
    }

    /// The line of an export whose files were all stored, and which a rollback has taken back; `None`: nobody wants it.
    pub fn rolled_back(&self, totals: Totals) -> Option<String> {
        let is_wanted = self.tells_failure && settings::log_exports() == LogExports::All;
        is_wanted.then(|| {
            let Totals { documents, files, bytes } = totals;
            let fields = self.fields_as_text();
            format!("{} was rolled back: {documents} documents, {files} files, {bytes} bytes; {fields}", self.subject)
        })
    }

    fn fields_as_text(&self) -> String {
        let shortened = |value: &Value| match value {
            Value::String(text) if text.chars().nth(MAX_TEXT).is_some() => {
                Value::String(text.chars().take(MAX_TEXT).chain(['…']).collect())
            }
            value => value.clone(),
        };
        let known = self.fields.iter().filter(|(_, value)| !value.is_null());
        // Some characters beyond ASCII end a line, or turn its direction, for those who read logs.
        ascii(&Value::Object(known.map(|(name, value)| (name.clone(), shortened(value))).collect()).to_string())
    }
}
