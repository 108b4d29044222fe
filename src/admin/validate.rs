//! Help for who sets up an integration: does it work, and whom should its role trust.

use s3_export_core::error::{Code, Error, Result};
use s3_export_core::format::{FileType, Format, Wrapping};
use s3_export_core::maintenance::probe::{Step, Tried, probe};
use s3_export_core::naming::keys::{Destination, Naming};
use s3_export_core::naming::uri::{Allowed, Location};
use s3_export_core::request::Permission;
use s3_export_core::s3::credentials::caller;
use s3_export_core::s3::properties::ExportProperties;
use uuid::Uuid;

use crate::export::check_context;
use crate::integration::{self, Purpose};
use crate::pg::report;
use crate::transaction;

/// One row of `s3_export.validate_integration`.
#[derive(Debug)]
pub struct Finding {
    /// Step that was tried.
    pub step: &'static str,
    /// Whether it worked; `None`: it was not tried.
    pub ok: Option<bool>,
    /// Outcome of the step.
    pub detail: String,
    /// Consequence for exports.
    pub meaning: String,
}

/// Tries the integration out below `uri`, by default its first allowed location. Errors: as an export's, before the first
/// request; what fails after that is a finding.
pub fn run(name: String, uri: Option<&str>) -> Result<Vec<Finding>> {
    check_context()?;
    let location = match uri {
        Some(uri) => Location::parse(uri)?,
        None => first_location(&name)?,
    };
    let connection =
        integration::authorize(&Permission::Integration(name), &location, Purpose::Export, &ExportProperties::default())?
            .connection;
    let file_type = FileType::of(&Format::Json(Wrapping::Rockset), None);
    let naming = Naming { in_folder: false, file_type, file: None, run_key: None, manifest_copy: None, success_marker: None };
    let destination = Destination::new(location, Uuid::now_v7(), naming)?;
    let tried = transaction::call_store(|network| async move { Ok(probe(&connection, destination, &network).await) })?;
    Ok(tried.iter().map(finding).collect())
}

fn first_location(name: &str) -> Result<Location> {
    let first = integration::allowed_locations(name)?.into_iter().next();
    match first {
        Some(Allowed::Within(location)) => Ok(location),
        _ => Err(Error::new(Code::InvalidParameter, "the integration allows any location: say which one to try")
            .hint("Give a uri such as s3://bucket/prefix.")),
    }
}

/// The trust policy for the integration's role. `principal`: the ARN to trust; by default STS is asked whose the
/// integration's own credentials are. Errors: 42501, 42704, 55000, and STS's.
pub fn trust_policy(name: &str, principal: Option<String>) -> Result<String> {
    let trusted = integration::trusted(name)?;
    let principal = match principal {
        Some(principal) => principal,
        None => {
            let arn = transaction::call_store(|network| async move {
                let hint = "Name who is to be trusted: s3_export.trust_policy(name, principal => 'arn:…').";
                let asked = caller(&trusted.identity, &trusted.region, network).await;
                asked.map_err(|failure| failure.error.hint(hint))
            })?;
            let principal = integration::principal_of_caller(&arn);
            if principal != arn {
                report::notice(
                    "the credentials are a session's, whose ARN lacks its role's path: add the path, if the role has one",
                );
            }
            principal
        }
    };
    Ok(integration::trust_policy(&principal, trusted.external_id.as_deref()))
}

fn finding(tried: &Tried) -> Finding {
    let (step, good, bad) = words(tried.step);
    let (ok, detail, meaning) = match &tried.outcome {
        Some(Ok(word)) => (Some(true), word.clone(), good),
        Some(Err(error)) => (Some(false), error.summary(), bad),
        None => (None, "not tried".to_owned(), "It needs a step before it that failed."),
    };
    Finding { step, ok, detail, meaning: meaning.to_owned() }
}

/// Returns what the lack of a condition means for exports.
const LOOKED_AT: &str = "The store cannot be asked not to overwrite. Exports do not: their keys are unique. A name of your own \
                         (single_file, manifest_name, success_marker) is looked at before, which takes s3:GetObject; of two exports \
                         to it at the same moment one may overwrite the other.";

/// A step's name, and what it means when it works and when it does not.
fn words(step: Step) -> (&'static str, &'static str, &'static str) {
    match step {
        Step::Region => (
            "region",
            "Requests are signed for this region.",
            "Exports fail. Set the region of the integration, or correct the name of the bucket.",
        ),
        Step::Credentials => (
            "credentials",
            "There are credentials. The next steps show what the credentials allow.",
            "Exports fail before their query runs. s3_export.trust_policy prints what a role must trust.",
        ),
        Step::Put => {
            ("put", "Exports can write.", "Exports fail. s3_export.iam_policy prints what the integration's identity needs.")
        }
        Step::Head => (
            "head",
            "Objects can be looked at. Exports do not need this step.",
            "Exports do not need this step: s3:GetObject is not in their policy, and need not be granted for it.",
        ),
        Step::ConditionalPut => (
            "conditional put",
            "The store refuses to overwrite when it is asked to. Exports never overwrite: their keys are unique.",
            LOOKED_AT,
        ),
        Step::Multipart => (
            "multipart",
            "Files larger than 8 MiB can be written, and given up.",
            "Files larger than 8 MiB cannot be written, or leave parts behind when an export is aborted: \
             s3:AbortMultipartUpload is needed.",
        ),
        Step::ConditionalMultipart => {
            ("conditional multipart", "The same for files larger than 8 MiB, which matters for those that you name.", LOOKED_AT)
        }
        Step::Delete => (
            "delete",
            "Readers see nothing of an aborted export.",
            "An aborted export leaves files without a manifest, and so did this probe: s3:DeleteObject is needed.",
        ),
    }
}
