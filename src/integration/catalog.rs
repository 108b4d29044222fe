//! The SQL that reads and writes `s3_export.integrations` and `s3_export.credentials`.
//!
//! Rows of `integrations` are read and written **as the caller**: GRANTs and row-level security decide by themselves.
//! Only the statements on `credentials` run as the superuser, with nothing from outside but a row's id or a key's; and the one that
//! gives rows back to a renamed role, which no policy lets their owner see.

use pgrx::pg_sys;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::integration::seal::Sealed;
use s3_export_core::integration::settings::{COLUMNS, CredentialSource, LATER_COLUMNS, LaterColumn, Settings};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::pg::ActAs;
use crate::pg::sql::{Table, read, read_latest, write};

/// An integration that the caller sees. Errors: XX000 for a row that has other columns than [`COLUMNS`].
pub fn visible_integration(name: &str) -> Result<Option<Settings>> {
    const SUPERUSER_OWNS: &str =
        "EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = i.owner_oid AND r.rolname = i.owner AND r.rolsuper)";
    let member = |column: &&str| match *column {
        "superuser_owns" => format!("'superuser_owns', {SUPERUSER_OWNS}"),
        // Without the table's name it is the column of `missing` where the table has none.
        column if LATER_COLUMNS.iter().any(|later| later.name == column) => format!("'{column}', {column}"),
        column => format!("'{column}', i.{column}"),
    };
    let members: Vec<String> = COLUMNS.iter().map(member).collect();
    let missing: Vec<String> =
        LATER_COLUMNS.iter().map(|later| format!("{}::{} AS {}", later.lacking, later.kind, later.name)).collect();
    let statement = format!(
        "SELECT convert_to(found.members::text, 'UTF8') FROM (SELECT {}) AS missing,
             LATERAL (SELECT jsonb_build_object({}) AS members FROM s3_export.integrations AS i
                      WHERE i.name = ($argument ->> 'name')) AS found",
        missing.join(", "),
        members.join(", ")
    );
    // What was revoked since the transaction began is revoked.
    read_latest(&statement, &json!({ "name": name }))?.map(Settings::from_row).transpose()
}

/// The external id of an integration that the caller owns. The inner `None`: the integration has none.
pub fn external_id(name: &str) -> Result<Option<Option<String>>> {
    let row = read(
        "SELECT convert_to(jsonb_build_object('aws_external_id', i.aws_external_id)::text, 'UTF8')
         FROM s3_export.owned_identifiers AS i WHERE i.name = ($argument ->> 'name')",
        &json!({ "name": name }),
    )?;
    Ok(row.map(|row| text(&row, "aws_external_id")))
}

/// Columns of an integration that members do not see.
pub struct HiddenHalf {
    pub access_key_id: Option<String>,
    pub aws_external_id: Option<String>,
    pub sealed: Option<Sealed>,
}

/// Returns the hidden half of an integration that the caller was found to see.
pub fn hidden_half(integration_id: Uuid) -> Result<Option<HiddenHalf>> {
    let row = {
        let _superuser = ActAs::superuser();
        read_latest(
            "SELECT convert_to(jsonb_build_object('access_key_id', i.access_key_id, 'aws_external_id', i.aws_external_id,
                 'key_id', c.key_id, 'sealed', encode(c.sealed, 'hex'))::text, 'UTF8')
             FROM s3_export.integrations AS i LEFT JOIN s3_export.credentials AS c USING (integration_id)
             WHERE i.integration_id = ($argument ->> 'integration_id')::uuid",
            &json!({ "integration_id": integration_id.to_string() }),
        )?
    };
    Ok(row.map(|row| HiddenHalf {
        access_key_id: text(&row, "access_key_id"),
        aws_external_id: text(&row, "aws_external_id"),
        sealed: sealed(&row),
    }))
}

/// Sealed credentials and their place.
pub struct SealedRow {
    pub integration_id: Uuid,
    pub name: String,
    pub endpoint: Option<String>,
    pub sts_endpoint: Option<String>,
    pub sealed: Sealed,
}

/// All that are sealed with another key than `key_id`, locked until the end of the transaction.
pub fn credentials_of_other_keys(key_id: &str) -> Result<Vec<SealedRow>> {
    let _superuser = ActAs::superuser();
    let rows = write(
        Table::Credentials,
        "SELECT convert_to(coalesce(jsonb_agg(r), '[]')::text, 'UTF8') FROM (
             SELECT i.integration_id, i.name, i.endpoint, i.sts_endpoint, c.key_id, encode(c.sealed, 'hex') AS sealed
             FROM s3_export.integrations AS i JOIN s3_export.credentials AS c USING (integration_id)
             WHERE c.key_id <> ($argument ->> 'key_id') ORDER BY i.name FOR UPDATE) AS r",
        &json!({ "key_id": key_id }),
    )?;
    let row = |row: &Value| {
        let integration_id = text(row, "integration_id").and_then(|id| Uuid::parse_str(&id).ok())?;
        Some(SealedRow {
            integration_id,
            name: text(row, "name")?,
            endpoint: text(row, "endpoint"),
            sts_endpoint: text(row, "sts_endpoint"),
            sealed: sealed(row)?,
        })
    };
    Ok(rows.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default().iter().filter_map(row).collect())
}

fn text(row: &Value, column: &str) -> Option<String> {
    row.get(column).and_then(Value::as_str).map(str::to_owned)
}

fn sealed(row: &Value) -> Option<Sealed> {
    Some(Sealed { key_id: text(row, "key_id")?, blob: decode_hex(&text(row, "sealed")?)? })
}

/// Inserts a row; `false`: the name is taken. `columns` has a member for each column that is given a value. Errors: 42703 for one of
/// [`LATER_COLUMNS`] in a database that lacks it.
pub fn insert_integration(columns: &Value) -> Result<bool> {
    // Those that the catalog of an earlier release lacks are named only where they are given.
    let given = LATER_COLUMNS.iter().filter(|later| columns.get(later.name).is_some_and(|value| !value.is_null()));
    let [names, values, types] = given.fold([const { String::new() }; 3], |[names, values, types], later| {
        let LaterColumn { name, kind, .. } = later;
        [format!("{names}, {name}"), format!("{values}, r.{name}"), format!("{types}, {name} {kind}")]
    });
    let statement = format!(
        "INSERT INTO s3_export.integrations (integration_id, name, usage_role, enabled, credential_source, access_key_id, aws_profile,
             aws_role, aws_external_id, sts_endpoint, region, endpoint, path_style, allowed_locations, expected_bucket_owner, sse,
             kms_key_id, storage_class, object_acl, checksum{names})
         SELECT r.integration_id, r.name, coalesce(r.usage_role, current_user), coalesce(r.enabled, true), r.credential_source,
             r.access_key_id, r.aws_profile, r.aws_role, r.aws_external_id, r.sts_endpoint, r.region, r.endpoint,
             coalesce(r.path_style, false), r.allowed_locations, r.expected_bucket_owner, r.sse, r.kms_key_id, r.storage_class,
             r.object_acl, coalesce(r.checksum, 'crc32'){values}
         FROM jsonb_to_record($argument) AS r(integration_id uuid, name text, usage_role name, enabled boolean,
             credential_source text, access_key_id text, aws_profile text, aws_role text, aws_external_id text, sts_endpoint text,
             region text, endpoint text, path_style boolean, allowed_locations text[], expected_bucket_owner text, sse text,
             kms_key_id text, storage_class text, object_acl text, checksum text{types})
         ON CONFLICT DO NOTHING
         RETURNING convert_to(jsonb_build_object('integration_id', integration_id)::text, 'UTF8')"
    );
    Ok(write(Table::Integrations, &statement, columns)?.is_some())
}

/// Whether the caller may name roles inline, by the privilege of the function that takes them as arguments.
pub fn may_name_roles() -> Result<bool> {
    let may = read(
        "SELECT convert_to(to_jsonb(has_function_privilege('pg_catalog.s3_export_with_role(text, text, text, text, text, text, int,
             bigint, text[], boolean, boolean, jsonb)', 'EXECUTE'))::text, 'UTF8') WHERE $argument IS NOT NULL",
        &json!({}),
    )?;
    Ok(may.and_then(|may| may.as_bool()).unwrap_or(false))
}

/// Whether a role of this name exists.
pub fn role_exists(name: &str) -> Result<bool> {
    let found = read(
        "SELECT convert_to('{}', 'UTF8') FROM pg_roles AS r WHERE r.rolname = ($argument ->> 'name')::name",
        &json!({ "name": name }),
    )?;
    Ok(found.is_some())
}

/// Sets the public half of the credentials, where the integration has keys of its own. Returns the row's id, source of credentials and
/// endpoints; `None` when the caller may not change the integration.
pub fn update_access_key(name: &str, access_key_id: &str) -> Result<Option<PlaceRow>> {
    let row = write(
        Table::Integrations,
        "UPDATE s3_export.integrations AS i
         SET access_key_id = CASE WHEN i.credential_source = 'keys' THEN ($argument ->> 'access_key_id') END
         WHERE i.name = ($argument ->> 'name')
         RETURNING convert_to(jsonb_build_object('integration_id', i.integration_id, 'credential_source', i.credential_source,
                                                 'endpoint', i.endpoint, 'sts_endpoint', i.sts_endpoint)::text, 'UTF8')",
        &json!({ "name": name, "access_key_id": access_key_id }),
    )?;
    let unexpected = |error| Error::new(Code::Internal, "an integration has unexpected columns").detail(format!("{error}."));
    row.map(|row| serde_json::from_value(row).map_err(unexpected)).transpose()
}

/// Columns that say where the credentials of an integration belong.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceRow {
    pub integration_id: Uuid,
    pub credential_source: CredentialSource,
    pub endpoint: Option<String>,
    pub sts_endpoint: Option<String>,
}

/// Writes the new name of the owner of rows whose owner was renamed, where `caller` has the owner's privileges and no role has the
/// old name; gives how many. Rows whose owner was resolved in another cluster stay as they are: their OIDs are somebody else's here.
pub fn reclaim(caller: pg_sys::Oid) -> Result<u64> {
    let _superuser = ActAs::superuser();
    let count = write(
        Table::Integrations,
        "WITH reclaimed AS (
             UPDATE s3_export.integrations AS i SET owner = r.rolname
             FROM pg_roles AS r, pg_control_system() AS s
             WHERE r.oid = i.owner_oid AND s.system_identifier = i.owner_cluster AND r.rolname <> i.owner
                   AND pg_has_role(($argument ->> 'caller')::oid, r.oid, 'USAGE')
                   AND NOT EXISTS (SELECT FROM pg_roles AS o WHERE o.rolname = i.owner)
             RETURNING 1)
         SELECT convert_to(to_jsonb(count(*))::text, 'UTF8') FROM reclaimed",
        &json!({ "caller": caller.to_u32() }),
    )?;
    Ok(count.and_then(|count| count.as_u64()).unwrap_or(0))
}

/// Stores a sealed secret for a row that the caller has just written.
pub fn store_credentials(integration_id: Uuid, sealed: &Sealed) -> Result<()> {
    let hex: String = sealed.blob.iter().map(|byte| format!("{byte:02x}")).collect();
    let _superuser = ActAs::superuser();
    write(
        Table::Credentials,
        "INSERT INTO s3_export.credentials AS c (integration_id, key_id, sealed)
         VALUES (($argument ->> 'integration_id')::uuid, $argument ->> 'key_id', decode($argument ->> 'sealed', 'hex'))
         ON CONFLICT (integration_id) DO UPDATE SET key_id = EXCLUDED.key_id, sealed = EXCLUDED.sealed, updated_at = now()
         RETURNING convert_to(jsonb_build_object('integration_id', c.integration_id)::text, 'UTF8')",
        &json!({ "integration_id": integration_id.to_string(), "key_id": sealed.key_id, "sealed": hex }),
    )?;
    Ok(())
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
