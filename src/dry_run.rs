//! A dry run of an export: everything that an export checks before its first byte, and nothing that it writes.
//!
//! ```text
//! authorize ──► judge ──► open the store ──► look at names and runs ──► plan, as the caller ──► choose encoders ──► findings
//! ```
//!
//! The steps are the export's own functions, in the export's order, so that a dry run and an export fail alike. The query is planned
//! and not executed. Requests go out that read, and none that writes.
#![forbid(unsafe_code)]

use s3_export_core::error::Result;
use s3_export_core::files::plan::FilePlan;
use s3_export_core::manifest::Column;
use s3_export_core::manifest::stored::Summary;
use s3_export_core::naming::hive;
use s3_export_core::naming::keys::Destination;
use s3_export_core::request::Request;
use s3_export_core::request::options::ExistingRun;
use uuid::Uuid;

use crate::export;
use crate::history::Recorder;
use crate::integration::{self, Authorized};
use crate::query::Expected;
use crate::query::sink;
use crate::run_key;
use crate::transaction;

/// One row of `s3_export.dry_run`.
#[derive(Debug)]
pub struct Finding {
    /// Subject of the row.
    pub item: &'static str,
    /// What was found.
    pub value: String,
    /// What the value means.
    pub meaning: String,
}

impl Finding {
    fn new(item: &'static str, value: impl ToString, meaning: impl Into<String>) -> Self {
        Finding { item, value: value.to_string(), meaning: meaning.into() }
    }
}

/// Checks what an export checks before its first byte. Errors: the export's.
pub fn run(request: &Request) -> Result<Vec<Finding>> {
    export::check_context()?;
    // A function that planning calls may not export either.
    let _running = transaction::Exporting::enter();
    let export_id = Uuid::now_v7();
    let (Authorized { connection, limits, of_export }, query, destination) = export::check(request, export_id)?;
    let recorder = Recorder::begin(limits)?;
    let store = export::open(connection, request.location.bucket())?;
    let existing = match request.run_key {
        Some(_) => run_key::look(&store, &destination, request.existing_run)?,
        None => None,
    };
    let is_returned = existing.is_some() && request.existing_run == ExistingRun::Return;
    if !is_returned {
        export::look(request, &store, &destination)?;
    }
    FilePlan::new(request, export_id, export::room(), of_export)?;
    if !is_returned {
        recorder.byte_limit(false)?;
    }
    let (expected, columns) = query.plan(|shape, origins| sink::forms(request, shape, origins))?;

    let mut findings = estimates(&expected);
    findings.extend(names(request, &destination)?);
    findings.extend(existing.map(|summary| existing_run(&summary, is_returned)));
    findings.extend(columns.into_iter().map(column));
    findings.push(policy(request)?);
    Ok(findings)
}

fn estimates(expected: &Expected) -> Vec<Finding> {
    let bytes = expected.rows * f64::from(expected.width);
    vec![
        Finding::new("rows", format!("{:.0}", expected.rows), "planner's estimate"),
        Finding::new("row width", expected.width, "planner's estimate: bytes of a row in Postgres's memory"),
        Finding::new("bytes", format!("{bytes:.0}"), "rows times row width; the files have another size"),
    ]
}

/// Names of the objects, with a placeholder for what is not known before the export.
fn names(request: &Request, destination: &Destination) -> Result<Vec<Finding>> {
    let mut file = destination.file_key(1);
    if let Some(partitions) = &request.partitions {
        let folder = |column: &String| {
            let mut name = String::new();
            hive::escape(column, &mut name);
            format!("{name}=<value>")
        };
        let folders: Vec<String> = partitions.columns.iter().map(folder).collect();
        destination.begin_partition(1, &folders.join("/"))?;
        file = destination.file_key(1);
    }
    let pattern = |key: String| destination.url(&key).replace(&destination.export_id().to_string(), "<export_id>");
    let numbered = if destination.has_named_file() { "the only file" } else { "the first file; the numbers count up" };
    let mut names = vec![
        Finding::new("file", pattern(file), numbered),
        Finding::new("manifest", pattern(destination.manifest_key()), "written by the commit"),
    ];
    let copy = destination.manifest_copy_key();
    names.extend(copy.map(|key| Finding::new("manifest copy", pattern(key), "written by the commit")));
    let marker = destination.success_marker_key();
    names.extend(marker.map(|key| Finding::new("success marker", pattern(key), "written by the commit, last")));
    Ok(names)
}

fn existing_run(summary: &Summary, is_returned: bool) -> Finding {
    let meaning = if is_returned {
        "has the run_key: it is returned, and nothing is exported"
    } else {
        "has the run_key: it is replaced"
    };
    Finding::new("existing run", summary.export_id, meaning)
}

fn column((column, form): (Column, Option<String>)) -> Finding {
    let form = form.map_or_else(|| "in the names of folders only".to_owned(), |form| format!("written as {form}"));
    Finding::new("column", column.name, format!("{}, {form}", column.type_name))
}

fn policy(request: &Request) -> Result<Finding> {
    let meaning = format!("rights that {} needs for this export", request.permission);
    Ok(Finding::new("iam policy", integration::policy_of(request)?, meaning))
}
