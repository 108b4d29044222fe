//! Storing the secret half of an integration, opening it, and sealing it anew.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use s3_export_core::error::{Code, Error, Result};
use s3_export_core::integration::file;
use s3_export_core::integration::keyring::KeyRing;
use s3_export_core::integration::seal::{Credentials, Place, open as unseal, seal};
use s3_export_core::integration::settings::{CredentialSource, Settings};
use s3_export_core::request::required;
use s3_export_core::s3::credentials::{Base, check_signing};
use s3_export_core::secret::Secret;

use crate::integration::catalog;
use crate::integration::unknown;
use crate::pg::{data_directory, is_superuser, may_read_server_files, refuse_if_read_only, report};
use crate::settings;

/// Returns the credentials of an integration that the caller was found to see, and the external id of its role.
pub fn open(name: &str, integration: &Settings) -> Result<(Base, Option<String>)> {
    let missing = || {
        Error::new(Code::NotReady, format!("integration \"{name}\" has no credentials"))
            .hint("Store credentials with s3_export.set_credentials. A restored database has none.")
    };
    let integration_id = integration.integration_id.ok_or_else(missing)?;
    let hidden = catalog::hidden_half(integration_id)?.ok_or_else(missing)?;
    if integration.credential_source != CredentialSource::Keys {
        return Ok((of_the_server(integration)?, hidden.aws_external_id));
    }
    let place =
        Place { integration_id, endpoint: integration.endpoint.as_deref(), sts_endpoint: integration.sts_endpoint.as_deref() };
    let (Some(access_key_id), Some(sealed)) = (hidden.access_key_id, hidden.sealed) else { return Err(missing()) };
    // A standby or a restored cluster may lack the ring: which key is it to be given?
    let ring =
        key_ring().map_err(|error| error.also(&format!("The credentials were sealed with key \"{}\".", sealed.key_id)))?;
    let Credentials { secret_access_key, session_token } = unseal(&sealed, place, &ring)?;
    // Stored before these were refused.
    let session = session_token.as_ref().map(Secret::expose);
    check_signing(&access_key_id, secret_access_key.expose(), session).map_err(|error| {
        Error::new(Code::Credentials, format!("the credentials of integration \"{name}\" cannot be used"))
            .detail(format!("The {}.", error.message()))
            .hint("Store the credentials anew with s3_export.set_credentials.")
    })?;
    Ok((Base::Keys { access_key_id, secret_access_key, session_token }, hidden.aws_external_id))
}

/// The server's own identity that the integration names. Errors: XX000 for an integration with keys, or a profile without a name.
pub fn of_the_server(integration: &Settings) -> Result<Base> {
    match (integration.credential_source, &integration.aws_profile) {
        (CredentialSource::Ambient, _) => Ok(Base::Ambient),
        (CredentialSource::Profile, Some(profile)) => Ok(Base::Profile(profile.clone())),
        _ => Err(Error::new(Code::Internal, "an integration has an unknown source of credentials")),
    }
}

/// Stores other credentials in an integration that the current user may change. Errors: 22004; 22023 for keys that cannot sign, and
/// for an integration that signs as the server; 42704; 55000.
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
    store(&name, &access_key_id, &Credentials { secret_access_key, session_token })
}

/// Does the same as [`set_credentials`], with the keys in a file on the server. Errors: 42501 without `pg_read_server_files`, 58P01
/// when the file cannot be used.
pub fn set_credentials_from_file(name: Option<String>, path: Option<String>) -> Result<()> {
    refuse_if_read_only(c"s3_export.set_credentials_from_file()");
    let name = required("name", name)?;
    let path = required("path", path)?;
    if !may_read_server_files() {
        return Err(Error::new(Code::Privilege, "permission denied to read credentials from a file")
            .detail("Only roles with the privileges of pg_read_server_files may name files of the server."));
    }
    let (access_key_id, credentials) = file::read(&path)?;
    store(&name, &access_key_id, &credentials)
}

fn store(name: &str, access_key_id: &str, credentials: &Credentials) -> Result<()> {
    let session_token = credentials.session_token.as_ref().map(Secret::expose);
    check_signing(access_key_id, credentials.secret_access_key.expose(), session_token)?;
    let ring = key_ring()?;
    let row = catalog::update_access_key(name, access_key_id)?.ok_or_else(|| unknown(name))?;
    if row.credential_source != CredentialSource::Keys {
        return Err(Error::new(Code::InvalidParameter, format!("integration \"{name}\" takes no keys"))
            .detail("Its credential_source is \"ambient\" or \"profile\": the server's own identity signs its requests.")
            .hint("To use keys, drop the integration and create it with an access_key_id."));
    }
    let place = Place {
        integration_id: row.integration_id,
        endpoint: row.endpoint.as_deref(),
        sts_endpoint: row.sts_endpoint.as_deref(),
    };
    catalog::store_credentials(place.integration_id, &seal(credentials, place, &ring)?)
}

/// Seals everything of this database with the newest key; gives how many rows were sealed anew. What does not open, since its
/// endpoint was changed, is left as it is, with a WARNING. Errors: 42501 for anybody but a superuser, whatever was granted; F0000,
/// naming the key, when the ring lacks one.
pub fn reseal() -> Result<u64> {
    refuse_if_read_only(c"s3_export.reseal()");
    if !is_superuser() {
        return Err(Error::new(Code::Privilege, "permission denied for function reseal")
            .detail("Only a superuser may seal everybody's credentials anew."));
    }
    let ring = key_ring()?;
    let newest = &ring.newest()?.id;
    let mut resealed = 0;
    let stale = catalog::credentials_of_other_keys(newest)?;
    // Before the first is written: without one of the keys, nothing is done by halves.
    let key_ids: HashSet<&str> = stale.iter().map(|row| row.sealed.key_id.as_str()).collect();
    key_ids.into_iter().try_for_each(|id| ring.key(id).map(|_| ()))?;
    for row in &stale {
        let place = Place {
            integration_id: row.integration_id,
            endpoint: row.endpoint.as_deref(),
            sts_endpoint: row.sts_endpoint.as_deref(),
        };
        match unseal(&row.sealed, place, &ring) {
            Ok(credentials) => {
                catalog::store_credentials(row.integration_id, &seal(&credentials, place, &ring)?)?;
                resealed += 1;
            }
            Err(error) => report::warn(
                &Error::new(Code::NotReady, format!("the credentials of integration \"{}\" were left as they are", row.name))
                    .detail(format!("{}.", error.summary().trim_end_matches('.')))
                    .hint("Store the credentials anew with s3_export.set_credentials."),
            ),
        }
    }
    Ok(resealed)
}

/// Only superusers may see the setting, and so what is wrong with the file that it names.
pub fn key_ring() -> Result<KeyRing> {
    KeyRing::load(settings::key_file().as_deref(), &data_directory()).map_err(|error| {
        if is_superuser() || error.code() != Code::Configuration {
            return error;
        }
        report::log_error(&error);
        Error::new(Code::Configuration, "the key file of s3_export cannot be used").hint("The server's log says why.")
    })
}
