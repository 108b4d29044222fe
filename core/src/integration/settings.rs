//! The settings of one integration, as the catalog or `s3_export.inline_roles` gives them.
//!
//! A column that is missing, unknown or of another type is an error, so that a misspelt name can never be read as a permission.
#![forbid(unsafe_code)]

use std::num::NonZeroU64;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::error::{Code, Error, Result};
use crate::integration::aws_partition::{first_region, partition_of_arn, partition_of_region};
use crate::integration::policy::Grant;
use crate::naming::uri::{Allowed, Location};
use crate::s3::checksum::Algorithm;
use crate::s3::client::{AmazonEndpoints, BucketRegion, ObjectSettings};
use crate::s3::credentials::sts_signing_region;
use crate::s3::network::Reach;
use crate::s3::properties::{ExportProperties, ObjectLock, Texts, encryption_context, united_tags};

/// The region requests to other servers than Amazon's are signed for, where the integration names none.
const DEFAULT_REGION: &str = "us-east-1";

/// The columns of an integration that members may see, and whether a superuser owns it: the members of [`Settings`].
pub const COLUMNS: &[&str] = &[
    "integration_id",
    "enabled",
    "credential_source",
    "aws_profile",
    "aws_role",
    "sts_endpoint",
    "region",
    "endpoint",
    "path_style",
    "allowed_locations",
    "expected_bucket_owner",
    "sse",
    "kms_key_id",
    "storage_class",
    "object_acl",
    "checksum",
    "max_documents",
    "max_bytes",
    "tags",
    "object_lock_mode",
    "object_lock_days",
    "kms_encryption_context",
    "bucket_key",
    "requester_pays",
    "max_bytes_per_day",
    "fips",
    "dual_stack",
    "superuser_owns",
];

/// A column among [`COLUMNS`] that the catalog of an earlier release lacks, until ALTER EXTENSION UPDATE.
pub struct LaterColumn {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: &'static str,
    /// Its value where it is lacking, as SQL.
    pub lacking: &'static str,
}

/// All of them: an integration is read and made with them where the catalog has them, and as ever where it has not.
pub const LATER_COLUMNS: &[LaterColumn] = &[
    LaterColumn { name: "tags", kind: "jsonb", lacking: "NULL" },
    LaterColumn { name: "object_lock_mode", kind: "text", lacking: "NULL" },
    LaterColumn { name: "object_lock_days", kind: "integer", lacking: "NULL" },
    LaterColumn { name: "kms_encryption_context", kind: "jsonb", lacking: "NULL" },
    LaterColumn { name: "bucket_key", kind: "boolean", lacking: "NULL" },
    LaterColumn { name: "requester_pays", kind: "boolean", lacking: "false" },
    LaterColumn { name: "dual_stack", kind: "boolean", lacking: "false" },
    LaterColumn { name: "fips", kind: "boolean", lacking: "false" },
    LaterColumn { name: "max_documents", kind: "bigint", lacking: "NULL" },
    LaterColumn { name: "max_bytes", kind: "bigint", lacking: "NULL" },
    LaterColumn { name: "max_bytes_per_day", kind: "bigint", lacking: "NULL" },
];

/// Source of the credentials that sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialSource {
    /// Keys that are sealed in the catalog.
    Keys,
    /// The server's own identity.
    Ambient,
    /// A profile of the server's AWS configuration.
    Profile,
}

/// One integration. Each member is the column of its name; docs/integrations.md describes them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Settings {
    /// `None`: a role that the caller names.
    #[serde(deserialize_with = "present")]
    pub integration_id: Option<Uuid>,
    pub enabled: bool,
    pub credential_source: CredentialSource,
    #[serde(deserialize_with = "present")]
    pub aws_profile: Option<String>,
    #[serde(deserialize_with = "present")]
    pub aws_role: Option<String>,
    #[serde(deserialize_with = "present")]
    pub sts_endpoint: Option<String>,
    #[serde(deserialize_with = "present")]
    pub region: Option<String>,
    #[serde(deserialize_with = "present")]
    pub endpoint: Option<String>,
    pub path_style: bool,
    pub allowed_locations: Vec<String>,
    #[serde(deserialize_with = "present")]
    pub expected_bucket_owner: Option<String>,
    #[serde(deserialize_with = "present")]
    pub sse: Option<String>,
    #[serde(deserialize_with = "present")]
    pub kms_key_id: Option<String>,
    #[serde(deserialize_with = "present")]
    pub storage_class: Option<String>,
    #[serde(deserialize_with = "present")]
    pub object_acl: Option<String>,
    pub checksum: Algorithm,
    #[serde(deserialize_with = "present")]
    pub max_documents: Option<NonZeroU64>,
    #[serde(deserialize_with = "present")]
    pub max_bytes: Option<NonZeroU64>,
    #[serde(deserialize_with = "present")]
    pub tags: Option<Texts>,
    #[serde(deserialize_with = "present")]
    pub object_lock_mode: Option<String>,
    #[serde(deserialize_with = "present")]
    pub object_lock_days: Option<u32>,
    #[serde(deserialize_with = "present")]
    pub kms_encryption_context: Option<Texts>,
    #[serde(deserialize_with = "present")]
    pub bucket_key: Option<bool>,
    pub requester_pays: bool,
    #[serde(deserialize_with = "present")]
    pub max_bytes_per_day: Option<u64>,
    pub fips: bool,
    pub dual_stack: bool,
    pub superuser_owns: bool,
}

/// A value that may be null and may not be missing.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> std::result::Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

impl Settings {
    /// The settings of a whole row. Errors: XX000 for a row that has other columns, or other types of values.
    pub fn from_row(row: Value) -> Result<Self> {
        serde_json::from_value(row)
            .map_err(|error| Error::new(Code::Internal, "an integration has unexpected columns").detail(format!("{error}.")))
    }

    /// The settings of an integration with these columns; the columns that are not given have their defaults. Errors: 22023 for a
    /// column that is unknown, or has a value of another type.
    pub fn from_given(given: &Map<String, Value>) -> Result<Self> {
        let mut row: Map<String, Value> = COLUMNS.iter().map(|&column| (column.to_owned(), Value::Null)).collect();
        let defaults = [
            ("enabled", true.into()),
            ("path_style", false.into()),
            ("checksum", "crc32".into()),
            ("requester_pays", false.into()),
            ("fips", false.into()),
            ("dual_stack", false.into()),
            ("superuser_owns", false.into()),
        ];
        let defaults = defaults.map(|(column, value): (&str, Value)| (column.to_owned(), value));
        let given = given.iter().filter(|(_, value)| !value.is_null()).map(|(column, value)| (column.clone(), value.clone()));
        row.extend(defaults.into_iter().chain(given));
        serde_json::from_value(Value::Object(row)).map_err(|error| Error::new(Code::InvalidParameter, error.to_string()))
    }

    /// The columns that requests carry, with their names.
    pub fn sent(&self) -> [(&'static str, Option<&str>); 8] {
        [
            ("region", &self.region),
            ("sse", &self.sse),
            ("kms_key_id", &self.kms_key_id),
            ("expected_bucket_owner", &self.expected_bucket_owner),
            ("storage_class", &self.storage_class),
            ("object_acl", &self.object_acl),
            ("endpoint", &self.endpoint),
            ("sts_endpoint", &self.sts_endpoint),
        ]
        .map(|(column, value)| (column, value.as_deref()))
    }

    /// `allowed_locations`. Errors: 22023.
    pub fn allowed(&self) -> Result<Vec<Allowed>> {
        self.allowed_locations.iter().map(|entry| Allowed::parse(entry)).collect()
    }

    /// Errors: 42501 when it lies in no allowed location; `what` is the integration, for the message.
    pub fn check_location(&self, what: &str, location: &Location) -> Result<()> {
        if self.allowed()?.iter().any(|allowed| allowed.allows(location)) {
            return Ok(());
        }
        Err(Error::new(Code::Privilege, format!("{what} does not allow {location}"))
            .detail(format!("It allows: {}.", self.allowed_locations.join(", "))))
    }

    /// Errors: 42501 for what only a superuser may give, in a row that none owns: the table's policies let no
    /// administrator write such a row, and whoever got past them gains nothing.
    pub fn check_owner(&self, what: &str) -> Result<()> {
        if self.superuser_owns {
            return Ok(());
        }
        let plain = |url: &Option<String>| url.as_ref().is_some_and(|url| !url.starts_with("https://"));
        let why = if self.credential_source != CredentialSource::Keys {
            "It uses the server's own credentials, which are a superuser's to give."
        } else if plain(&self.endpoint) || plain(&self.sts_endpoint) {
            "It has a plain-http endpoint, which is a superuser's to give."
        } else {
            return Ok(());
        };
        Err(Error::new(Code::Privilege, format!("{what} must be owned by a superuser")).detail(why))
    }

    /// How far requests to `endpoint` may go, which is the integration's `endpoint` or `sts_endpoint`. Amazon's own, where none is named,
    /// may well have private addresses.
    pub fn reach(&self, endpoint: Option<&str>) -> Reach {
        if endpoint.is_none() || self.superuser_owns { Reach::Private } else { Reach::Public }
    }

    /// Returns the kind of Amazon's endpoints that requests go to if the integration names no endpoint.
    pub fn amazon_endpoints(&self) -> AmazonEndpoints {
        AmazonEndpoints { fips: self.fips, dual_stack: self.dual_stack }
    }

    /// The region, or where to begin to ask for it. Other servers than Amazon's are not asked.
    pub fn region(&self) -> BucketRegion {
        match (self.region.as_deref(), self.endpoint.as_deref()) {
            (Some(region), _) => BucketRegion::Known(region.to_owned()),
            (None, Some(_)) => BucketRegion::Known(DEFAULT_REGION.to_owned()),
            (None, None) => BucketRegion::AskedFrom(first_region(self.partition()).to_owned()),
        }
    }

    /// The region that STS requests are signed for, where it is not the bucket's.
    pub fn sts_region(&self) -> Option<String> {
        self.sts_endpoint.as_deref().and_then(sts_signing_region)
    }

    fn partition(&self) -> &str {
        let of_role = self.aws_role.as_deref().and_then(partition_of_arn);
        of_role.unwrap_or_else(|| partition_of_region(self.region.as_deref().unwrap_or(DEFAULT_REGION)))
    }

    /// Returns the input of the integration's policies. Errors: 22023 for a location that is none.
    pub fn grant(&self) -> Result<Grant<'_>> {
        Ok(Grant {
            partition: self.partition(),
            locations: self.allowed()?,
            kms: self.sse.as_deref().is_some_and(|sse| sse.starts_with("aws:kms")),
            kms_key: self.kms_key_id.as_deref(),
            amazon: self.endpoint.as_deref().is_none(),
            role: self.aws_role.as_deref(),
            acl: self.object_acl.as_deref().is_some(),
            tags: self.tags.as_ref().is_some_and(|tags| !tags.is_empty()),
            lock: self.object_lock_mode.is_some(),
            looks: false,
            own_names: false,
        })
    }

    /// Returns the settings with which each object of an export with these properties is written; a retention begins now. Errors: 22023
    /// for tags that do not go together.
    pub fn object_settings(&self, of_export: ExportProperties) -> Result<ObjectSettings> {
        let tags = self.tags.clone().unwrap_or_default();
        united_tags(&tags, &of_export.tags)?;
        let lock = self.object_lock_mode.as_deref().zip(self.object_lock_days);
        Ok(ObjectSettings {
            expected_bucket_owner: self.expected_bucket_owner.clone(),
            sse: self.sse.clone(),
            kms_key_id: self.kms_key_id.clone(),
            storage_class: self.storage_class.clone(),
            acl: self.object_acl.clone(),
            checksum: self.checksum,
            tags,
            lock: lock.map(|(mode, days)| ObjectLock::from(mode, days, SystemTime::now())),
            kms_encryption_context: self.kms_encryption_context.as_ref().map(encryption_context),
            bucket_key: self.bucket_key,
            requester_pays: self.requester_pays,
            of_export,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// An integration with these columns.
    pub fn settings(given: Value) -> Settings {
        let Value::Object(mut columns) = given else { unreachable!("{given} is an object") };
        columns.entry("credential_source").or_insert_with(|| json!("keys"));
        columns.entry("allowed_locations").or_insert_with(|| json!(["s3://bucket"]));
        Settings::from_given(&columns).unwrap()
    }

    fn whole_row() -> Map<String, Value> {
        let mut row: Map<String, Value> = COLUMNS.iter().map(|&column| (column.to_owned(), Value::Null)).collect();
        for (column, value) in [
            ("enabled", json!(true)),
            ("credential_source", json!("profile")),
            ("path_style", json!(true)),
            ("allowed_locations", json!(["s3://bucket"])),
            ("checksum", json!("sha256")),
            ("requester_pays", json!(false)),
            ("fips", json!(true)),
            ("dual_stack", json!(false)),
            ("superuser_owns", json!(false)),
        ] {
            row.insert(column.to_owned(), value);
        }
        row
    }

    #[test]
    fn each_column_is_needed_and_no_other_is_taken() {
        let parse = |row: Map<String, Value>| Settings::from_row(Value::Object(row)).map_err(|error| error.code());
        let whole = parse(whole_row()).unwrap();
        assert_eq!(
            (whole.credential_source, whole.checksum, whole.path_style),
            (CredentialSource::Profile, Algorithm::Sha256, true)
        );
        for column in COLUMNS {
            let mut row = whole_row();
            row.remove(*column);
            assert_eq!(parse(row).err(), Some(Code::Internal), "without {column}");
        }
        for (column, value) in [
            ("supperuser_owns", json!(true)),
            ("superuser_owns", json!("true")),
            ("superuser_owns", Value::Null),
            ("allowed_locations", Value::Null),
            ("allowed_locations", json!("s3://")),
            ("checksum", json!("md5")),
            ("credential_source", json!("Keys")),
            ("endpoint", json!(1)),
            ("max_documents", json!(0)),
            ("max_documents", json!("1")),
            ("max_bytes", json!(-1)),
            ("max_bytes", json!(1.5)),
        ] {
            let mut row = whole_row();
            row.insert(column.to_owned(), value.clone());
            assert_eq!(parse(row).err(), Some(Code::Internal), "{column} {value}");
        }
    }
}
