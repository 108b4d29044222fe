//! `s3_export.verify`: compares an export with its manifest. Nothing is written.
//!
//! The comparison runs on the I/O thread (`maintenance/verify/` of the core), and its findings come one by one: a manifest of a hundred
//! thousand files takes no more memory here than one of ten.
#![forbid(unsafe_code)]

use std::sync::Arc;

use s3_export_core::error::{Code, Error, Result};
use s3_export_core::files::chunker::Totals;
use s3_export_core::maintenance::verify::{self, Checked, Event, Finding, ManifestPlace, Reporter, Terms};
use s3_export_core::request::Permission;
use s3_export_core::s3::client::Connection;
use s3_export_core::s3::properties::ExportProperties;
use s3_export_core::s3::{Bucket, RetryPolicies, Throttle};
use uuid::Uuid;

use crate::export::{check_context, open};
use crate::integration::{self, Purpose};
use crate::progress::Progress;
use crate::settings;
use crate::transaction;

/// Arguments of a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// URL of the manifest.
    pub manifest: String,
    /// Name of the integration.
    pub integration: String,
    /// Whether the bytes of each file are read.
    pub deep: bool,
}

impl Verification {
    /// Where the manifest is, and how to reach it, if the current user may. Errors: 22023, and those of an export before its query.
    pub fn check(&self) -> Result<(ManifestPlace, Connection)> {
        check_context()?;
        let place = ManifestPlace::parse(&self.manifest)?;
        let permission = Permission::Integration(self.integration.clone());
        let connection =
            integration::authorize(&permission, &place.location, Purpose::Verify, &ExportProperties::default())?.connection;
        Ok((place, connection))
    }

    /// Shows `each` the outcome for each object as it comes; gives what was looked at. `job`: the id of the job that runs it.
    pub fn run(&self, job: Option<Uuid>, mut each: impl FnMut(&Finding) -> Result<()>) -> Result<Totals> {
        let (place, connection) = self.check()?;
        let progress = Progress::of_verification(job);
        let store = open(connection, place.location.bucket())?;
        let policy = RetryPolicies::all(transaction::call_policy());
        let bucket = Arc::new(Bucket::new(store, place.location.bucket(), policy, Throttle::new(1)));
        let (deep, most_bytes) = (self.deep, settings::buffer_memory() as u64);
        let terms = Terms { deep, at_once: transaction::connections()?, most_bytes };
        let (sender, mut events) = verify::events();
        let mut looked_at = Totals::default();
        transaction::call_store_and_hear(
            |wake| async move {
                let reporter = Reporter { sender, wake };
                verify::verify(&bucket, &place, terms, &reporter).await.map_err(|failure| failure.error)
            },
            || {
                while let Ok(event) = events.try_recv() {
                    match event {
                        Event::Expects(totals) => progress.expect_bytes(totals.bytes),
                        Event::Read(bytes) => looked_at.bytes += bytes,
                        Event::Found(finding) => {
                            each(&finding)?;
                            count(&mut looked_at, &finding);
                        }
                    }
                    progress.looked_at(looked_at);
                }
                Ok(())
            },
        )?;
        Ok(looked_at)
    }

    /// Runs it as the job of that id. Errors: XX001 when an object is not as the manifest says.
    pub fn run_as_job(&self, job: Uuid) -> Result<Totals> {
        let mut problems = Problems::default();
        let totals = self.run(Some(job), |finding| {
            problems.note(finding);
            Ok(())
        })?;
        problems.refuse(&self.manifest)?;
        Ok(totals)
    }

    /// The statement that does the same, as a job's row shows it.
    pub fn statement(&self) -> String {
        let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let (manifest, integration) = (literal(&self.manifest), literal(&self.integration));
        format!("SELECT * FROM s3_export.verify({manifest}, {integration}, deep => {})", self.deep)
    }
}

/// Bytes that were read are counted as they come.
fn count(looked_at: &mut Totals, finding: &Finding) {
    let is_listed = finding.bytes.is_some() && finding.checked != Checked::Nothing;
    if is_listed {
        looked_at.files += 1;
        looked_at.documents += finding.documents;
    }
    if is_listed && !finding.was_read {
        looked_at.bytes += finding.bytes.unwrap_or_default();
    }
}

/// Problems that the error of a job tells of, at most.
const MAX_TOLD: usize = 20;

#[derive(Default)]
struct Problems {
    count: u64,
    /// The first ones, a line each.
    told: Vec<String>,
}

impl Problems {
    fn note(&mut self, finding: &Finding) {
        let Some((problem, sentence)) = &finding.problem else { return };
        self.count += 1;
        if self.told.len() < MAX_TOLD {
            self.told.push(format!("{}: {}. {sentence}", finding.url, problem.name()));
        }
    }

    fn refuse(self, manifest: &str) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let what = if self.count == 1 { "1 problem".to_owned() } else { format!("{} problems", self.count) };
        let rest = self.count - self.told.len() as u64;
        let more = if rest == 0 { String::new() } else { format!("\nThere are {rest} more.") };
        Err(Error::new(Code::DataCorrupted, format!("the export is not what its manifest says: {what}"))
            .detail(format!("{}{more}", self.told.join("\n")))
            .hint(format!("The function s3_export.verify lists all problems of {manifest}.")))
    }
}

#[cfg(feature = "pg_test")]
mod tests {
    use s3_export_core::maintenance::verify::Problem;

    use super::*;
    use crate::inside_tests;

    inside_tests! {
        the_error_of_a_job_tells_the_first_problems_and_their_number,
        the_statement_of_a_job_quotes_its_arguments,
    }

    fn the_error_of_a_job_tells_the_first_problems_and_their_number() {
        for (number, line) in [(1_u64, 1), (20, 20), (21, 21), (500, 21)] {
            let mut problems = Problems::default();
            for file in 0..number {
                let problem = Some((Problem::Missing, "There is no such object.".to_owned()));
                let url = format!("s3://b/{file}");
                let finding = Finding { url, problem, bytes: None, documents: 1, checked: Checked::Nothing, was_read: false };
                problems.note(&finding);
            }
            let error = problems.refuse("s3://b/m").err();
            let detail = error.as_ref().and_then(Error::detail_text).unwrap_or_default();
            assert_eq!(detail.lines().count(), line);
            assert_eq!(detail.ends_with(&format!("There are {} more.", number.saturating_sub(20))), number > 20);
            let message = error.as_ref().map(Error::message).unwrap_or_default();
            assert!(message.ends_with(&format!(": {number} problem{}", if number == 1 { "" } else { "s" })), "{message}");
            assert_eq!(error.as_ref().map(Error::sqlstate), Some("XX001"));
        }
        assert_eq!(Problems::default().refuse("s3://b/m"), Ok(()));
    }

    fn the_statement_of_a_job_quotes_its_arguments() {
        let verification = Verification { manifest: "s3://b/o'x".into(), integration: "i".into(), deep: true };
        assert_eq!(verification.statement(), "SELECT * FROM s3_export.verify('s3://b/o''x', 'i', deep => true)");
    }
}
