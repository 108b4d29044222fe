//! The SQL functions: arguments in, requests out. `sql/catalog.sql` declares them, in the order of arguments used here.

use pgrx::pg_sys::Datum;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::naming::uri::Location;
use s3_export_core::request::options::OPTIONS;
use s3_export_core::request::statement;
use s3_export_core::request::{Arguments, PermissionArguments, Request, Statement, required};
use s3_export_core::secret::Secret;
use uuid::Uuid;

use crate::admin::cleanup::{self, CleanUp};
use crate::admin::validate;
use crate::dry_run;
use crate::export;
use crate::feed::{self, NewFeed};
use crate::history;
use crate::integration::{self, Kind, NewIntegration};
use crate::job;
use crate::pg::call::{Call, int8_datum, text_datum, uuid_datum};
use crate::pg::raised::raise_at;
use crate::pg::{backslashes_escape, characters};
use crate::progress;
use crate::sql_function;
use crate::verify::Verification;

sql_function!(s3_export_run, pg_finfo_s3_export_run, run);
sql_function!(s3_export_run_with_role, pg_finfo_s3_export_run_with_role, run_with_role);
sql_function!(s3_export_run_async, pg_finfo_s3_export_run_async, run_async);
sql_function!(s3_export_run_statement, pg_finfo_s3_export_run_statement, run_statement);
sql_function!(s3_export_run_statement_async, pg_finfo_s3_export_run_statement_async, run_statement_async);
sql_function!(s3_export_dry_run, pg_finfo_s3_export_dry_run, dry_run_arguments);
sql_function!(s3_export_dry_run_statement, pg_finfo_s3_export_dry_run_statement, dry_run_statement);
sql_function!(s3_export_options, pg_finfo_s3_export_options, options);
sql_function!(s3_export_cancel, pg_finfo_s3_export_cancel, cancel);
sql_function!(s3_export_death, pg_finfo_s3_export_death, lost_worker);
sql_function!(s3_export_prune, pg_finfo_s3_export_prune, prune);
sql_function!(s3_export_keep_history, pg_finfo_s3_export_keep_history, keep_history);
sql_function!(s3_export_prune_history, pg_finfo_s3_export_prune_history, prune_history);
sql_function!(s3_export_running, pg_finfo_s3_export_running, running);
sql_function!(s3_export_wait, pg_finfo_s3_export_wait, wait);
sql_function!(s3_export_cleanup, pg_finfo_s3_export_cleanup, clean_up);
sql_function!(s3_export_create_integration, pg_finfo_s3_export_create_integration, create_integration);
sql_function!(s3_export_iam_policy, pg_finfo_s3_export_iam_policy, iam_policy);
sql_function!(s3_export_reclaim_integrations, pg_finfo_s3_export_reclaim_integrations, reclaim_integrations);
sql_function!(s3_export_reseal, pg_finfo_s3_export_reseal, reseal);
sql_function!(s3_export_set_credentials, pg_finfo_s3_export_set_credentials, set_credentials);
sql_function!(s3_export_set_credentials_from_file, pg_finfo_s3_export_set_credentials_from_file, set_credentials_from_file);
sql_function!(s3_export_create_feed, pg_finfo_s3_export_create_feed, create_feed);
sql_function!(s3_export_alter_feed, pg_finfo_s3_export_alter_feed, alter_feed);
sql_function!(s3_export_drop_feed, pg_finfo_s3_export_drop_feed, drop_feed);
sql_function!(s3_export_rewind_feed, pg_finfo_s3_export_rewind_feed, rewind_feed);
sql_function!(s3_export_run_feed, pg_finfo_s3_export_run_feed, run_feed);
sql_function!(s3_export_run_feed_async, pg_finfo_s3_export_run_feed_async, run_feed_async);
sql_function!(s3_export_feed_setup, pg_finfo_s3_export_feed_setup, feed_setup);
sql_function!(s3_export_trust_policy, pg_finfo_s3_export_trust_policy, trust_policy);
sql_function!(s3_export_validate_integration, pg_finfo_s3_export_validate_integration, validate_integration);
sql_function!(s3_export_verify, pg_finfo_s3_export_verify, verify);
sql_function!(s3_export_verify_async, pg_finfo_s3_export_verify_async, verify_async);

/// `s3_export(uri, integration, query, …)`
fn run(call: &Call) -> Result<Datum> {
    export(call, PermissionArguments::Integration(call.text(1)), 2)
}

/// `s3_export_with_role(uri, aws_role, aws_external_id, query, …)`
fn run_with_role(call: &Call) -> Result<Datum> {
    export(call, PermissionArguments::Role { aws_role: call.text(1), aws_external_id: call.text(2) }, 3)
}

/// `s3_export_async(uri, integration, query, …)`
fn run_async(call: &Call) -> Result<Datum> {
    let arguments = arguments(call, PermissionArguments::Integration(call.text(1)), 2)?;
    let request = Request::from_arguments(arguments.clone())?;
    Ok(uuid_datum(job::enqueue(&arguments, &request)?))
}

/// `s3_export(statement)`
fn run_statement(call: &Call) -> Result<Datum> {
    history::watched(|| outcome(call, &pasted(call)?.1))
}

/// `s3_export_async(statement)`
fn run_statement_async(call: &Call) -> Result<Datum> {
    let (arguments, request) = pasted(call)?;
    Ok(uuid_datum(job::enqueue(&arguments, &request)?))
}

/// `s3_export.dry_run(uri, integration, query, …)`
fn dry_run_arguments(call: &Call) -> Result<Datum> {
    dry_run(call, &Request::from_arguments(arguments(call, PermissionArguments::Integration(call.text(1)), 2)?)?)
}

/// `s3_export.dry_run(statement)`
fn dry_run_statement(call: &Call) -> Result<Datum> {
    let (_, request) = pasted(call)?;
    dry_run(call, &request)
}

fn dry_run(call: &Call, request: &Request) -> Result<Datum> {
    let findings = dry_run::run(request)?;
    let mut rows = Vec::with_capacity(findings.len());
    for finding in &findings {
        rows.push(vec![
            Some(text_datum(finding.item)?),
            Some(text_datum(&finding.value)?),
            Some(text_datum(&finding.meaning)?),
        ]);
    }
    call.rows(rows)
}

/// A statement's request. Raises a syntax error that points into it.
fn pasted(call: &Call) -> Result<(Arguments, Request)> {
    let text = required("statement", call.text(0))?;
    let statement = match statement::parse(&text, backslashes_escape()) {
        Ok(statement) => statement,
        Err(error) => {
            let index = characters(text.get(..error.at).unwrap_or_default());
            let wrong = Error::new(Code::Syntax, error.message);
            let wrong = error.hint.map_or(wrong.clone(), |hint| wrong.hint(hint));
            raise_at(&wrong, &text, index)?;
            return Err(wrong);
        }
    };
    if matches!(statement.arguments.permission, PermissionArguments::Role { .. }) {
        integration::check_inline_privilege()?;
    }
    let before = characters(text.get(..statement.query.start).unwrap_or_default());
    let request = Request::from_arguments(statement.arguments.clone())?;
    Ok((statement.arguments, Request { statement: Some(Statement { text, before }), ..request }))
}

/// All forms, whose arguments are the same from `query`, at this position, on.
fn arguments(call: &Call, permission: PermissionArguments, query: usize) -> Result<Arguments> {
    Ok(Arguments { uri: call.text(0), permission, query: call.text(query), ..other_arguments(call, query + 1)? })
}

/// The arguments from `format`, at this position, on.
fn other_arguments(call: &Call, format: usize) -> Result<Arguments> {
    Ok(Arguments {
        uri: None,
        permission: PermissionArguments::Integration(None),
        query: None,
        format: call.text(format),
        compression: call.text(format + 1),
        output_chunk_size: call.int4(format + 2),
        output_chunk_bytes: call.int8(format + 3),
        partition_by: call.texts(format + 4)?,
        include_query_id: call.boolean(format + 5),
        wrap_types: call.boolean(format + 6),
        options: call.json(format + 7),
    })
}

fn export(call: &Call, permission: PermissionArguments, query: usize) -> Result<Datum> {
    history::watched(|| outcome(call, &Request::from_arguments(arguments(call, permission, query)?)?))
}

fn outcome(call: &Call, request: &Request) -> Result<Datum> {
    if request.retries.is_some() {
        return Err(Error::new(Code::InvalidParameter, "option \"retries\" goes with s3_export_async and feeds only")
            .hint("A session sees the error of its export, and can call s3_export again."));
    }
    let outcome = export::run(request, Uuid::now_v7())?;
    Ok(call.row(vec![
        int8_datum(outcome.totals.documents),
        int8_datum(outcome.totals.files),
        int8_datum(outcome.totals.bytes),
        uuid_datum(outcome.export_id),
        text_datum(&outcome.manifest)?,
    ]))
}

/// `s3_export.create_feed(name, uri, integration, query, mark, mark_column, start, lag, wait, manifest_when_empty, format, …)`
fn create_feed(call: &Call) -> Result<Datum> {
    feed::create(NewFeed {
        name: call.text(0),
        mark: call.text(4),
        mark_column: call.text(5),
        start: call.text(6),
        lag: call.interval(7)?,
        wait: call.interval(8)?,
        manifest_when_empty: call.boolean(9),
        export: Arguments {
            uri: call.text(1),
            permission: PermissionArguments::Integration(call.text(2)),
            query: call.text(3),
            ..other_arguments(call, 10)?
        },
    })?;
    Ok(Datum::null())
}

/// `s3_export.alter_feed(name, changes)`
fn alter_feed(call: &Call) -> Result<Datum> {
    feed::alter(&required("name", call.text(0))?, &required("changes", call.json(1))?)?;
    Ok(Datum::null())
}

/// `s3_export.drop_feed(name)`
fn drop_feed(call: &Call) -> Result<Datum> {
    feed::drop_feed(&required("name", call.text(0))?)?;
    Ok(Datum::null())
}

/// `s3_export.rewind_feed(name, to, next_run)`
fn rewind_feed(call: &Call) -> Result<Datum> {
    feed::rewind(&required("name", call.text(0))?, &required("to", call.text(1))?, call.int8(2))?;
    Ok(Datum::null())
}

/// `s3_export.run_feed(name)`
fn run_feed(call: &Call) -> Result<Datum> {
    let outcome = history::watched(|| feed::run(&required("name", call.text(0))?, Uuid::now_v7()))?;
    let (export_id, manifest) = outcome.written.unzip();
    Ok(call.row_with_nulls(vec![
        Some(int8_datum(outcome.totals.documents)),
        Some(int8_datum(outcome.totals.files)),
        Some(int8_datum(outcome.totals.bytes)),
        export_id.map(uuid_datum),
        manifest.map(|manifest| text_datum(&manifest)).transpose()?,
        Some(int8_datum(outcome.run)),
        Some(text_datum(&outcome.from)?),
        Some(text_datum(&outcome.to)?),
    ]))
}

/// `s3_export.run_feed_async(name)`
fn run_feed_async(call: &Call) -> Result<Datum> {
    Ok(uuid_datum(job::enqueue_feed(&required("name", call.text(0))?)?))
}

/// `s3_export.feed_setup(mark_column, mark)`
fn feed_setup(call: &Call) -> Result<Datum> {
    let statements = feed::setup_statements(&required("mark_column", call.text(0))?, &required("mark", call.text(1))?)?;
    text_datum(&statements)
}

/// `s3_export.wait(export_id, timeout)`
fn wait(call: &Call) -> Result<Datum> {
    job::wait(required("export_id", call.uuid(0))?, call.interval(1)?)
}

/// `s3_export.cancel(export_id)`
fn cancel(call: &Call) -> Result<Datum> {
    Ok(Datum::from(job::cancel(required("export_id", call.uuid(0))?)?))
}

/// `s3_export.prune(older_than)`
fn prune(call: &Call) -> Result<Datum> {
    Ok(int8_datum(job::prune(required("older_than", call.interval(0)?)?)?))
}

/// `s3_export.keep_history()`, a trigger for statements, whose result is not looked at. In C, since each export runs it, often in a
/// session of its own, which would load PL/pgSQL for nothing else.
fn keep_history(_call: &Call) -> Result<Datum> {
    history::refuse_writers()?;
    Ok(Datum::null())
}

/// `s3_export.prune_history(older_than)`
fn prune_history(call: &Call) -> Result<Datum> {
    Ok(int8_datum(history::prune(required("older_than", call.interval(0)?)?)?))
}

/// `s3_export.lost_worker(export_id)`
fn lost_worker(call: &Call) -> Result<Datum> {
    match job::lost_worker(required("export_id", call.uuid(0))?)? {
        Some(cause) => text_datum(cause),
        None => Ok(call.null()),
    }
}

/// `s3_export.options()`
fn options(call: &Call) -> Result<Datum> {
    let mut rows = Vec::with_capacity(OPTIONS.len());
    for option in OPTIONS {
        rows.push(vec![
            Some(text_datum(option.name)?),
            Some(text_datum(&option.default.replace('`', ""))?),
            Some(text_datum(option.takes)?),
            Some(text_datum(&option.does.replace('`', ""))?),
        ]);
    }
    call.rows(rows)
}

/// `s3_export.running()`
fn running(call: &Call) -> Result<Datum> {
    let mut rows = Vec::new();
    for export in progress::running()? {
        if job::may_see(export.role) {
            rows.push(vec![
                Some(uuid_datum(export.export_id)),
                Some(Datum::from(export.role)),
                Some(Datum::from(export.pid)),
                Some(int8_datum(export.documents)),
                Some(int8_datum(export.files)),
                Some(int8_datum(export.bytes)),
            ]);
        }
    }
    call.rows(rows)
}

/// `s3_export.create_integration(name, …)`
fn create_integration(call: &Call) -> Result<Datum> {
    let id = integration::create(NewIntegration {
        name: call.text(0),
        access_key_id: call.text(1),
        secret_access_key: call.text(2).map(Secret::new),
        session_token: call.text(3).map(Secret::new),
        aws_role: call.text(4),
        aws_external_id: call.text(5),
        credential_source: call.text(6),
        region: call.text(7),
        endpoint: call.text(8),
        path_style: call.boolean(9),
        allowed_locations: call.texts(10)?,
        usage_role: call.name(11),
        options: call.json(12),
    })?;
    Ok(uuid_datum(id))
}

/// `s3_export.set_credentials(name, access_key_id, secret_access_key, session_token)`
fn set_credentials(call: &Call) -> Result<Datum> {
    let secret = |position| call.text(position).map(Secret::new);
    integration::set_credentials(call.text(0), call.text(1), secret(2), secret(3))?;
    Ok(Datum::null())
}

/// `s3_export.set_credentials_from_file(name, path)`
fn set_credentials_from_file(call: &Call) -> Result<Datum> {
    integration::set_credentials_from_file(call.text(0), call.text(1))?;
    Ok(Datum::null())
}

/// `s3_export.reclaim_integrations()`
fn reclaim_integrations(_call: &Call) -> Result<Datum> {
    Ok(int8_datum(integration::reclaim()?))
}

/// `s3_export.reseal()`
fn reseal(_call: &Call) -> Result<Datum> {
    Ok(int8_datum(integration::reseal()?))
}

/// `s3_export.validate_integration(name, uri)`
fn validate_integration(call: &Call) -> Result<Datum> {
    let findings = validate::run(required("name", call.text(0))?, call.text(1).as_deref())?;
    let mut rows = Vec::with_capacity(findings.len());
    for finding in &findings {
        rows.push(vec![
            Some(text_datum(finding.step)?),
            finding.ok.map(Datum::from),
            Some(text_datum(&finding.detail)?),
            Some(text_datum(&finding.meaning)?),
        ]);
    }
    call.rows(rows)
}

/// `s3_export.cleanup(uri, integration, older_than, dry_run, force)`
fn clean_up(call: &Call) -> Result<Datum> {
    let findings = cleanup::run(&CleanUp {
        location: Location::parse(&required("uri", call.text(0))?)?,
        integration: required("integration", call.text(1))?,
        older_than: required("older_than", call.interval(2)?)?,
        dry_run: required("dry_run", call.boolean(3))?,
        force: required("force", call.boolean(4))?,
    })?;
    let mut rows = Vec::with_capacity(findings.len());
    for finding in &findings {
        rows.push(vec![
            Some(text_datum(finding.kind)?),
            Some(text_datum(&finding.object)?),
            Some(uuid_datum(finding.export_id)),
            finding.bytes.map(int8_datum),
            Some(Datum::from(finding.deleted)),
        ]);
    }
    call.rows(rows)
}

/// `s3_export.verify(manifest, integration, deep)`
fn verify(call: &Call) -> Result<Datum> {
    let verification = verification(call)?;
    let mut rows = call.row_store()?;
    verification.run(None, |finding| {
        rows.put(|| {
            let problem = finding.problem.as_ref();
            Ok(vec![
                Some(text_datum(&finding.url)?),
                Some(Datum::from(problem.is_none())),
                problem.map(|(problem, _)| text_datum(problem.name())).transpose()?,
                problem.map(|(_, sentence)| text_datum(sentence)).transpose()?,
                finding.bytes.map(int8_datum),
                finding.checked.name().map(text_datum).transpose()?,
            ])
        })
    })?;
    Ok(Datum::null())
}

/// `s3_export.verify_async(manifest, integration, deep)`
fn verify_async(call: &Call) -> Result<Datum> {
    Ok(uuid_datum(job::enqueue_verification(&verification(call)?)?))
}

fn verification(call: &Call) -> Result<Verification> {
    Ok(Verification {
        manifest: required("manifest", call.text(0))?,
        integration: required("integration", call.text(1))?,
        deep: required("deep", call.boolean(2))?,
    })
}

/// `s3_export.iam_policy(name, kind)`
fn iam_policy(call: &Call) -> Result<Datum> {
    let kind = Kind::parse(&required("kind", call.text(1))?)?;
    text_datum(&integration::iam_policy(&required("name", call.text(0))?, kind)?)
}

/// `s3_export.trust_policy(name, principal)`
fn trust_policy(call: &Call) -> Result<Datum> {
    text_datum(&validate::trust_policy(&required("name", call.text(0))?, call.text(1))?)
}
