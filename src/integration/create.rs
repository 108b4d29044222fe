//! Making an integration, and storing its credentials.
//!
//! The row is written as the caller; row-level security says whether he may. The secret is sealed before anything is
//! written, so that a missing key file costs nothing.
#![forbid(unsafe_code)]

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::seal::{Credentials, Place, seal};
use super::{Row, catalog, key_ring, unknown};
use crate::error::{Code, Error, Result};
use crate::pg::{is_superuser, refuse_if_read_only};
use crate::request::{json_object, required, unknown_key};
use crate::secret::Secret;
use crate::uri::Allowed;

/// Columns that `options` may set.
const OPTIONS: [&str; 7] = ["checksum", "enabled", "expected_bucket_owner", "kms_key_id", "object_acl", "sse", "storage_class"];

/// Columns of the contract that this release does not act on yet.
const PLANNED_OPTIONS: [&str; 2] = ["aws_profile", "sts_endpoint"];

/// The arguments of `s3_export.create_integration`: `None` is NULL.
#[derive(Debug, Default)]
pub struct NewIntegration {
    /// Its name.
    pub name: Option<String>,
    /// Public half of the credentials.
    pub access_key_id: Option<String>,
    /// Secret half.
    pub secret_access_key: Option<Secret>,
    /// Of temporary credentials.
    pub session_token: Option<Secret>,
    /// Not built yet.
    pub aws_role: Option<String>,
    /// Not built yet.
    pub aws_external_id: Option<String>,
    /// `keys`
    pub credential_source: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// Another server than Amazon's.
    pub endpoint: Option<String>,
    /// The bucket in the path instead of the host name.
    pub path_style: Option<bool>,
    /// Where it may write.
    pub allowed_locations: Option<Vec<String>>,
    /// The role whose members may use it.
    pub usage_role: Option<String>,
    /// Further columns, a JSON object.
    pub options: Option<String>,
}

/// Makes an integration; gives its id. Errors: 22004, 22023, 0A000 for arguments; 42501 when the role may not; 42710 when
/// the name is taken; 55000 without a key file.
pub fn create(new: NewIntegration) -> Result<Uuid> {
    refuse_if_read_only(c"s3_export.create_integration()");
    let name = required("name", new.name)?;
    check_source(new.credential_source.as_deref(), new.aws_role.is_some() || new.aws_external_id.is_some())?;
    let locations = required("allowed_locations", new.allowed_locations)
        .map_err(|error| error.hint("Name the buckets or prefixes it may write to; {s3://} means anywhere."))?;
    check_locations(&locations)?;
    check_endpoint(new.endpoint.as_deref())?;
    let access_key_id = required("access_key_id", new.access_key_id)?;
    let secret_access_key = required("secret_access_key", new.secret_access_key)?;

    let integration_id = Uuid::new_v4();
    let place = Place { integration_id, endpoint: new.endpoint.as_deref() };
    let credentials = Credentials { secret_access_key, session_token: new.session_token };
    let sealed = seal(&credentials, place, &key_ring()?)?;

    let mut columns = options(&required("options", new.options)?)?;
    columns.extend(members(json!({
        "integration_id": integration_id.to_string(),
        "name": name,
        "access_key_id": access_key_id,
        "region": new.region,
        "endpoint": new.endpoint,
        "path_style": new.path_style,
        "allowed_locations": locations,
        "usage_role": new.usage_role,
    })));
    if !catalog::insert_integration(&Value::Object(columns))? {
        return Err(Error::new(Code::Duplicate, format!("integration \"{name}\" already exists")));
    }
    catalog::store_credentials(integration_id, &sealed)?;
    Ok(integration_id)
}

/// Stores other credentials in an integration that the current user may change. Errors: 22004, 42704, 55000.
pub fn set_credentials(
    name: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<Secret>,
    session_token: Option<Secret>,
) -> Result<()> {
    refuse_if_read_only(c"s3_export.set_credentials()");
    let name = required("name", name)?;
    let access_key_id = required("access_key_id", access_key_id)?;
    let secret_access_key = required("secret_access_key", secret_access_key)?;
    let ring = key_ring()?;
    let row = Row::new(catalog::update_access_key(&name, &access_key_id)?.ok_or_else(|| unknown(&name))?);
    let place = Place { integration_id: row.id()?, endpoint: row.text("endpoint") };
    let sealed = seal(&Credentials { secret_access_key, session_token }, place, &ring)?;
    catalog::store_credentials(place.integration_id, &sealed)
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn check_source(source: Option<&str>, has_role: bool) -> Result<()> {
    match source {
        None => Err(Error::new(Code::Null, "credential_source must not be null")),
        Some("keys") if has_role => Err(Error::new(Code::Unsupported, "aws_role and aws_external_id are not supported yet")),
        Some("keys") => Ok(()),
        Some(planned @ ("ambient" | "profile")) => {
            Err(Error::new(Code::Unsupported, format!("credential_source \"{planned}\" is not supported yet")))
        }
        Some(other) => Err(unknown_key("credential_source", other, &["keys"])),
    }
}

fn check_locations(locations: &[String]) -> Result<()> {
    if locations.is_empty() {
        return Err(Error::new(Code::InvalidParameter, "allowed_locations must not be empty")
            .hint("Name the buckets or prefixes it may write to; {s3://} means anywhere."));
    }
    locations.iter().try_for_each(|entry| Allowed::parse(entry).map(|_| ()))
}

/// The table's policies say the same; here it is said in words.
fn check_endpoint(endpoint: Option<&str>) -> Result<()> {
    let Some(endpoint) = endpoint else { return Ok(()) };
    if endpoint.starts_with("https://") {
        Ok(())
    } else if !endpoint.starts_with("http://") {
        Err(Error::new(Code::InvalidParameter, format!("invalid endpoint \"{endpoint}\""))
            .hint("Write it as https://host or https://host:port."))
    } else if is_superuser() {
        Ok(())
    } else {
        Err(Error::new(Code::Privilege, "only a superuser may make an integration with a plain-http endpoint")
            .detail("Documents and signatures would cross the network unencrypted."))
    }
}

fn options(text: &str) -> Result<Map<String, Value>> {
    let options = json_object("options", text)?;
    for key in options.keys() {
        if PLANNED_OPTIONS.contains(&key.as_str()) {
            return Err(Error::new(Code::Unsupported, format!("option \"{key}\" is not supported yet")));
        }
        if !OPTIONS.contains(&key.as_str()) {
            return Err(unknown_key("option", key, &OPTIONS));
        }
    }
    Ok(options)
}
