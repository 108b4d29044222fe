//! Making an integration.
//!
//! The row is written as the caller; row-level security says whether he may. The secret is sealed before anything is
//! written, so that a missing key file costs nothing.
#![forbid(unsafe_code)]

use s3_export_core::error::unknown_key;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::integration::policy::{Grant, Purpose};
use s3_export_core::integration::seal::{Credentials, Place, seal};
use s3_export_core::integration::settings::Settings;
use s3_export_core::integration::{check, objects};
use s3_export_core::naming::uri::Allowed;
use s3_export_core::request::{json_object, required};
use s3_export_core::s3::credentials::check_signing;
use s3_export_core::secret::Secret;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::integration::catalog;
use crate::integration::credentials::key_ring;
use crate::pg::{is_superuser, refuse_if_read_only};

/// Columns that `options` may set.
const OPTIONS: &[&str] = &[
    "aws_profile",
    "bucket_key",
    "checksum",
    "dual_stack",
    "enabled",
    "expected_bucket_owner",
    "fips",
    "kms_encryption_context",
    "kms_key_id",
    "max_bytes",
    "max_bytes_per_day",
    "max_documents",
    "object_acl",
    "object_lock_days",
    "object_lock_mode",
    "requester_pays",
    "sse",
    "storage_class",
    "sts_endpoint",
    "tags",
];

/// Columns of an integration that say nothing about requests to its store.
const OTHER_COLUMNS: [&str; 4] = ["access_key_id", "aws_external_id", "name", "usage_role"];

/// The arguments of `s3_export.create_integration`: `None` is NULL.
#[derive(Debug, Default)]
pub struct NewIntegration {
    /// Name of the integration.
    pub name: Option<String>,
    /// Public half of the credentials.
    pub access_key_id: Option<String>,
    /// Secret half.
    pub secret_access_key: Option<Secret>,
    /// Session token of temporary credentials.
    pub session_token: Option<Secret>,
    /// ARN of a role to assume.
    pub aws_role: Option<String>,
    /// External id that the role's trust policy demands; made up where there is a role and no id.
    pub aws_external_id: Option<String>,
    /// `keys`, `ambient`, `profile`
    pub credential_source: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// Another server than Amazon's.
    pub endpoint: Option<String>,
    /// The bucket in the path instead of the host name.
    pub path_style: Option<bool>,
    /// Locations to which the integration may write.
    pub allowed_locations: Option<Vec<String>>,
    /// The role whose members may use it.
    pub usage_role: Option<String>,
    /// Further columns, a JSON object.
    pub options: Option<String>,
}

/// Makes an integration; gives its id. Errors: 22004, 22023 for arguments; 42501 when the role may not; 42704 when
/// usage_role does not exist; 42710 when the name is taken; 55000 without a key file.
pub fn create(new: NewIntegration) -> Result<Uuid> {
    refuse_if_read_only(c"s3_export.create_integration()");
    let name = required("name", new.name)?;
    let source = required("credential_source", new.credential_source)?;
    let locations = required("allowed_locations", new.allowed_locations)
        .map_err(|error| error.hint("Name the buckets or prefixes that exports may write to; {s3://} means anywhere."))?;
    check_locations(&locations)?;
    let mut columns = options(&required("options", new.options)?)?;
    check_endpoint("endpoint", new.endpoint.as_deref())?;
    check_endpoint("sts_endpoint", columns.get("sts_endpoint").and_then(Value::as_str))?;
    check_usage_role(new.usage_role.as_deref())?;
    let external_id = external_id(new.aws_role.as_deref(), new.aws_external_id)?;
    let keys = keys(&source, new.access_key_id, new.secret_access_key, new.session_token)?;

    let integration_id = Uuid::new_v4();
    columns.extend(members(json!({
        "integration_id": integration_id.to_string(),
        "name": name,
        "credential_source": source,
        "access_key_id": keys.as_ref().map(|(access_key_id, _)| access_key_id),
        "aws_role": new.aws_role,
        "aws_external_id": external_id,
        "region": new.region,
        "endpoint": new.endpoint,
        "path_style": new.path_style,
        "allowed_locations": locations,
        "usage_role": new.usage_role,
    })));
    check::columns(&columns)?;
    let mut settings = columns.clone();
    settings.retain(|column, _| !OTHER_COLUMNS.contains(&column.as_str()));
    let integration = Settings::from_given(&settings)?;
    objects::check(&integration, &format!("integration \"{name}\""))?;
    if new.aws_role.is_some() {
        // The longest of the integration's session policies: what is too long for STS is told now.
        Grant { tags: true, ..integration.grant()? }.session_policy(Purpose::ExportAfterALook)?;
    }
    let place =
        Place { integration_id, endpoint: integration.endpoint.as_deref(), sts_endpoint: integration.sts_endpoint.as_deref() };
    let sealed = match &keys {
        Some((_, credentials)) => Some(seal(credentials, place, &key_ring()?)?),
        None => None,
    };
    if !catalog::insert_integration(&Value::Object(columns))? {
        return Err(Error::new(Code::Duplicate, format!("integration \"{name}\" already exists")));
    }
    if let Some(sealed) = sealed {
        catalog::store_credentials(integration_id, &sealed)?;
    }
    Ok(integration_id)
}

/// Access key and secret, where the integration has its own.
fn keys(
    source: &str,
    access_key_id: Option<String>,
    secret_access_key: Option<Secret>,
    session_token: Option<Secret>,
) -> Result<Option<(String, Credentials)>> {
    match source {
        "keys" => {
            let access_key_id = required("access_key_id", access_key_id)?;
            let secret_access_key = required("secret_access_key", secret_access_key)?;
            check_signing(&access_key_id, secret_access_key.expose(), session_token.as_ref().map(Secret::expose))?;
            Ok(Some((access_key_id, Credentials { secret_access_key, session_token })))
        }
        "ambient" | "profile" if !is_superuser() => Err(Error::new(
            Code::Privilege,
            format!("only a superuser may make an integration with credential_source \"{source}\""),
        )
        .detail("The integration would use the server's own credentials.")),
        "ambient" | "profile" if access_key_id.is_some() || secret_access_key.is_some() || session_token.is_some() => {
            Err(Error::new(Code::InvalidParameter, format!("credential_source \"{source}\" takes no keys"))
                .hint("Leave out access_key_id, secret_access_key and session_token."))
        }
        "ambient" | "profile" => Ok(None),
        other => Err(unknown_key("credential_source", other, &["keys", "ambient", "profile"])),
    }
}

/// Every role gets an external id: one that its trust policy does not ask for does no harm.
fn external_id(role: Option<&str>, external_id: Option<String>) -> Result<Option<String>> {
    match (role, external_id) {
        (None, Some(_)) => Err(Error::new(Code::InvalidParameter, "aws_external_id needs an aws_role")),
        (None, None) => Ok(None),
        (Some(_), None) => Ok(Some(Uuid::new_v4().to_string())),
        (Some(_), given) => Ok(given),
    }
}

/// The table takes any name, since a restored row may well come before its role; here it would be a slip of the pen.
fn check_usage_role(role: Option<&str>) -> Result<()> {
    match role {
        Some(name) if name != "public" && !catalog::role_exists(name)? => {
            Err(Error::new(Code::Undefined, format!("role \"{name}\" does not exist")))
        }
        _ => Ok(()),
    }
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn check_locations(locations: &[String]) -> Result<()> {
    if locations.is_empty() {
        return Err(Error::new(Code::InvalidParameter, "allowed_locations must not be empty")
            .hint("Name the buckets or prefixes that exports may write to; {s3://} means anywhere."));
    }
    locations.iter().try_for_each(|entry| Allowed::parse(entry).map(|_| ()))
}

/// The table's policies say the same; here it is said in words.
fn check_endpoint(argument: &str, endpoint: Option<&str>) -> Result<()> {
    let Some(endpoint) = endpoint else { return Ok(()) };
    if endpoint.starts_with("https://") {
        Ok(())
    } else if !endpoint.starts_with("http://") {
        Err(Error::new(Code::InvalidParameter, format!("invalid {argument} \"{endpoint}\""))
            .hint("Write it as https://host or https://host:port."))
    } else if is_superuser() {
        Ok(())
    } else {
        Err(Error::new(Code::Privilege, format!("only a superuser may make an integration with a plain-http {argument}"))
            .detail("Documents and signatures would cross the network unencrypted."))
    }
}

fn options(text: &str) -> Result<Map<String, Value>> {
    let options = json_object("options", text)?;
    match options.keys().find(|key| !OPTIONS.contains(&key.as_str())) {
        Some(key) => Err(unknown_key("option", key, OPTIONS)),
        None => Ok(options),
    }
}
