//! One integration, as the catalog or a setting gives it: a JSON object with a member a column.
#![forbid(unsafe_code)]

use serde_json::Value;
use uuid::Uuid;

use crate::error::{Code, Error, Result};
use crate::integration::aws_partition::{first_region, partition_of_arn, partition_of_region};
use crate::integration::policy::Grant;
use crate::naming::uri::{Allowed, Location};
use crate::s3::checksum::Algorithm;
use crate::s3::client::{BucketRegion, ObjectSettings};
use crate::s3::credentials::sts_signing_region;
use crate::s3::network::Reach;

/// The region requests to other servers than Amazon's are signed for, where the integration names none.
const DEFAULT_REGION: &str = "us-east-1";

/// Columns of an integration.
pub struct Row(Value);

impl Row {
    pub fn new(value: Value) -> Self {
        Row(value)
    }

    pub fn text(&self, column: &str) -> Option<&str> {
        self.0.get(column).and_then(Value::as_str)
    }

    pub fn owned(&self, column: &str) -> Option<String> {
        self.text(column).map(str::to_owned)
    }

    pub fn boolean(&self, column: &str) -> bool {
        self.0.get(column).and_then(Value::as_bool).unwrap_or(false)
    }

    pub fn id(&self) -> Result<Uuid> {
        let id = self.text("integration_id").and_then(|text| Uuid::parse_str(text).ok());
        id.ok_or_else(|| Error::new(Code::Internal, "an integration has no id"))
    }

    /// `allowed_locations`, as they are written.
    fn entries(&self) -> impl Iterator<Item = &str> {
        let entries = self.0.get("allowed_locations").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        entries.iter().filter_map(Value::as_str)
    }

    /// `allowed_locations`. Errors: 22023.
    pub fn allowed(&self) -> Result<Vec<Allowed>> {
        self.entries().map(Allowed::parse).collect()
    }

    /// Errors: 42501 when it lies in no allowed location; `what` is the integration, for the message.
    pub fn check_location(&self, what: &str, location: &Location) -> Result<()> {
        if self.allowed()?.iter().any(|allowed| allowed.allows(location)) {
            return Ok(());
        }
        let allowed: Vec<&str> = self.entries().collect();
        Err(Error::new(Code::Privilege, format!("{what} does not allow {location}"))
            .detail(format!("It allows: {}.", allowed.join(", "))))
    }

    /// Errors: 42501 for what only a superuser may give, in a row that none owns: the table's policies let no
    /// administrator write such a row, and whoever got past them gains nothing.
    pub fn check_owner(&self, what: &str) -> Result<()> {
        if self.boolean("superuser_owns") {
            return Ok(());
        }
        let plain = |column| self.text(column).is_some_and(|url| !url.starts_with("https://"));
        let why = if self.text("credential_source") != Some("keys") {
            "It uses the server's own credentials, which are a superuser's to give."
        } else if plain("endpoint") || plain("sts_endpoint") {
            "It has a plain-http endpoint, which is a superuser's to give."
        } else {
            return Ok(());
        };
        Err(Error::new(Code::Privilege, format!("{what} must be owned by a superuser")).detail(why))
    }

    /// How far requests to the endpoint in `column` may go. Amazon's own, where none is named, may well have private addresses.
    pub fn reach(&self, column: &str) -> Reach {
        if self.text(column).is_none() || self.boolean("superuser_owns") { Reach::Private } else { Reach::Public }
    }

    /// The region, or where to begin to ask for it. Other servers than Amazon's are not asked.
    pub fn region(&self) -> BucketRegion {
        match (self.text("region"), self.text("endpoint")) {
            (Some(region), _) => BucketRegion::Known(region.to_owned()),
            (None, Some(_)) => BucketRegion::Known(DEFAULT_REGION.to_owned()),
            (None, None) => BucketRegion::AskedFrom(first_region(self.partition()).to_owned()),
        }
    }

    /// The region that STS requests are signed for, where it is not the bucket's.
    pub fn sts_region(&self) -> Option<String> {
        self.text("sts_endpoint").and_then(sts_signing_region)
    }

    fn partition(&self) -> &str {
        let of_role = self.text("aws_role").and_then(partition_of_arn);
        of_role.unwrap_or_else(|| partition_of_region(self.text("region").unwrap_or(DEFAULT_REGION)))
    }

    /// What its policies are made from. Errors: 22023 for a location that is none.
    pub fn grant(&self) -> Result<Grant<'_>> {
        Ok(Grant {
            partition: self.partition(),
            locations: self.allowed()?,
            kms: self.text("sse").is_some_and(|sse| sse.starts_with("aws:kms")),
            kms_key: self.text("kms_key_id"),
            amazon: self.text("endpoint").is_none(),
            role: self.text("aws_role"),
            acl: self.text("object_acl").is_some(),
        })
    }

    pub fn object_settings(&self) -> Result<ObjectSettings> {
        let checksum = self.text("checksum").and_then(Algorithm::from_name);
        Ok(ObjectSettings {
            expected_bucket_owner: self.owned("expected_bucket_owner"),
            sse: self.owned("sse"),
            kms_key_id: self.owned("kms_key_id"),
            storage_class: self.owned("storage_class"),
            acl: self.owned("object_acl"),
            checksum: checksum.ok_or_else(|| Error::new(Code::Internal, "an integration has an unknown checksum algorithm"))?,
        })
    }
}
