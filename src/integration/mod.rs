//! Integrations: named, administrator-made permissions to write to S3.
//!
//! [`authorize`] reads the row as the caller, so that GRANTs and row-level security hold by themselves, and opens the
//! sealed secret only after that, with the least code. [`create`] and [`set_credentials`] write the row as the caller too.
#![forbid(unsafe_code)]

mod catalog;
mod create;
mod keyring;
mod seal;

use serde_json::Value;
use uuid::Uuid;

pub use self::create::{NewIntegration, create, set_credentials};
use self::keyring::KeyRing;
use self::seal::{Credentials, Place};
use crate::error::{Code, Error, Result};
use crate::pg::{data_directory, is_superuser};
use crate::settings;
use crate::upload::checksum::Algorithm;
use crate::upload::connection::{Connection, ObjectSettings};
use crate::uri::{Allowed, Location};

/// The region requests to other servers than Amazon's are signed for, where the integration names none.
const DEFAULT_REGION: &str = "us-east-1";

/// How to reach `location` by the integration called `name`, if the current user may. Errors: 42704 when there is no such
/// integration or the user does not see it, 42501 when it does not allow the location, 55000 when it is disabled or lacks
/// credentials.
pub fn authorize(name: &str, location: &Location) -> Result<Connection> {
    let row = Row::new(catalog::visible_integration(name)?.ok_or_else(|| unknown(name))?);
    if !row.boolean("enabled") {
        return Err(Error::new(Code::NotReady, format!("integration \"{name}\" is disabled")));
    }
    row.check_source(name)?;
    row.check_location(name, location)?;
    let object = row.object_settings()?;
    let region = row.region(name)?;
    let (access_key_id, credentials) = open_credentials(name, &row)?;
    Ok(Connection {
        region,
        endpoint: row.text("endpoint").map(str::to_owned),
        path_style: row.boolean("path_style"),
        access_key_id,
        secret_access_key: credentials.secret_access_key,
        session_token: credentials.session_token,
        object,
    })
}

fn open_credentials(name: &str, row: &Row) -> Result<(String, Credentials)> {
    let integration_id = row.id()?;
    let (access_key_id, sealed) = catalog::sealed_credentials(integration_id)?.ok_or_else(|| {
        Error::new(Code::NotReady, format!("integration \"{name}\" has no credentials"))
            .hint("Store them with s3_export.set_credentials; a restored database has lost them.")
    })?;
    let place = Place { integration_id, endpoint: row.text("endpoint") };
    Ok((access_key_id, seal::open(&sealed, place, &key_ring()?)?))
}

/// Only superusers may see the setting, and so what is wrong with the file that it names.
fn key_ring() -> Result<KeyRing> {
    KeyRing::load(settings::key_file().as_deref(), &data_directory()).map_err(|error| {
        if is_superuser() || error.code() != Code::Configuration {
            return error;
        }
        error.log();
        Error::new(Code::Configuration, "the key file of s3_export cannot be used").hint("The server's log says why.")
    })
}

/// One message for both, so that nobody learns of integrations that he may not use.
fn unknown(name: &str) -> Error {
    Error::new(Code::Undefined, format!("integration \"{name}\" does not exist or may not be used by this role"))
        .hint("SELECT name FROM s3_export.integrations lists those that the current role may use.")
}

/// A row of the catalog, as JSON.
struct Row(Value);

impl Row {
    fn new(value: Value) -> Self {
        Row(value)
    }

    fn text(&self, column: &str) -> Option<&str> {
        self.0.get(column).and_then(Value::as_str)
    }

    fn boolean(&self, column: &str) -> bool {
        self.0.get(column).and_then(Value::as_bool).unwrap_or(false)
    }

    fn id(&self) -> Result<Uuid> {
        let id = self.text("integration_id").and_then(|text| Uuid::parse_str(text).ok());
        id.ok_or_else(|| Error::new(Code::Internal, "an integration has no id"))
    }

    fn check_source(&self, name: &str) -> Result<()> {
        if self.text("credential_source") != Some("keys") || self.text("aws_role").is_some() {
            return Err(Error::new(
                Code::Unsupported,
                format!("integration \"{name}\" has credentials that are not supported yet"),
            )
            .detail("This release supports access keys only."));
        }
        Ok(())
    }

    fn check_location(&self, name: &str, location: &Location) -> Result<()> {
        let entries = self.0.get("allowed_locations").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for entry in entries.iter().filter_map(Value::as_str) {
            if Allowed::parse(entry)?.allows(location) {
                return Ok(());
            }
        }
        let allowed: Vec<&str> = entries.iter().filter_map(Value::as_str).collect();
        Err(Error::new(Code::Privilege, format!("integration \"{name}\" does not allow {location}"))
            .detail(format!("It allows: {}.", allowed.join(", "))))
    }

    fn region(&self, name: &str) -> Result<String> {
        match (self.text("region"), self.text("endpoint")) {
            (Some(region), _) => Ok(region.to_owned()),
            (None, Some(_)) => Ok(DEFAULT_REGION.to_owned()),
            (None, None) => Err(Error::new(Code::NotReady, format!("integration \"{name}\" has no region"))
                .hint("Set the region of the bucket: UPDATE s3_export.integrations SET region = '…' WHERE name = '…'.")),
        }
    }

    fn object_settings(&self) -> Result<ObjectSettings> {
        let owned = |column: &str| self.text(column).map(str::to_owned);
        let checksum = self.text("checksum").and_then(Algorithm::from_name);
        Ok(ObjectSettings {
            expected_bucket_owner: owned("expected_bucket_owner"),
            sse: owned("sse"),
            kms_key_id: owned("kms_key_id"),
            storage_class: owned("storage_class"),
            acl: owned("object_acl"),
            checksum: checksum.ok_or_else(|| Error::new(Code::Internal, "an integration has an unknown checksum algorithm"))?,
        })
    }
}
