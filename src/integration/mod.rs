//! Integrations: named, administrator-made permissions to write to S3.
//!
//! [`authorize`] reads the integration as the caller, so that GRANTs and integration-level security hold by themselves, and opens the
//! sealed secret only after that, with the least code. What changes a integration ([`create`], [`set_credentials`]) writes it as the
//! caller too.
#![forbid(unsafe_code)]

mod catalog;
mod create;
mod credentials;
mod inline;

use std::num::NonZeroU64;
use std::sync::Arc;

use s3_export_core::error::{Code, Error, Result};
use s3_export_core::files::limits::ExportLimits;
use s3_export_core::integration::policy::Grant;
pub use s3_export_core::integration::policy::{Kind, Purpose, principal_of_caller, trust_policy};
use s3_export_core::integration::settings::Settings;
use s3_export_core::integration::{check, session_name};
use s3_export_core::naming::uri::{Allowed, Location};
use s3_export_core::request::{Permission, Request};
use s3_export_core::s3::client::{BucketRegion, Connection};
use s3_export_core::s3::credentials::{AssumedRole, Base, Identity};
use s3_export_core::s3::properties::ExportProperties;
use uuid::Uuid;

pub use self::create::{NewIntegration, create};
pub use self::credentials::{reseal, set_credentials, set_credentials_from_file};
use crate::pg::{current_user, current_user_name, has_privileges_of, refuse_if_read_only, role_named};

/// What an export with a permission may write.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// The integration; `None`: a role that the caller names.
    pub integration_id: Option<Uuid>,
    /// Most bytes of all its exports within 24 hours.
    pub max_bytes_per_day: Option<u64>,
}

impl Limits {
    /// The integration and its limit of bytes a day, if it has one.
    pub fn of_day(self) -> Option<(Uuid, u64)> {
        self.integration_id.zip(self.max_bytes_per_day)
    }
}

/// A permission that the current user has.
pub struct Authorized {
    /// How to reach the location.
    pub connection: Connection,
    /// What may be written.
    pub limits: Limits,
    /// What each export may write.
    pub of_export: ExportLimits,
}

/// How to reach `location` by that permission, if the current user has it. `properties`: of the objects that will be written. Errors:
/// 42704 when there is no such integration or the user does not see it, 42501 when it does not allow the location, 55000 when it is disabled or lacks credentials.
pub fn authorize(
    permission: &Permission,
    location: &Location,
    purpose: Purpose,
    properties: &ExportProperties,
) -> Result<Authorized> {
    match permission {
        Permission::Integration(name) => {
            let integration = visible(name)?;
            if !integration.enabled {
                return Err(Error::new(Code::NotReady, format!("integration \"{name}\" is disabled")));
            }
            let what = format!("integration \"{name}\"");
            integration.check_owner(&what)?;
            integration.check_location(&what, location)?;
            let (base, external_id) = credentials::open(name, &integration)?;
            let limits =
                Limits { integration_id: integration.integration_id, max_bytes_per_day: integration.max_bytes_per_day };
            let connection = connection(&integration, &what, base, external_id, purpose, properties)?;
            Ok(Authorized { connection, limits, of_export: of_export(&integration, what) })
        }
        Permission::Role { aws_role, aws_external_id } => {
            check_inline_privilege()?;
            let integration = inline::allowed(aws_role, location)?;
            let base = credentials::of_the_server(&integration)?;
            let what = format!("role {aws_role}");
            let connection = connection(&integration, &what, base, Some(aws_external_id.clone()), purpose, properties)?;
            Ok(Authorized { connection, limits: Limits::default(), of_export: of_export(&integration, what) })
        }
    }
}

fn of_export(integration: &Settings, setter: String) -> ExportLimits {
    ExportLimits {
        setter,
        documents: integration.max_documents.map(NonZeroU64::get),
        bytes: integration.max_bytes.map(NonZeroU64::get),
        of_day: None,
    }
}

/// Errors: 42501 for a role that may not execute `s3_export_with_role`, and so may not name a role in a statement either; and for
/// one that is no member of `s3_export_member`: a privilege on all functions, given without a thought, does not suffice.
pub fn check_inline_privilege() -> Result<()> {
    let denied = Error::new(Code::Privilege, "permission denied for function s3_export_with_role");
    if !catalog::may_name_roles()? {
        return Err(denied.detail("A statement with CREDENTIALS needs the privilege of that function."));
    }
    if !role_named(c"s3_export_member").is_some_and(has_privileges_of) {
        return Err(denied.detail("A caller who names a role needs the privileges of s3_export_member too."));
    }
    Ok(())
}

/// Returns the locations to which the integration may write. Errors: 42704.
pub fn allowed_locations(name: &str) -> Result<Vec<Allowed>> {
    visible(name)?.allowed()
}

/// The least policy that the integration's identity, or its role, needs. Errors: 42704.
pub fn iam_policy(name: &str, kind: Kind) -> Result<String> {
    let integration = visible(name)?;
    let grant = integration.grant()?;
    if kind == Kind::Base && grant.role.is_none() {
        return Err(no_role(name));
    }
    Ok(grant.iam_policy(kind))
}

/// Returns the least policy that the export which is asked for needs. Errors: as of [`authorize`].
pub fn policy_of(request: &Request) -> Result<String> {
    let integration = match &request.permission {
        Permission::Integration(name) => visible(name)?,
        Permission::Role { aws_role, .. } => inline::allowed(aws_role, &request.location)?,
    };
    let kind = if request.run_key.is_some() { Kind::RunKey } else { Kind::Export };
    let grant = integration.grant()?;
    let tags = grant.tags || !request.properties.tags.is_empty();
    Ok(Grant { tags, looks: request.looks(), own_names: request.has_own_objects(), ..grant }.iam_policy(kind))
}

/// Input of the trust policy of an integration's role.
pub struct Trusted {
    /// External id that the trust policy demands.
    pub external_id: Option<String>,
    /// Who asks STS for the role.
    pub identity: Identity,
    /// Region in which STS is asked, of the bucket's partition.
    pub region: String,
}

/// Reads them. Errors: 42704 for who does not own it, 55000 for an integration without a role.
pub fn trusted(name: &str) -> Result<Trusted> {
    let external_id = catalog::external_id(name)?.ok_or_else(|| unknown(name))?;
    let integration = visible(name)?;
    let what = format!("integration \"{name}\"");
    integration.check_owner(&what)?;
    if integration.aws_role.as_deref().is_none() {
        return Err(no_role(name));
    }
    let (base, _) = credentials::open(name, &integration)?;
    let connection = connection(&integration, &what, base, external_id.clone(), Purpose::Export, &ExportProperties::default())?;
    let (BucketRegion::Known(region) | BucketRegion::AskedFrom(region)) = connection.region;
    Ok(Trusted { external_id, identity: Arc::unwrap_or_clone(connection.identity), region })
}

/// Gives integrations back to a role that was renamed, whose privileges the current user has; gives how many. The integration's OID is still
/// the role's. Where another role has the old name by now, a superuser has to say whose the integration is: after a restore with triggers
/// switched off, the OID may be that of a stranger.
pub fn reclaim() -> Result<u64> {
    refuse_if_read_only(c"s3_export.reclaim_integrations()");
    catalog::reclaim(current_user())
}

fn no_role(name: &str) -> Error {
    Error::new(Code::NotReady, format!("integration \"{name}\" assumes no role")).hint(
        "Set aws_role and aws_external_id of the integration, or see s3_export.iam_policy for what its own identity needs.",
    )
}

fn connection(
    integration: &Settings,
    what: &str,
    base: Base,
    external_id: Option<String>,
    purpose: Purpose,
    properties: &ExportProperties,
) -> Result<Connection> {
    check::requests_can_carry(integration, what)?;
    let object = match purpose {
        Purpose::Export | Purpose::ExportAfterALook => integration.object_settings(properties.clone())?,
        // What writes no object needs no tags: they may be such as S3 refuses.
        Purpose::CleanUp | Purpose::Verify => {
            Settings { tags: None, ..integration.clone() }.object_settings(ExportProperties::default())?
        }
    };
    let has_tags = !object.all_tags().is_empty();
    let role = match integration.aws_role.as_deref() {
        Some(arn) => Some(assumed_role(integration, what, arn, external_id, (purpose, has_tags))?),
        None => None,
    };
    Ok(Connection {
        region: integration.region(),
        endpoint: integration.endpoint.clone(),
        amazon: integration.amazon_endpoints(),
        path_style: integration.path_style,
        reach: integration.reach(integration.endpoint.as_deref()),
        identity: Arc::new(Identity { base, role, amazon: integration.amazon_endpoints() }),
        object,
    })
}

fn assumed_role(
    integration: &Settings,
    what: &str,
    arn: &str,
    external_id: Option<String>,
    (purpose, has_tags): (Purpose, bool),
) -> Result<AssumedRole> {
    let endpoint = integration.sts_endpoint.clone();
    if endpoint.is_none() && integration.endpoint.is_some() {
        // Amazon's STS cannot know a role of somebody else's, and is not told of it.
        return Err(Error::new(Code::NotReady, format!("{what} has an endpoint and a role, and no sts_endpoint"))
            .hint("Set sts_endpoint; many servers answer STS requests at the same address as S3's."));
    }
    Ok(AssumedRole {
        arn: arn.to_owned(),
        external_id,
        session_name: session_name::session_name(&current_user_name()),
        session_policy: Grant { tags: has_tags, ..integration.grant()? }.session_policy(purpose)?,
        endpoint,
        region: integration.sts_region(),
        reach: integration.reach(integration.sts_endpoint.as_deref()),
    })
}

/// The integration, if the current user sees it.
fn visible(name: &str) -> Result<Settings> {
    catalog::visible_integration(name)?.ok_or_else(|| unknown(name))
}

/// One message for both, so that nobody learns of integrations that he may not use.
fn unknown(name: &str) -> Error {
    Error::new(Code::Undefined, format!("integration \"{name}\" does not exist or may not be used by this role"))
        .hint("SELECT name FROM s3_export.integrations lists those that the current role may use.")
}
