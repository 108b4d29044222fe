//! The SQL functions: arguments in, requests out. `sql/catalog.sql` declares them, in the order of arguments used here.

use pgrx::pg_sys::Datum;

use crate::error::Result;
use crate::export;
use crate::integration::{self, NewIntegration};
use crate::pg::call::{Call, int8_datum, text_datum, uuid_datum};
use crate::request::{Arguments, Request};
use crate::secret::Secret;
use crate::sql_function;

sql_function!(s3_export_run, pg_finfo_s3_export_run, run);
sql_function!(s3_export_create_integration, pg_finfo_s3_export_create_integration, create_integration);
sql_function!(s3_export_set_credentials, pg_finfo_s3_export_set_credentials, set_credentials);

/// `s3_export(uri, integration, query, …)`
fn run(call: &Call) -> Result<Datum> {
    let request = Request::from_arguments(Arguments {
        uri: call.text(0),
        integration: call.text(1),
        query: call.text(2),
        format: call.text(3),
        compression: call.text(4),
        output_chunk_size: call.int4(5),
        output_chunk_bytes: call.int8(6),
        partition_by: call.has_value(7),
        include_query_id: call.boolean(8),
        wrap_types: call.boolean(9),
        options: call.json(10),
    })?;
    let outcome = export::run(&request)?;
    Ok(call.row(vec![
        int8_datum(outcome.totals.documents),
        int8_datum(outcome.totals.files),
        int8_datum(outcome.totals.bytes),
        uuid_datum(outcome.export_id),
        text_datum(&outcome.manifest)?,
    ]))
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
