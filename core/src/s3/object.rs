//! Objects and their parts, which requests are about.
#![forbid(unsafe_code)]

use aws_sdk_s3::types::{CompletedPart, StorageClass};
use uuid::Uuid;

use crate::naming::keys::Destination;
use crate::s3::client::ObjectSettings;
use crate::s3::failure::Failure;

/// Most keys that one DeleteObjects request takes.
pub const DELETE_BATCH: usize = 1000;

/// Whether an object holds documents or announces the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Documents; the file's number.
    File(u64),
    /// Always of storage class STANDARD: it is small and read first.
    Manifest,
    /// The manifest under a name of the user's.
    ManifestCopy,
    /// Empty, under a name of the user's; its being there is what it says.
    SuccessMarker,
    /// Written to see whether it can be, and deleted.
    Probe,
}

impl Role {
    /// For messages: "could not …".
    pub fn step(self) -> &'static str {
        match self {
            Role::File(_) => "upload a file",
            Role::Manifest | Role::ManifestCopy => "write the manifest",
            Role::SuccessMarker => "write the success marker",
            Role::Probe => "write the probe",
        }
    }

    /// `None`: the bucket's default.
    pub fn storage_class(self, settings: &ObjectSettings) -> Option<StorageClass> {
        match self {
            Role::File(_) => settings.storage_class.as_deref().map(StorageClass::from),
            // A probe does not live long enough for a class that is paid by the month.
            Role::Manifest | Role::ManifestCopy | Role::SuccessMarker | Role::Probe => None,
        }
    }

    /// `None`: a browser decides. The option is about the only file.
    pub fn content_disposition(self, settings: &ObjectSettings) -> Option<String> {
        match self {
            Role::File(_) => settings.of_export.content_disposition.clone(),
            Role::Manifest | Role::ManifestCopy | Role::SuccessMarker | Role::Probe => None,
        }
    }
}

/// An object that S3 has not acknowledged yet.
#[derive(Debug, Clone)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// Role of the object.
    pub role: Role,
    /// Value of its `Content-Type` header.
    pub content_type: &'static str,
    /// Set where the user made up the key: it is written only if no object has it, and marked, so that it is known again.
    pub claim: Option<Uuid>,
    /// ETag of the object in whose place it comes; it is written only if that object has the key still. Goes with a claim.
    pub replaces: Option<String>,
    /// The export in whose place it comes, for the mark: until that is certain, `cleanup` leaves the files of both.
    pub predecessor: Option<Uuid>,
}

/// Condition of the request that makes an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition<'a> {
    /// No object has the key.
    Absent,
    /// The object with this ETag has the key.
    Unchanged(&'a str),
}

impl Condition<'_> {
    /// Value of the header `If-None-Match`.
    pub fn if_none_match(self) -> Option<String> {
        (self == Condition::Absent).then(|| "*".to_owned())
    }

    /// Value of the header `If-Match`.
    pub fn if_match(self) -> Option<String> {
        match self {
            Condition::Absent => None,
            Condition::Unchanged(etag) => Some(etag.to_owned()),
        }
    }
}

impl Object {
    /// The object of that role. `None`: the export has none.
    pub fn of(destination: &Destination, role: Role) -> Option<Self> {
        let (key, content_type, is_named) = match role {
            Role::File(number) => {
                (destination.file_key(number), destination.file_type().content_type(), destination.has_named_file())
            }
            Role::Manifest => (destination.manifest_key(), "application/json", destination.run_key().is_some()),
            Role::ManifestCopy => (destination.manifest_copy_key()?, "application/json", true),
            Role::SuccessMarker => (destination.success_marker_key()?, "application/octet-stream", true),
            Role::Probe => (destination.probe_key(), "text/plain", false),
        };
        let replaced = destination.replaced().filter(|_| role == Role::Manifest);
        Some(Object {
            key,
            role,
            content_type,
            claim: is_named.then(|| destination.export_id()),
            replaces: replaced.map(|replaced| replaced.etag.clone()),
            predecessor: replaced.map(|replaced| replaced.export_id),
        })
    }

    /// Whether the failure means that the condition does not hold: 404 where the object in whose place it comes is gone.
    pub fn is_refused(&self, failure: &Failure) -> bool {
        match self.condition() {
            None => false,
            Some(Condition::Absent) => failure.status == Some(412),
            Some(Condition::Unchanged(_)) => matches!(failure.status, Some(404 | 412)),
        }
    }

    /// Condition of the request that makes the object; `None`: the key is the export's own.
    pub fn condition(&self) -> Option<Condition<'_>> {
        self.claim.map(|_| self.replaces.as_deref().map_or(Condition::Absent, Condition::Unchanged))
    }
}

/// Name, in an object's metadata, of the export that made it.
pub const EXPORT_ID: &str = "s3-export-id";
/// Name of the metadata that says in the place of which export it came.
pub const PREDECESSOR: &str = "s3-export-replaces";

/// An object to delete.
#[derive(Debug, Clone)]
pub struct Deletion {
    /// Its key.
    pub key: String,
    /// In a versioned bucket, the version; without it only a marker would be set.
    pub version_id: Option<String>,
}

impl Deletion {
    /// Returns the deletion that names no version: in a versioned bucket it sets a marker, which hides the object.
    pub fn marker(&self) -> Self {
        Deletion { key: self.key.clone(), version_id: None }
    }
}

/// A part that S3 acknowledged.
pub type Part = CompletedPart;
