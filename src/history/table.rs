//! The SQL on `s3_export.history_entries`, and what it says of the session.
//!
//! Nobody is granted the table. These statements run as the superuser; who may prune is asked before, by whoever calls.
#![forbid(unsafe_code)]

use pgrx::pg_sys;
use s3_export_core::error::{Code, Error, Result};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::pg::encoding::readable;
use crate::pg::sql::{Table, read_latest, read_often, write_latest, write_often};
use crate::pg::worker_transaction::Writable;
use crate::pg::{ActAs, current_user, role_name, session_user};

/// Who exports, and from where.
#[derive(Debug, Clone)]
pub struct Who {
    session_role: (pg_sys::Oid, String),
    role: (pg_sys::Oid, String),
    application_name: Option<String>,
    client_address: Option<String>,
    database: String,
    /// When this was read.
    at: Value,
    /// Whether there is a history: the extension may not be updated yet.
    pub has_table: bool,
}

impl Who {
    /// Reads the current user and the session.
    pub fn now() -> Result<Self> {
        let (session_role, role) = (session_user(), current_user());
        let _superuser = ActAs::superuser();
        // The database's name as the digits of its bytes: it may be no text in the database's encoding.
        let row = read_often(
            "SELECT convert_to(jsonb_build_object('has_table', to_regclass('s3_export.history_entries') IS NOT NULL,
                 'application_name', nullif(current_setting('application_name'), ''), 'client_address', host(inet_client_addr()),
                 'database', encode(replace(current_database()::text, chr(92), chr(92) || chr(92))::bytea, 'hex'),
                 'at', clock_timestamp())::text, 'UTF8')",
            &Value::Null,
        )?
        .unwrap_or_default();
        let text = |name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
        let name = |role| role_name(role).map(|name| readable(name.to_bytes())).unwrap_or_default();
        Ok(Who {
            session_role: (session_role, name(session_role)),
            role: (role, name(role)),
            application_name: text("application_name"),
            client_address: text("client_address"),
            database: readable(&bytes_of_hex(&text("database").unwrap_or_default())),
            at: row.get("at").cloned().unwrap_or_default(),
            has_table: row.get("has_table").and_then(Value::as_bool).unwrap_or(false),
        })
    }

    /// What a line of the log says of it.
    pub fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("session_role".to_owned(), json!(self.session_role.1));
        fields.insert("role".to_owned(), json!(self.role.1));
        fields.insert("application_name".to_owned(), json!(self.application_name));
        fields.insert("client_address".to_owned(), json!(self.client_address));
        fields.insert("database".to_owned(), json!(self.database));
        fields
    }
}

fn bytes_of_hex(digits: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    digits.as_bytes().chunks(2).filter_map(byte).collect()
}

/// Writes the row of an export.
const INSERT: &str = "INSERT INTO s3_export.history_entries (export_id, session_role, session_role_oid, role, role_oid,
         application_name, client_address, database, uri, integration, integration_id, aws_role, query_sha256, query, format,
         compression, documents, files, bytes, manifest_bytes, started_at, finished_at, manifest, manifest_sha256, feed, feed_run, run_key, adopted_at)
     SELECT e.export_id, pg_get_userbyid(e.session_role_oid), e.session_role_oid, pg_get_userbyid(e.role_oid), e.role_oid,
         e.application_name, inet_client_addr(), current_database(), e.uri, e.integration, e.integration_id, e.aws_role,
         e.query_sha256, e.query, e.format, e.compression, e.documents, e.files, e.bytes, e.manifest_bytes, e.started_at, clock_timestamp(), e.manifest,
         e.manifest_sha256, e.feed, e.feed_run, e.run_key,
         CASE WHEN e.is_adopted THEN clock_timestamp() END
     FROM jsonb_to_record($argument) AS e (export_id uuid, session_role_oid oid, role_oid oid,
             application_name text, uri text, integration text, integration_id uuid, aws_role text, query_sha256 text, query text,
             format text, compression text, documents bigint, files bigint, bytes bigint, manifest_bytes bigint, started_at timestamptz, manifest text,
             manifest_sha256 text, feed text, feed_run bigint, run_key text, is_adopted boolean)
     ON CONFLICT (export_id) DO NOTHING RETURNING convert_to('{}', 'UTF8')";

/// Writes a row as part of the current (sub)transaction, which the caller has found to be one that may write; `false`: the export has
/// one already. `columns`: of the export, by name.
pub fn insert(who: &Who, columns: &Map<String, Value>) -> Result<bool> {
    let _superuser = ActAs::superuser();
    // A job's settings may make every transaction READ ONLY.
    let _writable = Writable::begin();
    let mut argument = columns.clone();
    argument.extend(who.fields());
    argument.insert("started_at".to_owned(), who.at.clone());
    argument.insert("session_role_oid".to_owned(), json!(who.session_role.0.to_u32()));
    argument.insert("role_oid".to_owned(), json!(who.role.0.to_u32()));
    Ok(write_often(Table::History, INSERT, &Value::Object(argument))?.is_some())
}

/// Returns the bytes that exports with the integration have written within the last 24 hours, as far as they have committed or are
/// this transaction's own.
pub fn bytes_of_last_day(integration_id: Uuid) -> Result<u64> {
    let _superuser = ActAs::superuser();
    // The statement's time, which is no later, for the index.
    let sum = read_latest(
        "SELECT convert_to(to_jsonb(least(coalesce(sum(h.bytes::numeric + h.manifest_bytes), 0), 9223372036854775807)::bigint)::text, 'UTF8')
         FROM s3_export.history_entries AS h
         WHERE h.integration_id = ($argument ->> 'integration_id')::uuid
               AND h.finished_at > statement_timestamp() - interval '24 hours'
               AND h.finished_at > clock_timestamp() - interval '24 hours'",
        &json!({ "integration_id": integration_id.to_string() }),
    )?;
    sum.and_then(|sum| sum.as_u64()).ok_or_else(|| Error::new(Code::Internal, "the history has no sum"))
}

/// Deletes rows of exports that ended so many seconds ago; gives how many.
pub fn prune(seconds: f64) -> Result<u64> {
    let _superuser = ActAs::superuser();
    let count = write_latest(
        Table::History,
        "WITH pruned AS (
             DELETE FROM s3_export.history_entries AS h
             WHERE extract(epoch FROM clock_timestamp() - h.finished_at) >= ($argument ->> 'seconds')::float8
             RETURNING 1)
         SELECT convert_to(to_jsonb(count(*))::text, 'UTF8') FROM pruned",
        &json!({ "seconds": seconds }),
    )?;
    Ok(count.and_then(|count| count.as_u64()).unwrap_or(0))
}
